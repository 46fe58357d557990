"""Pictures drawn by Pillow alone, which starts faster than matplotlib: tiles, and a matrix."""

import io
import unicodedata
import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from runner.store.files import Damaged
from runner.texts import printable

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

PAPER, INK, MUTED, WRONG, RIGHT = "#ffffff", "#16191d", "#59626c", "#a83a00", "#00734f"

SIDE = 96  # pixels of the longer side of an image
TILE = 112  # pixels of a tile, of which the text below the image has all
COLUMNS, LINE, EDGE = 4, 15, 8
LABELLED = 20  # classes that are named beside a matrix
CELL, NAME = 32, 110  # pixels of a cell of such a matrix, and of a name beside it
HEAD = 2 * LINE + EDGE  # of what stands above its names
LARGE = 200_000  # bytes
MOST_CLASSES = 1000  # of a matrix
MOST_PIXELS = 2**22  # of a picture that is read
MOST_BYTES = 2**22

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Names = Sequence[str]


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)


@cache
def _is_drawn(char: str) -> bool:
    """Whether the font, which has little beyond ASCII, knows a character."""
    return bytes(_font().getmask(char)) != bytes(_font().getmask("\uffff"))


def drawable(names: Names) -> list[str]:
    """Write the names of classes in what the font has.

    Accents are left out. A name that has other characters, or is then another one's, becomes its
    number: `class 7`.

    >>> drawable(["cat", "chó", "猫"])
    ['cat', 'cho', 'class 2']
    """
    plain = [_without_accents(printable(name, 200)) for name in names]
    return [
        name if plain.count(name) == 1 and all(map(_is_drawn, name)) else f"class {number}"
        for number, name in enumerate(plain)
    ]


def _without_accents(text: str) -> str:
    parts = unicodedata.normalize("NFD", text)
    return "".join(c for c in parts if not unicodedata.combining(c))


def _cut(text: str, width: float) -> str:
    """Cut the middle out of a text that is wider than so many pixels."""
    most = len(text)
    while most > 3 and _font().getlength(printable(text, most)) > width:
        most -= 1
    return printable(text, most)


def tiling(
    images: Sequence[Pixels], labels: Sequence[tuple[str, str]], caption: str
) -> Image.Image:
    """Draw images side by side, with two lines of text below each.

    Args:
        images: Each [C, H, W], uint8 or uint16; see `as_picture`.
        labels: For each what stands below it.
        caption: What stands above all.
    """
    pictures = [as_picture(image) for image in images]
    height = max(picture.height for picture in pictures)
    rows = -(-len(pictures) // COLUMNS)
    step = height + 2 * LINE + EDGE
    width = COLUMNS * (TILE + EDGE) + EDGE
    sheet = Image.new("RGB", (width, 2 * EDGE + LINE + rows * step), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((EDGE, EDGE - 2), caption, MUTED, _font())
    for index, (picture, lines) in enumerate(zip(pictures, labels, strict=True)):
        row, column = divmod(index, COLUMNS)
        left, top = EDGE + column * (TILE + EDGE), 2 * EDGE + LINE + row * step
        sheet.paste(picture, (left, top + height - picture.height))
        for line, color in zip(lines, (INK, WRONG), strict=True):
            draw.text((left, top + height + 1), _cut(line, TILE), color, _font())
            top += LINE
    return sheet


def as_picture(image: Pixels) -> Image.Image:
    """Turn an image [C, H, W] into one of at most SIDE pixels a side.

    A small one is enlarged by a whole number, its pixels as they are. Of 1 or 2 channels the first
    is shown in grey, of more the first three as red, green and blue. 16 bits are stretched from
    the darkest to the brightest pixel, since few cameras use all of them.
    """
    if image.dtype == np.uint16:
        low, high = int(image.min()), int(image.max())
        image = ((image - float(low)) * (255 / max(1, high - low))).round().astype(np.uint8)
    bands = image[:3].transpose(1, 2, 0) if len(image) >= 3 else image[0]
    picture = Image.fromarray(np.ascontiguousarray(bands)).convert("RGB")
    if (times := SIDE // max(picture.size)) >= 1:
        size = (picture.width * times, picture.height * times)
        return picture.resize(size, Image.Resampling.NEAREST)
    picture.thumbnail((SIDE, SIDE))
    return picture


def count(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the answers [K, K]: a row for each true class, a column for each predicted one.

    Args:
        logits: [N, K].
        labels: [N], each below K.
    """
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def matrix(counts: NDArray[np.int64], names: Names | None) -> Image.Image:
    """Draw how often each class is taken for each other one, in percent of the true class.

    Args:
        counts: [K, K], as `count` gives them.
        names: Of the classes, if they are known. Above 20 classes there are none,
            and no numbers.
    """
    size = len(counts)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    labelled = size <= LABELLED
    cell = CELL if labelled else max(1, 640 // size)
    colors = np.repeat(np.repeat(_colors(shares), cell, 0), cell, 1)
    grid = Image.fromarray(colors)
    if not labelled:
        return grid
    known = drawable(names if names and len(names) == size else [str(n) for n in range(size)])
    sheet = Image.new("RGB", (NAME + grid.width + EDGE, NAME + LINE + grid.height + EDGE), PAPER)
    sheet.paste(grid, (NAME, NAME + LINE))
    draw = ImageDraw.Draw(sheet)
    draw.text((EDGE, EDGE - 2), "% of each true class (rows)", MUTED, _font())
    draw.text((EDGE, EDGE + LINE - 2), "by predicted class", MUTED, _font())
    for place, name in enumerate(known):
        middle = place * cell + cell // 2
        text = _cut(name, NAME - 2 * EDGE)
        row = NAME + LINE + middle
        draw.text((NAME - 5, row), text, INK, _font(), anchor="rm")
        sheet.paste(_upright(text), (NAME + middle - LINE // 2, HEAD))
        for other, share in enumerate(shares[place]):
            if counts[place, other]:
                at = (NAME + other * cell + cell // 2, row)
                draw.text(at, percent(share), INK, _font(), anchor="mm")
    return sheet


def _upright(text: str) -> Image.Image:
    """Draw a text that reads upwards, its beginning at the bottom."""
    strip = Image.new("RGB", (NAME + LINE - HEAD, LINE), PAPER)
    ImageDraw.Draw(strip).text((2, LINE // 2), _cut(text, strip.width - 2), INK, _font(), "lm")
    return strip.rotate(90, expand=True)


def percent(share: float) -> str:
    """Write a share in whole percent; a small one is not written as none, nor most as all.

    >>> percent(0.126), percent(0.005), percent(0.9999), percent(1.0)
    ('13', '<1', '>99', '100')
    """
    text = f"{100 * share:.0f}"
    if text == "0" and share > 0:
        return "<1"
    return ">99" if text == "100" and share < 1 else text


def _colors(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colour shares [K, K]: right answers green, wrong ones orange, none white."""
    paper, wrong, right = (
        np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) for color in (PAPER, WRONG, RIGHT)
    )
    diagonal = np.eye(len(shares), dtype=bool)[..., None]
    strength = 0.6 * np.sqrt(shares)[..., None]
    mixed = paper + strength * (np.where(diagonal, right, wrong) - paper)
    return np.asarray(mixed.round(), dtype=np.uint8)


def encode(picture: Image.Image) -> bytes:
    """Write a picture as a PNG file; a large one, as of photographs, with 256 colours."""
    sheet = io.BytesIO()
    picture.save(sheet, "png", compress_level=3)  # 6, the default, takes twice as long
    if sheet.tell() > LARGE and picture.mode == "RGB":
        return encode(picture.quantize(256, Image.Quantize.FASTOCTREE))
    return sheet.getvalue()


def summary(tag: str, content: bytes) -> "Summary":
    """Make of a PNG file what TensorBoard shows."""
    # here, for it takes a tenth of a second
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = Image.open(io.BytesIO(content)).size
    size = {"width": width, "height": height, "colorspace": 3}
    image = Summary.Image(**size, encoded_image_string=content)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def decode(content: bytes) -> Image.Image:
    """Read a PNG file of a stranger: its pixels, and nothing else that is in it.

    Raises:
        Damaged: If it is no such file, or is too large.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(content), formats=("PNG",)) as picture,
        ):
            if picture.width * picture.height > MOST_PIXELS:
                raise Damaged(f"has {picture.width} x {picture.height} pixels")
            plain = picture.convert("RGB")
            return Image.frombytes("RGB", plain.size, plain.tobytes())
    except Damaged:
        raise
    except Exception as error:  # one made by hand can fail in any way
        raise Damaged("is not a PNG file that can be read") from error
