"""The pixels of an image, turned upright and resized."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[Any]  # [H, W, bands], uint8 or uint16
Resize = Literal["stretch", "pad", "crop"]


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Turn an image upright, by its EXIF orientation: mirrored, turned by quarters, or both.

    The numbers are those of the tag Orientation (TIFF 6.0, 274): 1 is upright, 6 lies on its left.
    """
    mirrored, quarters = orientation in (2, 4, 5, 7), {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}
    if mirrored:
        pixels = pixels[:, ::-1]
    return np.rot90(pixels, quarters.get(orientation, 0))


def resize(pixels: Pixels, height: int, width: int, how: Resize) -> Pixels:
    """Resize an image as `Reading.resize` says; bilinear and antialiased.

    Pillow mixes the bands of some kinds of image, and rounds others to 8 bits: of these each band
    is resized by itself, as real numbers.
    """
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        plain = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        resized = np.asarray(_fit(Image.fromarray(plain), height, width, how))
        return resized.reshape(height, width, -1)
    bands = (Image.fromarray(band) for band in pixels.transpose(2, 0, 1).astype(np.float32))
    resized_bands = [np.rint(np.asarray(_fit(band, height, width, how))) for band in bands]
    return np.stack(resized_bands, axis=2).astype(pixels.dtype)


def _fit(picture: Image.Image, height: int, width: int, how: Resize) -> Image.Image:
    """Resize a picture; to pad and to crop as Pillow's ImageOps.pad and ImageOps.fit do.

    A side that would be less than a pixel is one pixel, where ImageOps.pad leaves all black.
    """
    old_width, old_height = picture.size
    box, inner = (0.0, 0.0, float(old_width), float(old_height)), (width, height)
    if how == "crop":
        scale = min(old_width / width, old_height / height)
        left = max(0.0, (old_width - scale * width) / 2)
        top = max(0.0, (old_height - scale * height) / 2)
        box = (left, top, old_width - left, old_height - top)
    elif how == "pad":
        scale = min(width / old_width, height / old_height)
        inner = max(1, round(scale * old_width)), max(1, round(scale * old_height))
    resized = picture.resize(inner, Image.Resampling.BILINEAR, box=box)
    if inner == (width, height):
        return resized
    whole = Image.new(picture.mode, (width, height))
    whole.paste(resized, (round((width - inner[0]) / 2), round((height - inner[1]) / 2)))
    return whole
