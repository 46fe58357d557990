"""Mapped images that are larger than memory: the disk is asked for them before they are needed.

A page that is touched and not in memory is waited for, and the system reads its neighbours too, as
if they came next: of images in a random order many times what is needed. So it is told that nothing
comes in order, and which pages come next. Bits are the same with advice and without.
"""

import ctypes
import mmap
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from runner.store.arrays import memory_here

AHEAD = 2**25  # bytes of images that are asked for beyond those that are read next
PIECE = 2**17  # bytes of a request; of a larger one a system may read only the beginning


class Ahead:
    """Asks for mapped images before they are read; not for those that half of the memory can hold.

    Args:
        images: [M, C, H, W], on the CPU.
        rows: [N], int64: the images in the order in which they are read.
    """

    def __init__(self, images: Tensor, rows: Tensor) -> None:
        self._images, self._rows, self._asked = images, rows, 0
        self._size = images[:1].nbytes
        self._streams = images.nbytes > memory_here() / 2
        if self._streams:
            _advise("MADV_RANDOM", images.data_ptr(), images.nbytes)

    def reach(self, stop: int) -> None:
        """Ask for the images up to a place in the order, and for some megabytes that follow."""
        rows = self._rows[self._asked : stop + AHEAD // self._size]
        if self._streams and len(rows):
            self._asked += len(rows)
            for first, last in requests(rows, self._size):
                _advise("MADV_WILLNEED", self._images.data_ptr() + first, last - first)


def requests(rows: Tensor, size: int) -> Iterator[tuple[int, int]]:
    """Iterate over the bytes, from and up to, of images of a size; neighbours go together."""
    numbers = np.unique(rows.numpy())
    gaps = np.flatnonzero(np.diff(numbers) > 1)
    firsts, lasts = numbers[np.append(0, gaps + 1)], numbers[np.append(gaps, -1)]
    for first, last in zip((firsts * size).tolist(), (lasts * size + size).tolist(), strict=True):
        for start in range(first, last, PIECE):
            yield start, min(start + PIECE, last)


def _advise(name: str, address: int, size: int) -> None:
    """Give the system advice on memory, which it may follow; not where it takes none."""
    if (advice := getattr(mmap, name, None)) is not None:
        start = address // mmap.PAGESIZE * mmap.PAGESIZE
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(address + size - start), advice)


@cache
def _libc() -> Any:  # noqa: ANN401
    return ctypes.CDLL(None)
