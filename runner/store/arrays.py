"""One array of an .npz archive, checked and without pickle; and the memory that there is."""

import os
import zipfile
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.cores import cgroups


def read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read an array of an .npz file to the end, where its checksum is compared; unpickle nothing.

    Numpy's own reader stops where the array's header says, be it damaged.

    Raises:
        Exception: Of many kinds, if it is not there or damaged.
    """
    with archive.open(f"{name}.npy") as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise ValueError(f"{name} holds more than its shape {list(array.shape)}")
    return array


def memory_here() -> int:
    """Return the bytes of memory that this machine has, or fewer that the container may use."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in cgroups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max": no limit
                limits.append(int((folder / name).read_text()))
    return min(limits)
