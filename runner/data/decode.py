"""Image files into one array, by threads; all files that cannot be read are named at once."""

import logging
import os
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from runner.errors import UserError
from runner.texts import listed, reason, short

CHUNK = 16  # images that a thread decodes at a time

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What a file is read as, whatever its suffix. Pillow decodes these by itself; for others, such as
PostScript, it would start programs on them."""


@dataclass(frozen=True)
class Reading:
    """How image files become pixels.

    Fields:
        size: Side, or height and width, to resize to, in pixels; None: as they are.
        resize: `stretch` to the size; `pad`: fit within it, with a black border; `crop`: fill it,
            and cut off what goes beyond, to the centre.
        bits: Of a pixel, 8 or 16.
        bands: `auto`: grey or RGB; `all`: every band is a channel.
    """

    size: int | tuple[int, int] | None = None
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    bits: Literal[8, 16] = 8
    bands: Literal["auto", "all"] = "auto"


Decoded = tuple[NDArray[np.uint8], bool]
"""The pixels of an image, [H, W, 3], and whether it is grey."""


def decode(root: Path, paths: Sequence[str], size: int | None) -> NDArray[np.uint8]:
    """Return the images [N, C, H, W]: grey (C = 1) if all of them are, else RGB.

    Raises:
        UserError: If some cannot be read, they differ in size and no size is given, or they do not
            fit into memory.
    """
    images = None if size is None else _allocate(len(paths), size, size)
    sizes, grey, broken = dict[tuple[int, ...], str](), True, list[str]()
    with _silence(), closing(_read_all(root, paths, size)) as results:
        progress = tqdm(results, total=len(paths), disable=None, unit="image")  # on a terminal
        for index, (path, result) in enumerate(zip(paths, progress, strict=True)):
            if isinstance(result, str):
                broken.append(f"{short(path)} ({result})")
                continue
            pixels, is_grey = result
            if images is None:
                images = _allocate(len(paths), *pixels.shape[:2])
            sizes.setdefault(pixels.shape[:2], path)
            if len(sizes) == 1:
                images[index] = pixels.transpose(2, 0, 1)
            grey = grey and is_grey
    if broken:
        raise UserError(
            f"data.root: cannot read {len(broken):,} of {len(paths):,} images in {short(root)}: "
            f"{listed(broken)}. Repair, convert or remove them. Read are {', '.join(FORMATS)}, "
            "grey or in colour, of 8 bits; data=npz takes arrays, also with 4 channels."
        )
    if len(sizes) > 1:
        one, other = (f"{short(path)} is {w} x {h}" for (h, w), path in list(sizes.items())[:2])
        raise UserError(
            f"data.size is needed because the images differ in size: {one}, {other} pixels. "
            f"Set data.size={min(next(iter(sizes)))} to resize them all."
        )
    assert images is not None
    return images[:, :1].copy() if grey else images


def decode_one(path: Path, reading: Reading, channels: int = 3) -> NDArray[Any] | str:
    """Return the pixels of an image file, [channels, H, W], or why it cannot be read.

    Args:
        path: The file.
        reading: How the others were read.
        channels: Of the others; 1: a coloured image becomes grey.
    """
    assert isinstance(reading.size, int | None)
    with _silence():
        result = _read(path, reading.size)
    return result if isinstance(result, str) else result[0].transpose(2, 0, 1)[:channels]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep back what Pillow warns and logs of, which names no file."""
    logger = logging.getLogger("PIL")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(before)


def _allocate(count: int, height: int, width: int) -> NDArray[np.uint8]:
    try:
        return np.empty((count, 3, height, width), np.uint8)
    except (MemoryError, ValueError) as error:  # the latter for sizes beyond 64 bits
        raise UserError(
            f"data.size: {count:,} images of {width} x {height} pixels do not fit into memory: "
            f"{reason(error)}. Set a smaller data.size."
        ) from error


def _read_all(root: Path, paths: Sequence[str], size: int | None) -> Generator[Decoded | str]:
    """Decode by threads, in order; closed early, it waits only for the chunks being decoded."""

    def read(start: int) -> list[Decoded | str]:
        return [_read(root / path, size) for path in paths[start : start + CHUNK]]

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from chain.from_iterable(pool.map(read, range(0, len(paths), CHUNK)))
    finally:
        pool.shutdown(cancel_futures=True)


def _read(path: Path, size: int | None) -> Decoded | str:
    """Decode one image, or return why it cannot be read."""
    if not os.path.isfile(path):  # opening a pipe would block
        return "not a file" if os.path.exists(path) else "a broken link, or deleted"
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                return "more than 8 bits per channel"  # Pillow would clip them
            bands = getattr(image, "tag_v2", {}).get(ExifTags.Base.SamplesPerPixel, 0)
            if bands > len(image.getbands()):
                return f"a TIFF of {bands} bands"  # Pillow would leave some out
            pixels = image.convert("RGB")
        if size is not None:
            pixels = pixels.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(pixels), image.mode in ("1", "L")
    except UnidentifiedImageError:
        return "not a readable image"
    except Exception as error:  # decoders raise many types for damaged files
        return reason(error)
