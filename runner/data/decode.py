"""Image files into one array, by threads; what cannot be read is named, all of it at once."""

import os
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from runner.errors import UserError

LISTED = 10  # broken pictures named in a message; the rest is counted


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
        UserError: If some cannot be read, or they differ in size and none is given.
    """
    images, sizes = np.empty((0, 3, 0, 0), np.uint8), dict[tuple[int, ...], str]()
    grey, broken = True, list[str]()
    with ThreadPool(os.cpu_count()) as pool:
        results = pool.imap(lambda path: _read(root / path, size), paths, chunksize=16)
        shown = tqdm(results, total=len(paths), disable=None, unit="image")  # on a terminal
        for index, (path, result) in enumerate(zip(paths, shown, strict=True)):
            if isinstance(result, str):
                broken.append(f"{path} ({result})")
                continue
            height, width, _ = result.pixels.shape
            if not sizes:
                images = np.empty((len(paths), 3, height, width), np.uint8)
            sizes.setdefault((height, width), path)
            if len(sizes) == 1:
                images[index] = result.pixels.transpose(2, 0, 1)
            grey = grey and result.grey
    _refuse_broken(root, broken)
    _refuse_different(sizes)
    return images[:, :1].copy() if grey else images


def _read(path: Path, size: int | None) -> Decoded | str:
    """Decode one image, or say why it cannot be."""
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
        return " ".join(str(error).split()) or type(error).__name__


def _refuse_broken(root: Path, broken: list[str]) -> None:
    if broken:
        more = f" and {len(broken) - LISTED} more" if len(broken) > LISTED else ""
        raise UserError(
            f"Each image in {root} must be readable, got {len(broken)} that cannot be read: "
            f"{', '.join(broken[:LISTED])}{more}. Mend or remove them."
        )


def _refuse_different(sizes: dict[tuple[int, ...], str]) -> None:
    if len(sizes) > 1:
        one, other = list(sizes.items())[:2]
        told = " and ".join(f"{path} of {w} x {h}" for (h, w), path in (one, other))
        raise UserError(
            f"data.size must be given where images differ in size, got {told}. "
            f"Set data.size={min(one[0])} to resize them all."
        )
