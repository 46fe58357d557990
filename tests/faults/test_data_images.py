"""Folders of images that are damaged, wrong or not to be read: one line before anything is kept."""

import io
import os
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from runner.data import check_source, image_folder, npz, torchvision_set
from runner.data.decode import Reading, decode_one
from tests.faults.images import (
    DATA_FILES,
    NAMES,
    TENTHS,
    assert_right,
    flipped,
    make_folder,
    picture,
    pixels_of,
    put,
    refusal,
    refused_by_command,
    released,
    without_rights,
    write,
)


def png(width, height, depth=8, colour=2, pixels=b""):
    """A PNG that claims a size, https://www.w3.org/TR/png-3."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def depth16(path):
    Image.fromarray(np.full((6, 5), 40000, np.uint16)).save(path)


def not_numbers(path):
    Image.fromarray(np.full((6, 5), np.nan, np.float32)).save(path, "TIFF")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.symlink_to("nowhere"), "a broken link, or deleted"),
        (lambda path: path.symlink_to(path.name), "a broken link, or deleted"),
        (Path.mkdir, "not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a file"),
        (lambda path: put(path, b""), "not a readable image"),
        (lambda path: put(path, b"no picture"), "not a readable image"),
        (lambda path: put(path, bytes(5000)), "not a readable image"),
        (lambda path: put(path, png(0, 0)), "not a readable image"),
        (lambda path: put(path, b"P6 0 5 255\n"), "not a readable image"),
        (lambda path: put(path, png(5, 6)), "image file is truncated"),
        (lambda path: put(path, png(10_000, 10_000)), "image file is truncated"),
        (lambda path: put(path, png(60_000, 60_000)), "Image size ("),
        (lambda path: put(path, png(2**31 - 1, 2**31 - 1)), "Image size ("),
        (depth16, "more than 8 bits per channel"),
        (not_numbers, "numbers with a fraction: scale them to integers of 8 or 16 bits"),
    ],
)
def test_what_is_no_image_is_named_before_anything_is_kept(
    folder, read, cache, faults, spoil, told
):
    spoil(folder / "train/cat/x.png")
    text = refusal(lambda: read(size=4))
    assert f"cannot read 1 of 6 images in {folder}: train/cat/x.png ({told}" in text
    assert not cache.exists() or list(cache.iterdir()) == []
    faults(DATA_FILES)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n(ran) =\nshowpage\n"


def wrapped(head):
    """PostScript within a binary header, which says where it begins and how long it is."""
    return b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(POSTSCRIPT)) + head + POSTSCRIPT


@pytest.mark.parametrize("content", [POSTSCRIPT, wrapped(bytes(20))], ids=["plain", "wrapped"])
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.TIF"])
def test_no_program_is_started_on_an_image(folder, read, tmp_path, monkeypatch, name, content):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text(f"#!/bin/sh\necho $@ >> '{tmp_path}/started'\n")
    (tmp_path / "bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # which remembers where it is
    put(folder / "train/cat" / name, content)
    assert f"train/cat/{name} (not a readable image). Repair" in refusal(read)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["GIF", "MPO", "WEBP"])
def test_what_browsers_and_phones_save_under_the_name_of_a_jpeg_is_read(folder, read, kind):
    frames = [Image.fromarray(picture(seed)) for seed in (7, 8)]
    frames[0].save(folder / "train/cat/x.jpg", kind, save_all=True, append_images=frames[1:])
    with Image.open(folder / "train/cat/x.jpg") as image:
        first = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels_of(read().train)[2].permute(1, 2, 0), first)


def tiff(bands):
    """A TIFF of RGB and more bands, of which nothing says what they mean."""
    pixels = picture(0, 6, 5, bands).tobytes()
    about = {256: 5, 257: 6, 258: 0, 259: 1, 262: 2, 273: 0, 277: bands, 278: 6, 279: len(pixels)}
    about[338] = 0  # what the surplus is
    start = 8 + 2 + 12 * len(about) + 4
    about[258], about[273] = start, start + 4 * bands
    kinds = {key: (4, 1) for key in about} | {258: (4, bands), 338: (3, bands - 3)}
    if bands - 3 > 2:
        about[338] = start + 4 * bands + len(pixels)
    entries = (struct.pack("<HHII", key, *kinds[key], about[key]) for key in about)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(about)) + b"".join(entries) + bytes(4)
    return head + struct.pack(f"<{bands}I", *[8] * bands) + pixels + bytes(2 * bands)


@pytest.mark.parametrize("bands", [4, 5, 13])
def test_a_tiff_of_more_bands_than_are_read_is_refused_and_nothing_is_logged(
    folder, read, caplog, capfd, bands
):
    put(folder / "train/cat/x.tif", tiff(bands))
    told = refusal(read)
    what = "bands that Pillow does not know" if bands == 13 else f"{bands} bands"
    assert f"train/cat/x.tif (a TIFF of {what}). Repair" in told
    assert "data.bands=all those of other bands, data=npz takes arrays." in told
    assert not caplog.records
    assert capfd.readouterr().err.count("\n") == 1  # that they are decoded


def test_a_pipe_among_the_images_is_named_and_not_waited_for(folder, read, faults):
    os.mkfifo(folder / "train/cat/x.jpg")
    with released(folder / "train/cat/x.jpg"):
        assert "train/cat/x.jpg (not a file)" in refusal(read)
    faults(DATA_FILES)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_an_image_cut_short_at_any_tenth_is_refused(tmp_path, faults, kind):
    content = io.BytesIO()
    Image.fromarray(picture(0, 40, 40)).save(content, kind)
    whole = content.getvalue()
    for tenth in TENTHS:
        put(tmp_path / "x", whole[: len(whole) * tenth // 10])
        assert isinstance(decode_one(tmp_path / "x", Reading()), str)
    faults(DATA_FILES, len(TENTHS))


def test_a_flipped_bit_in_any_byte_of_a_png_is_refused_or_changes_no_pixel(tmp_path, faults):
    write(tmp_path, "x.png", picture(0))
    file = tmp_path / "x.png"
    whole, wanted, refused = file.read_bytes(), decode_one(file, Reading()), 0
    for place in range(len(whole)):
        put(file, flipped(whole, place, place % 8))
        got = decode_one(file, Reading())
        refused += isinstance(got, str)
        assert isinstance(got, str) or np.array_equal(got, wanted)
    assert refused > 0.8 * len(whole)  # the rest: checksums after the last pixel
    faults(DATA_FILES, len(whole))


def test_names_that_are_no_text_or_hold_control_codes_are_told_in_one_line(folder, read, faults):
    raw = os.fsencode(folder / "train/cat")
    for name in (b"x\n\x1b[31m\r.jpg", b"x\xff\xfe.jpg", "x\u202e\u2028.jpg".encode()):
        try:
            put(Path(os.fsdecode(raw + b"/" + name)), b"no picture")
        except OSError as error:
            pytest.skip(f"this file system does not take such names: {error}")
    text = refusal(read)
    assert r"train/cat/x\n\x1b[31m\r.jpg, " in text
    assert r"train/cat/x\u202e\u2028.jpg, " in text
    assert r"train/cat/x\udcff\udcfe.jpg (not a readable image)" in text
    faults(DATA_FILES, 3)


def test_images_in_folders_of_such_names_are_read_and_kept(tmp_path, faults, capfd):
    root = make_folder(tmp_path / "a\nb\x1b[31m")
    for split in ("train", "test"):
        try:
            (root / split / "dog").rename(os.fsdecode(os.fsencode(root / split) + b"/d\xff\n"))
        except OSError as error:
            pytest.skip(f"this file system does not take such names: {error}")
    for _ in range(2):
        assert_right(image_folder(root=str(root), cache=str(tmp_path / "ca\nche")))
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert told.strip().isprintable()
    faults(DATA_FILES, 2)


def remove_class(root, name):
    for split in ("train", "test"):
        shutil.rmtree(root / split / name)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "/images does not exist. "),
        (lambda root: remove_class(root, "dog"), "only one class in {root}/train, cat. "),
        (lambda root: (root / "train/cow").mkdir(), "{root} has no images in train/cow. "),
        (lambda root: (root / "test/a\nb").mkdir(), r"classes that train/ lacks: a\nb. "),
        (
            lambda root: (root / "test/cat").rename(root / "test/Cat"),
            "train/ lacks: Cat (train/cat?). ",
        ),
        (lambda root: (root / "train/x").symlink_to("x"), "{root}/train has broken links: x. "),
        (lambda root: (root / "test/x").symlink_to("nowhere"), "/test has broken links: x. "),
        (
            lambda root: (shutil.rmtree(root / "train"), (root / "train").symlink_to("train")),
            "{root} has broken links: train. ",
        ),
        (
            lambda root: (shutil.rmtree(root / "train"), (root / "train").write_text("")),
            "no folder train/ in {root}, which has test. ",
        ),
    ],
)
def test_a_folder_that_lacks_something_is_refused_before_it_is_decoded(
    folder, read, cache, capfd, faults, spoil, told
):
    spoil(folder)
    assert told.replace("{root}", str(folder)) in refusal(read)
    assert capfd.readouterr().err == ""
    assert not cache.exists()
    faults(DATA_FILES)


@pytest.mark.parametrize(
    "root", ["/no/\nwhere\x1b[0m", "/no/\0where", "/" + "a" * 300, "~no-one/x"]
)
def test_a_path_to_nowhere_is_told_in_one_line_wherever_it_is_given(root, faults):
    assert refusal(lambda: image_folder(root=root)).startswith("data.root: ")
    assert refusal(lambda: npz(file=root)).startswith("data.file: ")
    told = refusal(lambda: torchvision_set(name="mnist", root=root, download=False))
    assert told.startswith("data=mnist: no complete copy in ")
    faults(DATA_FILES, 3)


def test_classes_that_differ_in_case_alone_stay_apart(folder, read):
    write(folder, "train/Cat/a.png", picture(9))
    if len(list((folder / "train").iterdir())) == 2:
        pytest.skip("this file system does not tell case")
    source = read()
    assert source.classes == ("Cat", "cat", "dog")
    assert source.train.labels.tolist() == [0, 1, 1, 2]


def test_a_grey_image_among_coloured_ones_and_one_of_another_size_are_told(folder, read, faults):
    write(folder, "train/dog/grey.png", picture(7, channels=1))
    assert pixels_of(read().train).shape == (4, 3, 6, 5)
    write(folder, "train/dog/large.png", picture(8, height=9))
    assert "data.size is needed because the images differ in size: " in refusal(read)
    faults(DATA_FILES)


@pytest.mark.parametrize("size", [10**6, 2**40])
def test_sizes_that_no_image_may_have_are_refused_before_anything_is_decoded(read, faults, size):
    text = refusal(lambda: read(size=size))
    assert f"data.size: an image of {size} x {size} pixels is larger than the 178," in text
    faults(DATA_FILES)


def test_images_that_neither_disk_nor_memory_holds_are_refused_before_they_are_decoded(
    folder, read, cache, faults
):
    for number in range(4000):
        (folder / f"train/cat/{number}.png").symlink_to(folder / NAMES[0])
    text = refusal(lambda: read(size=13_000))
    assert "data.cache: the 4,005 decoded images take 2,030.5 GB, more than the " in text
    assert ".npy cannot be written: 2,030.5 GB, and " in text
    assert list(cache.iterdir()) == []
    faults(DATA_FILES)


def test_images_of_one_pixel_are_data_too(tmp_path):
    for seed, name in enumerate(NAMES):
        write(tmp_path, name, picture(seed, 1, 1))
    source = image_folder(root=str(tmp_path), cache=str(tmp_path / "cache"))
    check_source(source, "data")
    assert pixels_of(source.train).shape == (3, 3, 1, 1)


@pytest.mark.parametrize("path", ["", "train", "test", "train/cat", "test/dog", "train/cat/a.png"])
def test_what_may_not_be_read_is_named(public, faults, path):
    make_folder(public)
    (public / path).chmod(0)
    with without_rights():
        text = refusal(lambda: image_folder(root=str(public), cache=str(public / "cache")))
    assert path in text
    assert "Permission denied" in text
    faults(DATA_FILES)


def test_the_command_ends_in_one_line_before_any_training(folder, cache, tmp_path, faults):
    put(folder / "train/cat/x\x1b[31m.jpg", b"no picture")
    told = refused_by_command(
        tmp_path, "data=image_folder", f"data.root={folder}", f"data.cache={cache}"
    )
    assert len(told) == 2
    assert told[0].startswith("Decoding the 6 images of ")
    assert f"cannot read 1 of 6 images in {folder}: " in told[1]
    assert r": train/cat/x\x1b[31m.jpg (not a readable image). Repair" in told[1]
    assert not cache.exists()
    faults(DATA_FILES)


def test_warnings_of_the_decoder_do_not_leak(folder, read):
    write(folder, "train/cat/large.png", np.zeros((9500, 9500), np.uint8))  # Pillow warns of it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels_of(read(size=4).train).shape == (4, 3, 4, 4)
