"""An image file into an array of pixels: by its header, and by its pixels.

Pillow reads the files; those of 16 bits that it would cut, torchvision (PNG) and tifffile (TIFF).
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from pydantic import Field

from runner.data import tiff
from runner.data.geometry import Pixels, Resize, resize, turn
from runner.data.tiff import Look, Unreadable
from runner.errors import UserError
from runner.texts import reason

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What a file is read as, whatever its suffix. Pillow decodes these by itself; for others, such as
PostScript, it would start programs on them."""

BANDS = {"1": 1, "L": 1, "LA": 2, "PA": 4, "RGBA": 4}
"""How many bands are kept of Pillow's modes by bands=all; of the others, which are colours, 3."""

DEEP = {"I;16B": 1, "LA;16B": 2, "RGB;16B": 3, "RGBA;16B": 4}
"""The bands of a PNG of 16 bits, by the name that Pillow has for how it is packed."""


Side = Annotated[int, Field(ge=1)]  # pixels
Size = Side | tuple[Side, Side]
Bits = Literal[8, 16]
Bands = Literal["auto", "all"]


@dataclass(frozen=True)
class Reading:
    """How image files become pixels.

    Fields:
        size: Side, or height and width, to resize to, in pixels; None: as they are.
        resize: `stretch` to the size; `pad`: fit within it, with a black border; `crop`: fill it,
            and cut off what goes beyond, evenly on both sides. Bilinear and antialiased.
        bits: Of a pixel, 8 or 16. With 16, an image of 8 bits is scaled: 255 becomes 65535.
        bands: `auto`: grey or RGB; `all`: every band is a channel.

    Raises:
        UserError: If images are to be padded or cropped, and to no size.
    """

    size: Size | None = None
    resize: Resize = "stretch"
    bits: Bits = 8
    bands: Bands = "auto"

    def __post_init__(self) -> None:
        if self.size is None and self.resize != "stretch":
            raise UserError(
                f"data.resize={self.resize} needs a size. Set data.size to a side in pixels, or to "
                "'[HEIGHT,WIDTH]'."
            )

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width to resize to."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class _Image(NamedTuple):
    """An image file that is open."""

    look: Look
    load: Callable[[], Pixels]
    """Its pixels, as they are stored: not yet turned upright."""
    orientation: int = 1
    """EXIF's, 1 to 8."""


def look_at(path: Path, reading: Reading) -> Look | str:
    """Return what the header of an image file says, or why it cannot be read.

    Raises:
        UserError: If a package is missing that reads it.
    """
    try:
        with _open(path, reading) as image:
            return image.look
    except UserError:
        raise
    except Exception as error:  # decoders raise many types for damaged files
        return _why(error, path)


def read_pixels(path: Path, reading: Reading) -> Pixels | str:
    """Return the pixels of an image file, upright and resized, or why it cannot be read."""
    try:
        with _open(path, reading) as image:
            pixels = turn(image.load(), image.orientation)
            found = Look(*pixels.shape)
            if found != image.look:  # as where the orientation of a PNG comes after its pixels
                return f"{found} in fact, and {image.look} by its header"
        if reading.sides:
            pixels = resize(pixels, *reading.sides, reading.resize)
        return pixels * np.uint16(257) if reading.bits > 8 * pixels.itemsize else pixels
    except UserError:
        raise
    except Exception as error:
        return _why(error, path)


def decode_one(path: Path, reading: Reading, channels: int = 3) -> Pixels | str:
    """Return the pixels of an image file, [channels, H, W], or why it cannot be read.

    Args:
        path: The file.
        reading: How the others were read.
        channels: Of the others. A coloured image becomes grey where there is one: its luminance,
            (19595 R + 38470 G + 7471 B) / 65536, as Pillow has it from ITU-R BT.601.
    """
    with silence():
        pixels = read_pixels(path, reading)
    if isinstance(pixels, str):
        return pixels
    bands = pixels.shape[2]
    if bands == 3 and channels == 1 and reading.bands == "auto":
        grey = pixels.astype(np.int64) @ np.array([19595, 38470, 7471]) + 2**15 >> 16
        pixels = grey[..., None].astype(pixels.dtype)
    elif bands != channels and (bands, channels, reading.bands) != (1, 3, "auto"):
        return f"{bands} bands instead of {channels}"
    return channels_first(pixels, channels)


def channels_first(pixels: Pixels, channels: int) -> Pixels:
    """Bring [H, W, bands] to [channels, H, W]; a grey image has all its channels alike."""
    shape = (channels, *pixels.shape[:2])
    return np.ascontiguousarray(np.broadcast_to(pixels.transpose(2, 0, 1), shape))


@contextmanager
def silence() -> Iterator[None]:
    """Keep back what the libraries warn and log of, which names no file."""
    loggers = [logging.getLogger(name) for name in ("PIL", "tifffile")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _why(error: Exception, path: Path) -> str:
    if not isinstance(error, UnidentifiedImageError):
        return reason(error)
    return "a TIFF of bands that Pillow does not know" if _is_tiff(path) else "not a readable image"


def _is_tiff(path: Path) -> bool:
    with suppress(OSError):
        return tiff.is_tiff(path)
    return False


@contextmanager
def _open(path: Path, reading: Reading) -> Iterator[_Image]:
    if not os.path.isfile(path):  # opening a pipe would block
        raise Unreadable("not a file" if os.path.exists(path) else "a broken link, or deleted")
    every = reading.bands == "all"
    if (every or reading.bits == 16) and tiff.is_tiff(path):
        with tiff.opened(path, reading.bits, every) as image:
            if image is not None:
                yield _Image(*image)
                return
    with Image.open(path, formats=FORMATS) as picture:
        deep = _refuse(picture, reading)
        bands = _bands(picture, every, deep)
        orientation = _orientation(picture)
        sides = picture.size if orientation > 4 else picture.size[::-1]
        look = Look(*sides, bands)
        yield _Image(look, lambda: _load(path, picture, bands, deep), orientation)


def _refuse(picture: Image.Image, reading: Reading) -> bool:
    """Refuse what would lose something; give back whether the picture has 16 bits to keep."""
    if picture.mode.startswith("F"):
        raise Unreadable("numbers with a fraction: scale them to integers of 8 or 16 bits")
    bands = getattr(picture, "tag_v2", {}).get(ExifTags.Base.SamplesPerPixel, 0)
    if bands > len(picture.getbands()):
        raise Unreadable(f"a TIFF of {bands} bands")  # Pillow would leave some out
    grey = picture.mode.startswith("I")
    if reading.bits == 8:
        if grey:
            raise Unreadable("more than 8 bits per channel")  # Pillow would clip them
        return False
    if picture.format == "PNG":
        return _packing(picture) in DEEP
    if picture.format == "PPM":
        about = _packing(picture)
        most = about[1] if isinstance(about, tuple) else 255
        if not grey and isinstance(most, int) and most > 255:
            raise Unreadable("a PPM of 16 bits in colour: save it as PNG")
        return grey
    if grey:
        raise Unreadable("integers of another kind than 16 bits")
    return False


def _packing(picture: Image.Image) -> Any:  # noqa: ANN401
    """Return what Pillow's plugin says of how the pixels are packed."""
    return picture.tile[0][3]  # type: ignore[attr-defined]


def _bands(picture: Image.Image, every: bool, deep: bool) -> int:
    if picture.format == "PNG" and deep:
        stored = DEEP[_packing(picture)]
        return stored if every else 1 if stored == 1 else 3
    if deep or picture.mode in ("1", "L"):
        return 1
    if not every:
        return 3
    clear = picture.mode == "P" and "transparency" in picture.info
    return 4 if clear else BANDS.get(picture.mode, 3)


def _load(path: Path, picture: Image.Image, bands: int, deep: bool) -> Pixels:
    if deep and picture.format == "PNG":  # which Pillow cuts to 8 bits, but for grey
        from torchvision.io import ImageReadMode, decode_image  # slow to import

        decoded = decode_image(str(path), ImageReadMode.UNCHANGED)
        stored: Pixels = decoded.numpy().transpose(1, 2, 0)
        if stored.shape[2] == 2 and bands == 3:
            stored = stored[..., :1].repeat(3, axis=2)
        return stored[..., :bands]
    if deep:
        return np.asarray(picture)[..., None].astype(np.uint16)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[bands]
    return np.asarray(picture.convert(mode)).reshape(*picture.size[::-1], bands)


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation that is still to be applied; 1: none, or not to be understood."""
    if picture.format == "TIFF":  # Pillow turns these itself
        return 1
    try:
        # a PNG's own method would decode it to look for it behind the pixels
        found = Image.Image.getexif(picture).get(ExifTags.Base.Orientation)
    except Exception:  # damaged
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1
