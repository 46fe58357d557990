"""Image files into one array, by threads; what cannot be read is named, all of it at once."""

import os
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from runner.errors import UserError
from runner.texts import listed, reason, tell

A_THREAD = 16  # images given to a thread at once


class Decoded(NamedTuple):
    """One image."""

    pixels: NDArray[np.uint8]
    """[H, W, 3]."""
    grey: bool


def decode(root: Path, paths: Sequence[str], size: int | None) -> NDArray[np.uint8]:
    """Give back the images [N, C, H, W]: grey (C = 1) if all are, else RGB.

    Args:
        root: The folder.
        paths: The files, below the root; at least one.
        size: Side to which to resize them, in pixels; None for their own.

    Raises:
        UserError: If some cannot be read, they differ in size and none is given, or memory cannot
            hold them.
    """
    images = None if size is None else _room(len(paths), size, size)
    sizes, grey, broken = dict[tuple[int, ...], str](), True, list[str]()
    with warnings.catch_warnings(), closing(_read_all(root, paths, size)) as results:
        warnings.simplefilter("ignore")  # Pillow's, of odd tags and large images, name no file
        shown = tqdm(results, total=len(paths), disable=None, unit="image")  # on a terminal
        for index, (path, result) in enumerate(zip(paths, shown, strict=True)):
            if isinstance(result, str):
                broken.append(f"{tell(path)} ({result})")
                continue
            height, width, _ = result.pixels.shape
            if images is None:
                images = _room(len(paths), height, width)
            sizes.setdefault((height, width), path)
            if len(sizes) == 1:
                images[index] = result.pixels.transpose(2, 0, 1)
            grey = grey and result.grey
    _refuse_broken(root, broken)
    _refuse_different(sizes)
    assert images is not None
    return images[:, :1].copy() if grey else images


def _room(count: int, height: int, width: int) -> NDArray[np.uint8]:
    try:
        return np.empty((count, 3, height, width), np.uint8)
    except (MemoryError, ValueError) as error:  # the latter beyond what numpy can count
        raise UserError(
            f"data.size must be such that {count:,} images fit into memory, got {width} x {height} "
            f"pixels: {reason(error)}. Set data.size to less."
        ) from error


def _read_all(
    root: Path, paths: Sequence[str], size: int | None
) -> Generator[Decoded | str, None, None]:
    """Decode by threads, in order; who stops early waits for what they have in hand alone."""

    def read(start: int) -> list[Decoded | str]:
        return [_read(root / path, size) for path in paths[start : start + A_THREAD]]

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from chain.from_iterable(pool.map(read, range(0, len(paths), A_THREAD)))
    finally:
        pool.shutdown(cancel_futures=True)


def _read(path: Path, size: int | None) -> Decoded | str:
    """Decode one image, or say why it cannot be."""
    if not os.path.isfile(path):  # a pipe would be waited for
        return "not a file" if os.path.exists(path) else "a link to nothing, or gone"
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                return "more than 8 bits a channel"  # Pillow would cut them off at white
            pixels = image.convert("RGB")
        if size is not None:
            pixels = pixels.resize((size, size), Image.Resampling.BILINEAR)
        return Decoded(np.asarray(pixels), image.mode in ("1", "L"))
    except UnidentifiedImageError:
        return "not an image"
    except Exception as error:  # a decoder meets damage with errors of any kind
        return reason(error)


def _refuse_broken(root: Path, broken: list[str]) -> None:
    if broken:
        raise UserError(
            f"Each image in {tell(root)} must be readable, got {len(broken)} that cannot be read: "
            f"{listed(broken)}. Mend or remove them."
        )


def _refuse_different(sizes: dict[tuple[int, ...], str]) -> None:
    if len(sizes) > 1:
        one, other = list(sizes.items())[:2]
        told = " and ".join(f"{tell(path)} of {w} x {h}" for (h, w), path in (one, other))
        raise UserError(
            f"data.size must be given where images differ in size, got {told}. "
            f"Set data.size={min(one[0])} to resize them all."
        )
