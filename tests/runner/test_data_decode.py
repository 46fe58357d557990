"""Image files to pixels: upright, resized by name, of 16 bits, of any number of bands."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
import torch
from omegaconf import OmegaConf
from PIL import Image, ImageOps

from runner.config import check
from runner.data import Batches, Split, image_folder, split_source
from runner.data.decode import Reading, decode_one, look_at
from runner.data.split import pixel_statistics
from runner.errors import UserError
from runner.run.fingerprint import digest_tensors
from tests.conftest import composed
from tests.faults.images import NAMES, picture, pixels_of

DEEP, ALL, BOTH = Reading(bits=16), Reading(bands="all"), Reading(bits=16, bands="all")


def deep_picture(seed, *shape):
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


def write_png(path, pixels):
    """Write 16 bits a channel [H, W, C], which Pillow does for grey alone."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)


def chw(pixels):
    return pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_images_are_turned_upright_as_their_exif_orientation_says(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(picture(0, 6, 9)).save(tmp_path / "x", kind, exif=exif)
    with Image.open(tmp_path / "x") as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert wanted.shape[:2] == ((9, 6) if 5 <= orientation <= 8 else (6, 9))
    assert look_at(tmp_path / "x", Reading())[:2] == wanted.shape[:2]
    assert np.array_equal(decode_one(tmp_path / "x", Reading()), chw(wanted))


def test_a_damaged_exif_block_turns_nothing(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert np.array_equal(decode_one(tmp_path / "x.png", Reading()), chw(picture(0)))


@pytest.mark.parametrize(("resize", "oracle"), [("pad", ImageOps.pad), ("crop", ImageOps.fit)])
def test_padding_and_cropping_are_those_of_pillow(tmp_path, resize, oracle):
    generator = np.random.default_rng(0)
    for seed in range(60):
        height, width, to_height, to_width = generator.integers(3, 40, 4).tolist()
        Image.fromarray(picture(seed, height, width)).save(tmp_path / "x.png")
        got = decode_one(tmp_path / "x.png", Reading((to_height, to_width), resize))
        source = Image.fromarray(picture(seed, height, width))
        wanted = oracle(source, (to_width, to_height), Image.Resampling.BILINEAR)
        assert np.abs(chw(np.asarray(wanted)) - got.astype(int)).max() <= 1, (seed, got.shape)


def test_a_thin_image_is_padded_and_not_lost(tmp_path):
    Image.fromarray(np.full((1000, 2), 200, np.uint8)).save(tmp_path / "x.png")
    got = decode_one(tmp_path / "x.png", Reading(8, "pad"))
    assert (got == 200).all(axis=(0, 1)).sum() == 1


def test_what_pillow_cannot_resize_is_resized_as_what_it_can(tmp_path):
    eight = picture(0, 20, 30, 4)
    Image.fromarray(eight).save(tmp_path / "8.png")
    write_png(tmp_path / "16.png", eight * np.uint16(257))
    for resize in ("stretch", "pad", "crop"):
        got = decode_one(tmp_path / "16.png", Reading((7, 9), resize, 16, "all"), 4) / 257
        other = decode_one(tmp_path / "8.png", Reading((7, 9), resize, 8, "all"), 4)
        assert np.abs(got - other).max() < 1
        Image.fromarray(eight[..., :3]).save(tmp_path / "rgb.png")
        rgb = decode_one(tmp_path / "rgb.png", Reading((7, 9), resize))
        assert np.abs(other[:3] - rgb.astype(int)).max() <= 1  # and the fourth mixes with none


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_of_16_bits_keeps_each_bit(tmp_path, channels):
    pixels = deep_picture(channels, 6, 5, channels)
    write_png(tmp_path / "x.png", pixels)
    assert np.array_equal(decode_one(tmp_path / "x.png", BOTH, channels), chw(pixels))
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    colours = pixels[..., :3] if channels > 2 else grey
    assert np.array_equal(decode_one(tmp_path / "x.png", DEEP), chw(colours))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("planar", [False, True], ids=["interleaved", "planar"])
@pytest.mark.parametrize(
    "how",
    [{}, {"compression": "lzw", "predictor": True}, {"byteorder": ">"}, {"tile": (16, 16)}],
    ids=["plain", "lzw", "big", "tiles"],
)
def test_a_tiff_of_any_bands_keeps_each_bit(tmp_path, kind, bands, planar, how):
    pixels = deep_picture(bands, 21, 18, bands).astype(kind)
    how = dict(how)
    stored = chw(pixels) if planar else pixels
    options = {"photometric": "minisblack", "metadata": None} | how
    if bands > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    order = options.pop("byteorder", "<")
    if bands == 1:
        stored = pixels[..., 0]
    tifffile.imwrite(tmp_path / "x.tif", stored, byteorder=order, **options)
    scale = np.uint16(257 if kind == np.uint8 else 1)
    got = decode_one(tmp_path / "x.tif", BOTH, bands)
    assert np.array_equal(got, chw(pixels) * scale)
    if kind == np.uint8:
        assert np.array_equal(decode_one(tmp_path / "x.tif", ALL, bands), chw(pixels))


def test_a_tiff_of_16_bits_is_read_as_grey_or_colour_and_by_its_tags(tmp_path):
    rgba, file = deep_picture(0, 6, 5, 4), tmp_path / "x.tif"
    tifffile.imwrite(file, rgba[..., :3], photometric="rgb")
    assert np.array_equal(decode_one(file, DEEP), chw(rgba[..., :3]))
    tifffile.imwrite(file, rgba, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(decode_one(file, DEEP), chw(rgba[..., :3]))
    tifffile.imwrite(file, rgba, photometric="rgb", extrasamples=["unspecified"])
    assert decode_one(file, DEEP) == "a TIFF of 4 bands"
    tifffile.imwrite(file, rgba[..., 0], photometric="miniswhite")
    assert np.array_equal(decode_one(file, DEEP, 1)[0], 65535 - rgba[..., 0])
    for orientation in range(1, 9):
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(file, rgba[..., :3] >> 8 << 8, photometric="rgb", extratags=tags)
        upright = decode_one(file, Reading())  # by Pillow
        assert np.array_equal(decode_one(file, DEEP) >> 8, upright), orientation


def test_images_of_8_bits_are_scaled_to_16(tmp_path):
    for channels in (1, 3):
        Image.fromarray(picture(0, channels=channels)).save(tmp_path / "x.png")
        wanted = decode_one(tmp_path / "x.png", Reading(), channels)
        got = decode_one(tmp_path / "x.png", DEEP, channels)
        assert got.dtype == np.uint16
        assert np.array_equal(got, wanted.astype(int) * 257)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (np.float32, "numbers with a fraction: scale them to integers of 8 or 16 bits"),
        (np.int16, "signed numbers of 16 bits"),
        (np.uint32, "numbers of 32 bits"),
    ],
)
def test_other_numbers_are_refused(tmp_path, kind, told):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((6, 5), kind))
    assert decode_one(tmp_path / "x.tif", BOTH) == told


def test_bands_that_lie_in_pages_are_refused_and_a_smaller_page_is_not(tmp_path):
    bands = deep_picture(0, 6, 5, 13).transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "x.tif", bands, photometric="minisblack")
    told = "13 pages of one size: write the bands into one page"
    assert decode_one(tmp_path / "x.tif", BOTH, 13) == told
    assert np.array_equal(decode_one(tmp_path / "x.tif", DEEP, 1), bands[:1])
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(bands, photometric="minisblack", planarconfig="separate")
        file.write(bands[:, ::2, ::2], photometric="minisblack", planarconfig="separate")
    assert np.array_equal(decode_one(tmp_path / "x.tif", BOTH, 13), bands)


def test_a_portable_map_of_16_bits_is_read_if_it_is_grey(tmp_path):
    grey = deep_picture(0, 6, 5, 1)
    (tmp_path / "x.pgm").write_bytes(b"P5 5 6 65535\n" + grey.astype(">u2").tobytes())
    assert np.array_equal(decode_one(tmp_path / "x.pgm", DEEP, 1), chw(grey))
    colours = deep_picture(0, 6, 5, 3).astype(">u2").tobytes()
    (tmp_path / "x.ppm").write_bytes(b"P6 5 6 65535\n" + colours)
    assert decode_one(tmp_path / "x.ppm", DEEP) == "a PPM of 16 bits in colour: save it as PNG"


def test_every_band_of_an_image_is_a_channel(tmp_path):
    for channels, mode in ((4, "RGBA"), (3, "RGB"), (1, "L")):
        pixels = picture(0, channels=channels).reshape(6, 5, channels)
        Image.fromarray(pixels.squeeze(), mode).save(tmp_path / "x.png")
        assert np.array_equal(decode_one(tmp_path / "x.png", ALL, channels), chw(pixels))
    two = Image.merge("LA", [Image.fromarray(picture(n, channels=1)) for n in (0, 1)])
    two.save(tmp_path / "x.png")
    assert np.array_equal(decode_one(tmp_path / "x.png", ALL, 2), chw(np.asarray(two)))
    palette = Image.fromarray(picture(0)).quantize(8)
    palette.save(tmp_path / "x.png")
    assert len(decode_one(tmp_path / "x.png", ALL)) == 3
    palette.save(tmp_path / "x.png", transparency=0)
    assert set(decode_one(tmp_path / "x.png", ALL, 4)[3].flat) == {0, 255}
    assert decode_one(tmp_path / "x.png", ALL, 3) == "4 bands instead of 3"


def test_for_a_network_of_grey_images_a_coloured_one_becomes_grey(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "x.png")
    wanted = np.asarray(Image.fromarray(picture(0)).convert("L"))
    assert np.array_equal(decode_one(tmp_path / "x.png", Reading(), 1)[0], wanted)
    exact = picture(0) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode_one(tmp_path / "x.png", DEEP, 1)[0] - 257 * exact).max() < 2
    Image.fromarray(wanted).save(tmp_path / "x.png")
    assert np.array_equal(decode_one(tmp_path / "x.png", Reading()), np.stack([wanted] * 3))


def make_bands(root, bands=13, kind=np.uint16, side=8):
    for seed, name in enumerate(NAMES):
        path = (root / name).with_suffix(".tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = deep_picture(seed, side, side, bands).astype(kind)
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    return root


def test_a_folder_of_13_bands_and_16_bits_is_normalised_and_read_alike_one_by_one(tmp_path):
    root = make_bands(tmp_path / "images")
    source = image_folder(str(root), cache=str(tmp_path / "cache"), bits=16, bands="all")
    assert source.train.shape == (13, 8, 8)
    assert source.train.levels == 65535
    names = [root / name.replace("png", "tif") for name in NAMES[:3]]
    one_by_one = np.stack([decode_one(name, source.reading, 13) for name in names])
    assert np.array_equal(pixels_of(source.train).numpy(), one_by_one)
    data = split_source(source, 0, seed=0)
    assert data.reading == Reading(None, "stretch", 16, "all")
    unit = torch.from_numpy(one_by_one.astype(float)) / 65535
    torch.testing.assert_close(data.mean.double(), unit.mean((0, 2, 3)), rtol=1e-6, atol=0)
    deviation = unit.std((0, 2, 3), correction=0)
    torch.testing.assert_close(data.std.double(), deviation, rtol=1e-6, atol=0)
    (batch,) = Batches(data.train, 3, data.mean, data.std).epoch(0)
    each = (1, 13, 1, 1)
    wanted = (unit - data.mean.view(each).double()) / data.std.view(each).double()
    torch.testing.assert_close(batch.inputs.double(), wanted, rtol=0, atol=1e-5)


def test_images_of_different_bands_are_refused_by_name(tmp_path):
    root = make_bands(tmp_path / "images", kind=np.uint8)
    four = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(root / "train/dog/b.tif", picture(0, 8, 8, 4), **four)
    with pytest.raises(
        UserError, match=r"differ in .*: train/cat/a\.tif has 13, train/dog/b\.tif has 4\. "
    ):
        image_folder(str(root), cache=str(tmp_path / "cache"), bands="all")
    assert not (tmp_path / "cache").exists()


def test_without_tifffile_one_line_says_what_to_install(tmp_path, monkeypatch):
    root = make_bands(tmp_path / "images")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(
        UserError, match=r"^data\.bands=all reads TIFF .* pip install 'biscuits-bench\[tiff\]'\.$"
    ):
        image_folder(str(root), cache=str(tmp_path / "cache"), bands="all")
    with pytest.raises(UserError, match=r"data\.bits=16 reads TIFF files by tifffile"):
        image_folder(str(root), cache=str(tmp_path / "cache"), bits=16)


@pytest.mark.parametrize("bands", [13, 2000])
def test_a_tiff_that_claims_more_pixels_than_are_read_is_refused_by_its_header(tmp_path, bands):
    side = 60_000 if bands == 13 else 1000
    small = io.BytesIO()
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(small, np.zeros((3, 3, bands), np.uint8), **options)
    content = bytearray(small.getvalue())
    for tag in (256, 257):  # width and height
        place = content.index(struct.pack("<HHI", tag, 4, 1))
        content[place + 8 : place + 12] = struct.pack("<I", side)
    (tmp_path / "x.tif").write_bytes(content)
    assert look_at(tmp_path / "x.tif", ALL) == f"{side * side:,} pixels of {bands} bands, too many"


@pytest.mark.parametrize(
    ("resize", "told"),
    [
        ("stretch", "stretched to 4 x 4; data.resize=pad or crop keeps their shape."),
        ("pad", "fitted within 4 x 4, with a black border."),
        ("crop", "cut at two sides to fill 4 x 4."),
    ],
)
def test_how_images_are_resized_is_told_at_the_start(tmp_path, capfd, resize, told):
    for seed, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed, 6, 6 if seed < 2 else 5)).save(tmp_path / name)
    image_folder(str(tmp_path), 4, str(tmp_path / "cache"), resize=resize)
    assert f"\n3 of 5 images are not square: {told}\n" in capfd.readouterr().err
    image_folder(str(tmp_path), (6, 5), str(tmp_path / "cache"), resize=resize)
    assert "\n2 of 5 images are not of the shape 5 : 6: " in capfd.readouterr().err


def test_wrong_ways_to_read_are_refused():
    whole = composed("data=image_folder", "data.root=images")
    for key, value, told in (
        ("resize", "croop", 'resize must be stretch, pad or crop, got "croop".'),
        ("bits", 12, "bits must be 8 or 16, got 12."),
        ("bands", "every", 'bands must be auto or all, got "every".'),
        ("size", [4], "size.1 is missing."),
        ("size", [4, 0], "size.1 must be >= 1, got 0."),
        ("size", [4, 5, 6], "size must be "),
        ("sise", 4, "sise is not a parameter of runner.data.image_folder. Did you mean size?"),
    ):
        config = OmegaConf.merge(whole, {"data": {key: value}})
        with pytest.raises(UserError) as caught:
            check(config)
        assert str(caught.value).startswith(f"data.{told}")


def test_padding_to_no_size_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.resize=pad needs a size\. "):
        image_folder(str(tmp_path), cache=str(tmp_path), resize="pad")


def test_the_statistics_of_16_bits_are_exact():
    images = torch.from_numpy(deep_picture(0, 40, 2, 30, 30))
    mean, std = pixel_statistics(Split(images, torch.zeros(40).long()))
    unit = images.double() / 65535
    assert torch.equal(mean, unit.mean((0, 2, 3)).float())
    torch.testing.assert_close(std, unit.std((0, 2, 3), correction=0).float(), rtol=1e-6, atol=0)
    constant = Split(torch.full((3, 1, 2, 2), 7, dtype=torch.uint16), torch.zeros(3).long())
    assert pixel_statistics(constant)[1].item() == pytest.approx(1 / 65535)


def test_a_digest_is_that_of_the_pixels_wherever_they_are():
    images = torch.from_numpy(picture(0, 600 * 3 * 100, 100, 1).reshape(600, 3, 100, 100))
    rows = torch.randperm(600)[:590]  # more than one block
    mapped = Split(images, torch.zeros(590).long(), rows)
    copied = Split(images[rows], torch.zeros(590).long())
    assert len([*mapped.chunks()]) > 1
    one, other = (digest_tensors({"images": split.chunks()}) for split in (mapped, copied))
    assert one == other == digest_tensors({"images": copied.images})
