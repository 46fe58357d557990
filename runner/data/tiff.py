"""TIFF files by tifffile: of 16 bits, and of any number of bands, which Pillow does not read."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runner.errors import UserError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MINISWHITE, MINISBLACK, RGB = 0, 1, 2  # TIFF 6.0, PhotometricInterpretation
ORIENTATION, UNASSOCIATED_ALPHA = 274, 2
OF_MAKERS: dict[str, Any] = dict.fromkeys(("is_lsm", "is_ndpi", "is_scanimage", "is_ome"), False)
"""Formats of microscopes, for which tifffile would read more than the first page."""


class Unreadable(Exception):
    """An image file cannot be read; the message says why, in a few words."""


class Look(NamedTuple):
    """The shape of an image as it will be read, upright."""

    height: int
    width: int
    bands: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height} pixels of {self.bands} band{'s' * (self.bands > 1)}"


Opened = tuple[Look, Callable[[], NDArray[Any]], int]
"""Its look, what loads [H, W, bands], and the orientation that is still to be applied."""


def is_tiff(path: Path) -> bool:
    """Return whether a file begins as a TIFF, whatever it is called."""
    with open(path, "rb") as file:
        return file.read(4) in MAGIC


@contextmanager
def opened(path: Path, bits: int, every: bool) -> Iterator[Opened | None]:
    """Open a TIFF file; None for one that Pillow reads as well, as of a palette.

    Args:
        path: The file.
        bits: That are kept of a pixel.
        every: Whether every band is kept; else grey or RGB.

    Raises:
        Unreadable: If it has other numbers than of 8 or 16 bits, other bands than are kept, or
            more pixels than Pillow would read.
        UserError: If tifffile is not installed.
    """
    try:
        import tifffile  # an extra
    except ImportError as error:
        asked = "data.bands=all" if every else "data.bits=16"
        raise UserError(
            f"{asked} reads TIFF files by tifffile, which is not installed. "
            "Run pip install 'biscuits-bench[tiff]'."
        ) from error
    with tifffile.TiffFile(os.fspath(path), **OF_MAKERS) as file:
        page = file.pages.first
        if _is_for_pillow(page):
            yield None
            return
        _refuse(page, bits)
        if every:
            _refuse_bands_in_pages(file)
        kept = _kept(page, every)
        tag = page.tags.get(ORIENTATION)
        orientation = tag.value if tag and tag.value in range(1, 9) else 1
        sides = (page.imagelength, page.imagewidth)
        look = Look(*(sides[::-1] if orientation > 4 else sides), kept)
        yield look, lambda: _load(page, kept), orientation


def _is_for_pillow(page: Any) -> bool:  # noqa: ANN401
    """Return whether its colours are coded, in 8 bits or less: by a palette, as in JPEG, as ink."""
    plain = page.photometric in (MINISWHITE, MINISBLACK, RGB)
    return page.bitspersample < 8 or (page.bitspersample == 8 and not plain)


def _refuse(page: Any, bits: int) -> None:  # noqa: ANN401
    kind, most = np.dtype(page.dtype or np.void).kind, Image.MAX_IMAGE_PIXELS or 2**30
    tile = page.tilewidth * page.tilelength if page.is_tiled else 0
    pixels = max(page.imagewidth * page.imagelength, tile)
    if kind == "f":
        raise Unreadable("numbers with a fraction: scale them to integers of 8 or 16 bits")
    if kind != "u" or page.bitspersample not in (8, 16):
        signed = "signed " if kind == "i" else ""
        raise Unreadable(f"{signed}numbers of {page.bitspersample} bits")
    if page.bitspersample > bits:
        raise Unreadable("more than 8 bits per channel")
    if page.photometric not in (MINISWHITE, MINISBLACK, RGB) or page.imagedepth > 1:
        raise Unreadable("neither grey levels nor RGB: convert it")
    if pixels > 2 * most or pixels * page.samplesperpixel > 8 * most:  # as Pillow, of 4 bands
        raise Unreadable(f"{pixels:,} pixels of {page.samplesperpixel} bands, too many")


def _refuse_bands_in_pages(file: Any) -> None:  # noqa: ANN401
    """Refuse pages alike, as tifffile writes [bands, H, W] unasked: the first alone is no image."""
    first = file.pages.first
    alike = sum(1 for page in file.pages if page.shape == first.shape)
    if alike > 1:
        raise Unreadable(f"{alike} pages of one size: write the bands into one page")


def _kept(page: Any, every: bool) -> int:  # noqa: ANN401
    """Return how many of the bands are kept: all; or 1 or 3, where the rest is transparency."""
    bands: int = page.samplesperpixel
    if every or bands == 1:
        return bands
    colours = 3 if page.photometric == RGB else 1
    clear = bands == colours + 1 and tuple(page.extrasamples) == (UNASSOCIATED_ALPHA,)
    if bands != colours and not clear:
        raise Unreadable(f"a TIFF of {bands} bands")
    return 3


def _load(page: Any, kept: int) -> NDArray[Any]:  # noqa: ANN401
    stored = page.asarray(maxworkers=1).reshape(page.shaped)  # [planes, depth, H, W, samples]
    pixels = stored[:, 0].transpose(1, 2, 0, 3).reshape(*stored.shape[2:4], -1)
    if page.photometric == MINISWHITE:
        pixels = ~pixels
    if kept == 3 and pixels.shape[2] < 3:  # grey with transparency, as Pillow reads it
        pixels = pixels[..., :1].repeat(3, axis=2)
    native: NDArray[Any] = pixels[..., :kept].astype(pixels.dtype.newbyteorder("="))
    return native
