"""Damaged, wrong and changing data: one clear line before any training, never a wrong cache."""

import fcntl
import gzip
import hashlib
import http.server
import io
import os
import pickle
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torchvision import datasets

from runner.data import Source, Split, check_source, image_folder, npz, torchvision_set
from runner.data import cache as cached
from runner.data import decode as decoding
from runner.data.decode import decode
from runner.errors import UserError
from tests.conftest import ROOT

FILES, CACHES = "damaged or wrong data files", "damaged caches"
TENTHS = range(10)
EACH = [7, pytest.param(1, marks=pytest.mark.slow)]  # bytes


def refusal(read, *arguments):
    """Return the error of refused data: one printable line, with what to do at its end."""
    with pytest.raises(UserError) as caught:
        read(*arguments)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 2000
    assert re.search(r"\S\. [A-Z].*\.$", text), text
    return text


def picture(seed, height=6, width=5, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(root, name, pixels):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / name)


NAMES = (
    "train/cat/a.png",
    "train/cat/b.png",
    "train/dog/a.png",
    "test/cat/z.png",
    "test/dog/y.png",
)


def make_folder(root):
    for seed, name in enumerate(NAMES):
        write(root, name, picture(seed))
    return root


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "images")


@pytest.fixture
def cache(tmp_path):
    """Its folder, not made yet."""
    return tmp_path / "cache"


@pytest.fixture
def read(folder, cache):
    def read(**arguments):
        return image_folder(root=str(folder), cache=str(cache), **arguments)

    return read


def assert_right(source):
    images = torch.cat([source.train.images, source.test.images])
    wanted = [torch.from_numpy(picture(n)).permute(2, 0, 1) for n in range(len(NAMES))]
    assert torch.equal(images, torch.stack(wanted))
    assert source.train.labels.tolist() == [0, 0, 1]


@contextmanager
def released(pipe):
    """Give back, after a while, who waits for a pipe: so that a test fails, and does not hang."""
    timer = threading.Timer(5, lambda: os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK)))
    timer.start()
    yield
    assert timer.is_alive(), "the pipe was waited for"
    timer.cancel()


@contextmanager
def without_rights():
    """Let the rights of files count, also for root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public():
    """A folder that anybody may enter: pytest's own belong to their user."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


# Folders of images


def png(width, height, depth=8, colour=2, pixels=b""):
    """A PNG that claims a size, https://www.w3.org/TR/png-3."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def put(path, content):
    path.write_bytes(content)


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
        (lambda path: put(path, b""), "not an image"),
        (lambda path: put(path, b"no picture"), "not an image"),
        (lambda path: put(path, bytes(5000)), "not an image"),
        (lambda path: put(path, png(0, 0)), "not an image"),
        (lambda path: put(path, b"P6 0 5 255\n"), "not an image"),
        (lambda path: put(path, png(5, 6)), "image file is truncated"),
        (lambda path: put(path, png(10_000, 10_000)), "image file is truncated"),
        (lambda path: put(path, png(60_000, 60_000)), "Image size ("),
        (lambda path: put(path, png(2**31 - 1, 2**31 - 1)), "Image size ("),
        (depth16, "more than 8 bits per channel"),
        (not_numbers, "more than 8 bits per channel"),
    ],
)
def test_what_is_no_image_is_named_before_anything_is_kept(
    folder, read, cache, faults, spoil, told
):
    spoil(folder / "train/cat/x.png")
    text = refusal(read)
    assert f"cannot read 1 of 6 images in {folder}: train/cat/x.png ({told}" in text
    assert not cache.exists()
    faults(FILES)


def test_a_pipe_among_the_images_is_named_and_not_waited_for(folder, read, faults):
    os.mkfifo(folder / "train/cat/x.jpg")
    with released(folder / "train/cat/x.jpg"):
        assert "train/cat/x.jpg (not a file)" in refusal(read)
    faults(FILES)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_an_image_cut_short_at_any_tenth_is_refused(tmp_path, faults, kind):
    content = io.BytesIO()
    Image.fromarray(picture(0, 40, 40)).save(content, kind)
    whole = content.getvalue()
    for tenth in TENTHS:
        put(tmp_path / "x", whole[: len(whole) * tenth // 10])
        text = refusal(decode, tmp_path, ["x"], None)
        assert f"cannot read 1 of 1 images in {tmp_path}: x (" in text
    faults(FILES, len(TENTHS))


def test_a_flipped_bit_in_any_byte_of_a_png_is_refused_or_changes_no_pixel(tmp_path, faults):
    write(tmp_path, "x.png", picture(0))
    whole, wanted = (tmp_path / "x.png").read_bytes(), decode(tmp_path, ["x.png"], None)
    refused = 0
    for place in range(len(whole)):
        put(tmp_path / "x.png", flipped(whole, place, place % 8))
        try:
            assert np.array_equal(decode(tmp_path, ["x.png"], None), wanted)
        except UserError:
            refused += 1
    assert refused > 0.8 * len(whole)  # the rest: checksums after the last pixel
    faults(FILES, len(whole))


def flipped(content, place, bit=0):
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def test_names_that_are_no_text_or_hold_control_codes_are_told_in_one_line(folder, read, faults):
    raw = os.fsencode(folder / "train/cat")
    for name in (b"x\n\x1b[31m\r.jpg", b"x\xff\xfe.jpg", "x\u202e\u2028.jpg".encode()):
        try:
            put(Path(os.fsdecode(raw + b"/" + name)), b"no picture")
        except OSError as error:
            pytest.skip(f"this file system does not take such names: {error}")
    text = refusal(read)
    assert r"train/cat/x\n\x1b[31m\r.jpg (not an image)" in text
    assert r"train/cat/x\udcff\udcfe.jpg (not an image)" in text
    assert r"train/cat/x\u202e\u2028.jpg (not an image)" in text
    faults(FILES, 3)


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
    faults(FILES, 2)


def remove_class(root, name):
    for split in ("train", "test"):
        shutil.rmtree(root / split / name)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "/images does not exist. "),
        (lambda root: remove_class(root, "dog"), "only one class in {root}/train, cat. "),
        (lambda root: (root / "train/cow").mkdir(), "{root} has no images in train/cow. "),
        (lambda root: (root / "test/a\nb").mkdir(), r"classes that train/ has not: a\nb. "),
        (lambda root: (root / "test/cat").rename(root / "test/Cat"), "train/ has not: Cat. "),
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
    faults(FILES)


@pytest.mark.parametrize(
    "root", ["/no/\nwhere\x1b[0m", "/no/\0where", "/" + "a" * 300, "~no-one/x"]
)
def test_a_path_to_nowhere_is_told_in_one_line_wherever_it_is_given(root, faults):
    assert refusal(lambda: image_folder(root=root)).startswith("data.root: ")
    assert refusal(lambda: npz(file=root)).startswith("data.file: ")
    told = refusal(lambda: torchvision_set(name="mnist", root=root, download=False))
    assert told.startswith("data=mnist: no complete copy in ")
    faults(FILES, 3)


def test_classes_that_differ_in_case_alone_stay_apart(folder, read):
    write(folder, "train/Cat/a.png", picture(9))
    if len(list((folder / "train").iterdir())) == 2:
        pytest.skip("this file system does not tell case")
    source = read()
    assert source.classes == ("Cat", "cat", "dog")
    assert source.train.labels.tolist() == [0, 1, 1, 2]


def test_a_grey_image_among_coloured_ones_and_one_of_another_size_are_told(folder, read, faults):
    write(folder, "train/dog/grey.png", picture(7, channels=1))
    assert read().train.images.shape == (4, 3, 6, 5)
    write(folder, "train/dog/large.png", picture(8, height=9))
    assert "data.size is needed because the images differ in size: " in refusal(read)
    faults(FILES)


@pytest.mark.parametrize("size", [10**6, 2**40])
def test_images_that_no_memory_holds_are_refused_before_they_are_decoded(read, faults, size):
    text = refusal(lambda: read(size=size))
    assert f"data.size: 5 images of {size} x {size} pixels do not fit into memory: " in text
    faults(FILES)


def test_images_of_one_pixel_are_data_too(tmp_path):
    for seed, name in enumerate(NAMES):
        write(tmp_path, name, picture(seed, 1, 1))
    source = image_folder(root=str(tmp_path), cache=str(tmp_path / "cache"))
    check_source(source, "data")
    assert source.train.images.shape == (3, 3, 1, 1)


@pytest.mark.parametrize("path", ["", "train", "test", "train/cat", "test/dog", "train/cat/a.png"])
def test_what_may_not_be_read_is_named(public, faults, path):
    make_folder(public)
    (public / path).chmod(0)
    with without_rights():
        text = refusal(lambda: image_folder(root=str(public), cache=str(public / "cache")))
    assert path in text
    assert "Permission denied" in text
    faults(FILES)


def test_a_file_of_arrays_that_may_not_be_read_is_named(public, faults):
    np.savez(public / "mine.npz", **ARRAYS)
    (public / "mine.npz").chmod(0)
    with without_rights():
        text = refusal(lambda: npz(file=str(public / "mine.npz")))
    assert "mine.npz cannot be read (Permission denied). " in text
    faults(FILES)


# Arrays


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
ARRAYS = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:3], "y_test": LABELS[:3]}


@pytest.fixture
def load(tmp_path):
    """Write arrays, some of them changed, and read them as the bench does."""

    def load(**changes):
        np.savez(tmp_path / "mine.npz", **{**ARRAYS, **changes})
        source = npz(file=str(tmp_path / "mine.npz"))
        check_source(source, "data")
        return source

    return load


def with_value(array, value, dtype):
    array = array.astype(dtype)
    array.flat[1] = value
    return array


NUMBERING = "y_train must number the classes from 0, without gaps, got "


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x_train": with_value(IMAGES, np.nan, "f4")}, "float32 [6, 5, 5, 3] with NaN or inf"),
        ({"x_test": with_value(IMAGES, np.inf, "f8")}, "float64 [6, 5, 5, 3] with NaN or inf"),
        ({"x_train": with_value(IMAGES, -np.inf, "f2")}, "float16 [6, 5, 5, 3] with NaN or inf"),
        ({"x_train": IMAGES / 255}, "must be uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], got"),
        ({"x_train": IMAGES > 9}, "got bool [6, 5, 5, 3]. "),
        ({"x_train": IMAGES.astype(np.uint16)}, "got uint16 [6, 5, 5, 3]. "),
        ({"x_train": IMAGES.view(np.int8)}, "got int8 [6, 5, 5, 3]. "),
        ({"x_train": np.uint8(3)}, "got uint8 []. "),
        ({"x_train": IMAGES[..., :2]}, "must have 1, 3 or 4 channels"),
        ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "x_train is empty: uint8 [0, 5, 5, 3]. "),
        ({"x_test": IMAGES[:0], "y_test": LABELS[:0]}, "x_test is empty: uint8 [0, 5, 5, 3]. "),
        ({"x_train": IMAGES[:, :0]}, "x_train is empty: uint8 [6, 0, 5, 3]. "),
        (
            {"x_test": IMAGES[:3, :2]},
            "training images have the shape (3, 5, 5), the test images (3, 2, 5). ",
        ),
        (
            {"x_test": IMAGES[:3, :, :, :1]},
            "training images have the shape (3, 5, 5), the test images (1, 5, 5). ",
        ),
        (
            {"y_train": LABELS[:5]},
            "train.labels must be int64 [6], one for each image, got int64 [5]",
        ),
        ({"y_test": LABELS}, "test.labels must be int64 [3], one for each image, got int64 [6]. "),
        ({"y_train": LABELS - 1}, NUMBERING + "-1 in 6 labels. "),
        ({"y_train": LABELS - 9}, NUMBERING + "-9 in 6 labels. "),
        ({"y_train": with_value(LABELS, 10**9, "i8")}, NUMBERING + "1000000000 in 6 labels. "),
        (
            {"y_train": with_value(LABELS, 2**64 - 1, "u8")},
            NUMBERING + f"{2**64 - 1} in 6 labels. ",
        ),
        ({"y_train": LABELS * 2}, "no training images of class 1, 3. "),
        (
            {"y_test": LABELS[:3] + 1},
            "test.labels must be from 0 to 2, as there are 3 classes, got 3",
        ),
        (
            {"y_test": LABELS[:3] - 1},
            "test.labels must be from 0 to 2, as there are 3 classes, got -1",
        ),
        ({"y_train": LABELS * 0, "y_test": LABELS[:3] * 0}, "two or more different names, got 0. "),
        ({"y_train": LABELS + 0.5}, "y_train must be integers [N], got float64 [6]. "),
        (
            {"classes": np.array(["a", "b"])},
            "labels must be from 0 to 1, as there are 2 classes, got",
        ),
        ({"classes": np.array(["a\n", "a\n", "c"])}, r"different names, got a\n, a\n, c. "),
        ({"classes": np.array("abc")}, "classes must be text or integers [K], got <U3 []. "),
        (
            {"classes": np.array([["a"], ["b"]])},
            "classes must be text or integers [K], got <U1 [2, 1]",
        ),
        (
            {"classes": np.array([b"a", b"b", b"c"])},
            "classes must be text or integers [K], got |S1",
        ),
    ],
)
def test_unfit_arrays_are_refused(load, faults, changes, told):
    assert told in refusal(lambda: load(**changes))
    faults(FILES)


class Trap:
    """What makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", [*ARRAYS, "classes", "another"])
def test_objects_in_arrays_are_never_unpickled(load, tmp_path, faults, name):
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    if name == "another":
        load(another=trap)
    else:
        assert "Object arrays cannot be loaded" in refusal(lambda: load(**{name: trap}))
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "sprung").exists()  # it is a trap
    faults(FILES)


@pytest.mark.parametrize("missing", ARRAYS)
def test_a_file_without_one_of_its_arrays_tells_what_it_holds(tmp_path, faults, missing):
    arrays = {name: array for name, array in ARRAYS.items() if name != missing}
    np.savez(tmp_path / "mine.npz", **arrays, **{"\x1b[31m\n": LABELS})
    text = refusal(lambda: npz(file=str(tmp_path / "mine.npz")))
    assert f"mine.npz has no {missing}, only {', '.join(arrays)}, \\x1b[31m\\n. " in text
    faults(FILES)


def npy(shape, content, kind="|u1"):
    """An array's file with a header of one's own, numpy.lib.format."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (len(head) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


@pytest.mark.parametrize(
    ("member", "told"),
    [
        (npy("(1000000000000, 5, 5, 3)", IMAGES.tobytes()), "Unable to allocate"),
        (npy("(9223372036854775807, 9)", IMAGES.tobytes()), ""),
        (npy("(600, 5, 5, 3)", IMAGES.tobytes()), "EOF: reading array data"),
        (npy("(5, 5, 5, 3)", IMAGES.tobytes()), "x_train holds more than its shape [5, 5, 5, 3]"),
        (npy("(6, 0, 5, 3)", IMAGES.tobytes()), "x_train holds more than its shape [6, 0, 5, 3]"),
        (npy("(-6, 5, 5, 3)", IMAGES.tobytes()), "negative dimensions"),
        (npy("('six',)", IMAGES.tobytes()), "shape is not valid"),
        (npy("(" * 200 + ")" * 200, b""), "Cannot parse header"),
        (npy("(" + "1," * 100 + ")", b"x"), ""),
        (npy("(6,)", bytes(48), "|O"), "Object arrays cannot be loaded"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "EOF: reading array header"),
        (b"\x93NUMPY\x09\x00\xff\xff{", ""),
        (b"plain", "EOF: reading magic string"),
        (b"", "EOF: reading magic string"),
    ],
)
def test_an_array_whose_header_lies_is_refused(tmp_path, faults, member, told):
    file = tmp_path / "mine.npz"
    np.savez(file, **{name: array for name, array in ARRAYS.items() if name != "x_train"})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("x_train.npy", member)
    text = refusal(lambda: npz(file=str(file)))
    assert f"data.file: cannot read {file}: " in text
    assert told in text
    faults(FILES)


def pixels_and_labels(source):
    return [*source.train, *source.test]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_of_arrays_cut_short_anywhere_is_refused(tmp_path, faults, save):
    file = tmp_path / "mine.npz"
    save(file, **ARRAYS)
    whole = file.read_bytes()
    for tenth in TENTHS:
        put(file, whole[: len(whole) * tenth // 10])
        assert "is not an .npz file, or is truncated. " in refusal(lambda: npz(file=str(file)))
    faults(FILES, len(TENTHS))


@pytest.mark.parametrize("step", EACH)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_in_a_file_of_arrays_is_refused_or_changes_nothing(
    tmp_path, faults, save, step
):
    file = tmp_path / "mine.npz"
    save(file, **ARRAYS)
    whole, wanted = file.read_bytes(), pixels_and_labels(npz(file=str(file)))
    places, refused = range(0, len(whole), step), 0
    for place in places:
        put(file, flipped(whole, place, place % 8))
        try:
            got = pixels_and_labels(npz(file=str(file)))
            assert all(map(torch.equal, got, wanted))
        except UserError:
            refused += 1
    assert refused > 0.7 * len(places)  # the rest: dates, and the like
    faults(FILES, len(places))


def test_what_is_no_file_is_not_read_as_arrays(tmp_path, faults):
    os.mkfifo(tmp_path / "pipe")
    with released(tmp_path / "pipe"):
        assert "pipe is not a file. " in refusal(lambda: npz(file=str(tmp_path / "pipe")))
    assert f"{tmp_path} is not a file. " in refusal(lambda: npz(file=str(tmp_path)))
    np.save(tmp_path / "x.npy", IMAGES)
    assert "x.npy is not an .npz file" in refusal(lambda: npz(file=str(tmp_path / "x.npy")))
    faults(FILES, 3)


# A function of the user's own


PIXELS, NUMBERS = torch.from_numpy(IMAGES).permute(0, 3, 1, 2), torch.from_numpy(LABELS)
SOUND = Split(PIXELS, NUMBERS)


def source(train=SOUND, test=SOUND, classes=("a", "b", "c")):
    return Source(train, test, classes)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "must return a runner.data.Source, got NoneType. "),
        (source(train=None), "train must be a runner.data.Split, got NoneType. "),
        (source(test=(PIXELS, NUMBERS)), "test must be a runner.data.Split, got tuple. "),
        (source(classes=None), "classes must be a tuple of str, got None. "),
        (source(classes="abc"), "classes must be a tuple of str, got abc. "),
        (source(classes=(0, 1, 2)), "classes must be a tuple of str, got (0, 1, 2). "),
        (source(classes=("a\n", "a\n", "c")), r"different names, got a\n, a\n, c. "),
        (source(classes=("a",)), "two or more different names, got a. Add a second class. "),
        (source(Split(PIXELS / 255, NUMBERS)), "got float32 [6, 3, 5, 5]. "),
        (source(Split(PIXELS / 0.0, NUMBERS)), "got float32 [6, 3, 5, 5] with NaN or infinity"),
        (source(Split((PIXELS / 0.0).half(), NUMBERS)), "got float16 [6, 3, 5, 5] with NaN or"),
        (source(Split(PIXELS > 9, NUMBERS)), "got bool [6, 3, 5, 5]. "),
        (source(Split(PIXELS.to(torch.uint16), NUMBERS)), "got uint16 [6, 3, 5, 5]. "),
        (source(Split(IMAGES, NUMBERS)), "got ndarray. "),
        (source(Split(PIXELS.to("meta"), NUMBERS)), "on the CPU, got torch.strided on meta. "),
        (
            source(Split(PIXELS, NUMBERS.to_sparse())),
            "dense tensor on the CPU, got torch.sparse_coo",
        ),
        (
            source(Split(PIXELS[:0], NUMBERS[:0])),
            "train is empty: uint8 [0, 3, 5, 5]. ",
        ),
        (source(Split(PIXELS[..., :0], NUMBERS)), "train is empty: uint8 [6, 3, 5, 0]. "),
        (source(Split(PIXELS, NUMBERS[:5])), "labels must be int64 [6], one for each image, got"),
        (source(Split(PIXELS, NUMBERS > 0)), "got bool [6]. "),
        (source(Split(PIXELS, NUMBERS - 1)), "labels must be from 0 to 2, as there are 3 classes"),
        (
            source(test=Split(PIXELS, NUMBERS + 2**40)),
            "as there are 3 classes, got 1099511627778. ",
        ),
        (
            source(test=Split(PIXELS[:, :1], NUMBERS)),
            "training images have the shape (3, 5, 5), the test images (1, 5, 5). ",
        ),
        (source(Split(PIXELS, NUMBERS * 0)), "no training images of class b, c. "),
    ],
)
def test_a_function_of_the_users_own_that_gives_back_the_wrong_thing_is_refused(
    given, told, faults
):
    assert told.rstrip() in refusal(check_source, given, "data (mine)")
    faults(FILES)


# Torchvision's sets


def idx(array):
    """MNIST's own format, https://yann.lecun.com/exdb/mnist: big-endian sizes, then bytes."""
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


DIGITS = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
MNIST = {
    "train-images-idx3-ubyte": DIGITS,
    "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
    "t10k-images-idx3-ubyte": DIGITS,
    "t10k-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
}


@pytest.fixture
def raw(tmp_path):
    """The folder of MNIST's files, which torchvision reads unchecked."""
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for name, array in MNIST.items():
        put(folder / name, idx(array))
    return folder


def read_mnist(raw, download=True):
    source = torchvision_set(name="mnist", root=str(raw.parent.parent), download=download)
    check_source(source, "data")
    return source


@pytest.mark.parametrize("name", MNIST)
def test_a_file_of_mnist_cut_short_at_any_tenth_is_named_damaged(raw, faults, name):
    assert len(read_mnist(raw).train.labels) == 20
    whole = (raw / name).read_bytes()
    for tenth in TENTHS:
        put(raw / name, whole[: len(whole) * tenth // 10])
        assert f"data=mnist: the files in {raw} are damaged: " in refusal(read_mnist, raw)
    faults(FILES, len(TENTHS))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train-images-idx3-ubyte", idx(DIGITS[0]), "are damaged: "),
        ("train-images-idx3-ubyte", b"\x00\x00\x0d\x03" + bytes(12), "are damaged: "),
        ("train-images-idx3-ubyte", b"\x00\x00\x0a\x03" + bytes(12), "are damaged: "),
        ("train-images-idx3-ubyte", b"\xff" * 999, "are damaged: "),
        ("train-images-idx3-ubyte", idx(DIGITS)[:-1] + b"xx", "are damaged: "),
        ("t10k-images-idx3-ubyte", idx(DIGITS[:, :9]), "the test images (1, 9, 28). "),
        ("train-labels-idx1-ubyte", idx(np.arange(19, dtype=np.uint8) % 10), "one for each image"),
        ("train-labels-idx1-ubyte", idx(np.arange(20, dtype=np.uint8)), "from 0 to 9"),
        (
            "train-labels-idx1-ubyte",
            idx(np.zeros(20, np.uint8)),
            "no training images of class 1 - one, ",
        ),
    ],
)
def test_wrong_files_of_mnist_are_refused(raw, faults, name, content, told):
    put(raw / name, content)
    assert told in refusal(read_mnist, raw, False)
    faults(FILES)


def test_a_damaged_batch_of_cifar_is_not_unpickled(tmp_path, faults):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", *(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        put(folder / name, pickle.dumps(Trap(tmp_path / "sprung")))
    text = refusal(lambda: torchvision_set(name="cifar10", root=str(tmp_path), download=False))
    assert f"no complete copy in {tmp_path}, and data.download is false. " in text
    assert not (tmp_path / "sprung").exists()
    faults(FILES, 7)


@pytest.fixture
def mirror(monkeypatch):
    """A server of MNIST's archives, with a list of what was asked for; `cut` sends the half."""
    archives = {f"/{name}.gz": gzip.compress(idx(array)) for name, array in MNIST.items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        asked, cut = [], False

        def do_GET(self):
            content = archives[self.path]
            self.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if Handler.cut else content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        sums = [(name[1:], hashlib.md5(content).hexdigest()) for name, content in archives.items()]
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        monkeypatch.setattr(datasets.MNIST, "resources", sums)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        urllib.request.install_opener(None)  # it remembers the proxies
        yield Handler
        server.shutdown()


def test_a_download_cut_short_is_refused_and_fetched_again(tmp_path, mirror, faults):
    mirror.cut = True
    raw = tmp_path / "MNIST/raw"
    assert "the download failed: " in refusal(read_mnist, raw)
    mirror.cut = False
    assert torch.equal(read_mnist(raw).train.images[:, 0], torch.from_numpy(DIGITS))
    faults(FILES)


def test_of_runs_that_start_together_one_downloads_for_all(tmp_path, mirror):
    raw, got = tmp_path / "MNIST/raw", []
    runs = [threading.Thread(target=lambda: got.append(read_mnist(raw))) for _ in range(3)]
    with FileLock(tmp_path / ".MNIST.lock"):  # as one that downloads has it
        for run in runs:
            run.start()
        time.sleep(0.1)
        assert mirror.asked == []
    for run in runs:
        run.join()
    assert len(got) == 3
    assert len(set(mirror.asked)) == 4
    assert all(mirror.asked.count(path) <= 2 for path in mirror.asked)  # its head, and itself
    assert socket.getdefaulttimeout() is None


# The cache


def cache_file(cache):
    (file,) = cache.iterdir()
    return file


def test_a_cache_cut_short_at_any_tenth_is_made_anew(read, cache, capfd, faults):
    assert_right(read())
    whole = cache_file(cache).read_bytes()
    for tenth in TENTHS:
        put(cache_file(cache), whole[: len(whole) * tenth // 10])
        capfd.readouterr()
        assert_right(read())
        assert "Decoding the 5 images" in capfd.readouterr().err
        assert_right(read())
        assert capfd.readouterr().err == ""
    faults(CACHES, len(TENTHS))


@pytest.mark.parametrize("step", EACH)
def test_a_flipped_bit_in_a_cache_is_noticed_or_changes_nothing(read, cache, faults, step):
    assert_right(read())
    file = cache_file(cache)
    whole = file.read_bytes()
    with np.load(file) as content:
        key, wanted = str(content["key"]), content["images"]
    places, noticed = range(0, len(whole), step), 0
    for place in places:
        put(file, flipped(whole, place, place % 8))
        images = cached.load(file, key, 5, None)
        noticed += images is None
        assert images is None or np.array_equal(images, wanted)
    assert noticed > 0.7 * len(places)  # the rest: dates, and the like
    faults(CACHES, len(places))


def test_any_flipped_bit_in_the_shape_of_cached_images_is_noticed(tmp_path, faults):
    file, images = tmp_path / "x.npz", picture(0, 5 * 3 * 64, 64, 1).reshape(5, 3, 64, 64)
    cached.save(file, "key", images)
    whole = file.read_bytes()
    start = whole.index(b"(5, 3, 64, 64)")
    for bit in range(8 * len("(5, 3, 64, 64)")):
        put(file, flipped(whole, start + bit // 8, bit % 8))
        assert cached.load(file, "key", 5, None) is None
    faults(CACHES, 8 * len("(5, 3, 64, 64)"))


@pytest.mark.parametrize("tenth", TENTHS)
def test_a_byte_flipped_in_any_tenth_of_a_cache_is_decoded_again(read, cache, faults, tenth):
    assert_right(read())
    file = cache_file(cache)
    whole = file.read_bytes()
    put(file, flipped(whole, len(whole) * tenth // 10 + 5, tenth % 8))
    assert_right(read())
    assert cached.load(file, "another key", 5, None) is None
    faults(CACHES)


RIGHT = np.zeros((5, 3, 6, 5), np.uint8)


@pytest.mark.parametrize(
    "images",
    [
        RIGHT[:4],
        RIGHT.astype(np.float32),
        RIGHT.view(np.int8),
        RIGHT[:, :2],
        RIGHT[0],
        RIGHT[..., :0],
        np.array(7, np.uint8),
        np.array([None] * 5, dtype=object),
        RIGHT,
    ],
)
def test_a_cache_of_other_images_than_are_listed_is_not_taken(tmp_path, faults, images):
    file = tmp_path / "x.npz"
    np.savez(file, key=np.array("key"), images=images)
    got = cached.load(file, "key", 5, None)
    assert (got is None) == (images is not RIGHT)
    assert cached.load(file, "another", 5, None) is None
    assert cached.load(file, "key", 5, 6) is None
    faults(CACHES, 3)


def test_what_is_no_file_in_the_place_of_a_cache_is_not_read(read, folder, cache, capfd, faults):
    file = cached.path(str(cache), folder, None)
    file.mkdir(parents=True)
    assert_right(read())
    assert f"are not cached: cannot write {file}: Is a directory. " in capfd.readouterr().err
    assert list(cache.iterdir()) == [file]
    file.rmdir()
    os.mkfifo(file)
    with released(file):
        assert_right(read())
    assert file.is_file()
    faults(CACHES, 2)


def test_a_cache_that_may_not_be_written_is_told_and_does_no_harm(public, capfd, faults):
    make_folder(public / "images")
    (public / "cache").mkdir()
    (public / "cache").chmod(0o555)
    for place in ("cache", "cache/below", "images/train/cat/a.png", "images/train/cat/a.png/x"):
        with without_rights():
            assert_right(image_folder(root=str(public / "images"), cache=str(public / place)))
        told = capfd.readouterr().err.splitlines()
        assert len(told) == 2
        assert re.match(r"The decoded images are not cached: cannot write .*: \w", told[1])
    assert list((public / "cache").iterdir()) == []
    faults(CACHES, 4)


def test_a_user_without_a_home_is_told_to_name_a_cache(folder, monkeypatch, faults):
    for name in ("BISCUITS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # of whom /etc/passwd knows nothing
    text = refusal(lambda: image_folder(root=str(folder)))
    assert "No folder for the cache: this user has no home directory. " in text
    faults(CACHES)


def add(folder):
    write(folder, "train/cat/c.png", picture(9))
    return "train/cat/c.png"


def remove(folder):
    (folder / "train/cat/b.png").unlink()
    return "train/cat/b.png"


def rename(folder):
    (folder / "test/cat/z.png").rename(folder / "test/cat/x.png")
    return "test/cat/x.png, test/cat/z.png"


def change(folder):
    write(folder, "train/dog/a.png", picture(9, 7, 5))
    return "train/dog/a.png"


def touch(folder):
    os.utime(folder / "train/dog/a.png", ns=(1, 1))
    return "train/dog/a.png"


def move(folder):
    (folder / "train/cat/b.png").rename(folder / "train/dog/b.png")
    return "train/cat/b.png, train/dog/b.png"


@pytest.mark.parametrize("happens", [add, remove, rename, change, touch, move])
def test_a_folder_that_changes_while_it_is_decoded_is_refused_and_nothing_is_kept(
    folder, read, cache, monkeypatch, faults, happens
):
    told = []

    def decode_meanwhile(*arguments):
        images = decode(*arguments)
        told.append(happens(folder))
        return images

    with monkeypatch.context() as patch:
        patch.setattr("runner.data.class_folders.decode", decode_meanwhile)
        text = refusal(read)
    assert f"{folder} changed while it was being read: {told[0]}. " in text
    assert not cache.exists()
    if happens is not change:  # that one is of another size now
        read()
        assert len(list(cache.iterdir())) == 1
    faults(CACHES)


def test_a_folder_that_vanishes_while_it_is_decoded_is_refused(
    folder, read, cache, monkeypatch, faults
):
    def decode_meanwhile(*arguments):
        images = decode(*arguments)
        shutil.rmtree(folder)
        return images

    monkeypatch.setattr("runner.data.class_folders.decode", decode_meanwhile)
    assert f"{folder} does not exist. " in refusal(read)
    assert not cache.exists()
    faults(CACHES)


# Processes that die, stop, meet a full disk, or come together


SIDE = 256  # of the decoded images: so that a cache takes a while to write

CHILD = f"""
import hashlib, os, resource, signal, sys
from runner.data import image_folder

def load(root, cache):
    source = image_folder(root=root, cache=cache, size={SIDE})
    images = source.train.images.numpy().tobytes() + source.test.images.numpy().tobytes()
    print(hashlib.sha256(images).hexdigest(), flush=True)

def forked(*work):
    child = os.fork()
    if child == 0:
        try:
            for call, *arguments in work:
                call(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return child

root, cache = sys.argv[2:4]
"""


def child(script, *arguments):
    """Begin a Python process that can load a folder and fork."""
    command = [sys.executable, "-W", "ignore", "-c", CHILD + script, script.strip(), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def digest(source):
    images = source.train.images.numpy().tobytes() + source.test.images.numpy().tobytes()
    return hashlib.sha256(images).hexdigest()


def test_a_process_killed_at_any_tenth_of_the_write_leaves_no_cache_and_the_next_start_no_trace(
    folder, read, cache, faults
):
    wanted = digest(read(size=SIDE))
    whole = cache_file(cache).stat().st_size
    shutil.rmtree(cache)
    # the kernel kills at the very byte (SIGXFSZ), where Python does not ask it not to
    script = """
for limit in map(int, sys.argv[4:]):
    child = forked(
        (signal.signal, signal.SIGXFSZ, signal.SIG_DFL),
        (resource.setrlimit, resource.RLIMIT_CORE, (0, 0)),
        (resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
        (load, root, cache),
    )
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
    limits = [100, *(whole * tenth // 10 for tenth in range(1, 10)), whole - 1]
    out, _ = child(script, folder, cache, *limits).communicate(timeout=60)
    assert out.split() == [str(int(signal.SIGXFSZ))] * len(limits)
    assert cache_file(cache).suffix == ".tmp"  # the last one's; each start removed another's
    assert digest(read(size=SIDE)) == wanted
    assert cache_file(cache).suffix == ".npz"  # alone
    faults(CACHES, len(limits))


def test_a_full_disk_at_any_tenth_of_the_write_costs_the_cache_and_nothing_else(
    folder, read, cache, faults
):
    wanted = digest(read(size=SIDE))
    whole = cache_file(cache).stat().st_size
    shutil.rmtree(cache)
    script = """
for limit in map(int, sys.argv[4:]):
    child = forked(
        (resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)), (load, root, cache)
    )
    assert os.waitpid(child, 0)[1] == 0
"""
    limits = [0, 1, 100, *(whole * tenth // 10 for tenth in range(1, 10)), whole - 1]
    out, err = child(script, folder, cache, *limits).communicate(timeout=60)
    assert re.findall("[0-9a-f]{64}", out) == [wanted] * len(limits), err
    told = [line for line in err.splitlines() if not line.startswith("Decoding the 5 images of ")]
    assert len(told) == len(limits)
    for line in told:
        assert re.match(r"The decoded images are not cached: cannot write .*: File too ", line)
    assert list(cache.iterdir()) == []
    faults(CACHES, len(limits))


def test_a_process_stopped_in_the_write_keeps_its_file_and_killed_loses_it(
    folder, read, cache, capfd, faults
):
    script = """
import numpy as np
whole = np.savez
np.savez = lambda *these, **those: (whole(*these, **those), os.kill(os.getpid(), signal.SIGSTOP))
load(root, cache)
"""
    process = child(script, folder, cache)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    left = cache_file(cache)
    assert left.name.endswith(f".npz.{process.pid}.tmp")
    source = read(size=SIDE)
    assert left.exists()  # it lives
    process.kill()
    process.communicate()
    assert left.exists()
    capfd.readouterr()
    assert digest(read(size=SIDE)) == digest(source)
    assert capfd.readouterr().err == ""  # from the cache
    assert cache_file(cache).suffix == ".npz"  # alone
    faults(CACHES, 2)


def test_processes_that_decode_at_once_get_the_same_images_and_leave_one_cache(
    folder, read, cache, faults
):
    script = """
children = [forked((load, root, cache)) for _ in range(4)]
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""
    out, err = child(script, folder, cache).communicate(timeout=60)
    assert re.findall("[0-9a-f]{64}", out) == [digest(read(size=SIDE))] * 4, err
    assert cache_file(cache).suffix == ".npz"
    assert "not cached" not in err
    faults(CACHES, 4)


def test_ctrl_c_in_the_write_leaves_nothing(read, cache, monkeypatch, faults):
    def savez(*these, **those):
        whole(*these, **those)
        os.kill(os.getpid(), signal.SIGINT)

    whole = np.savez
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", savez)
        with pytest.raises(KeyboardInterrupt):
            read()
    assert list(cache.iterdir()) == []
    assert_right(read())
    faults(CACHES)


def test_ctrl_c_while_decoding_does_not_wait_for_all_images(folder, cache, monkeypatch, faults):
    begun = []

    def read_and_press(path, size):
        begun.append(path)
        if len(begun) == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return read_one(path, size)

    read_one = decoding._read
    monkeypatch.setattr(decoding, "_read", read_and_press)
    for number in range(2000):
        (folder / f"train/cat/{number}.png").symlink_to(folder / NAMES[0])
    with pytest.raises(KeyboardInterrupt):
        image_folder(root=str(folder), cache=str(cache), size=64)
    assert len(begun) < 1500
    assert not cache.exists()
    faults(CACHES)


def test_only_leftovers_of_the_dead_are_removed(read, cache):
    cache.mkdir()
    names = (".images-0.npz.1.tmp", ".images-1.npz.2.tmp", ".other.3.tmp", "images-2.npz")
    for name in names:
        (cache / name).write_bytes(b"half")
    with (cache / names[0]).open("rb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        assert_right(read())
        assert [(cache / name).exists() for name in names] == [True, False, True, True]
    assert_right(read())
    assert [(cache / name).exists() for name in names] == [False, False, True, True]


def test_a_file_that_is_made_and_not_locked_yet_is_left_to_its_maker(read, cache):
    cache.mkdir()
    new = cache / ".images-0.npz.1.tmp"
    new.touch()
    assert_right(read())
    assert new.exists()
    os.utime(new, (0, 0))
    assert_right(read())
    assert not new.exists()


def run_command(folder, *arguments, **environment):
    """Give back what the command tells of a run that it must refuse."""
    done = subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert not list(folder.rglob("metrics.jsonl"))
    return done.stderr.splitlines()


def test_the_command_ends_in_one_line_before_any_training(folder, cache, tmp_path, faults):
    put(folder / "train/cat/x\x1b[31m.jpg", b"no picture")
    told = run_command(tmp_path, "data=image_folder", f"data.root={folder}", f"data.cache={cache}")
    assert len(told) == 2
    assert told[0].startswith("Decoding the 6 images of ")
    assert f"cannot read 1 of 6 images in {folder}: " in told[1]
    assert r": train/cat/x\x1b[31m.jpg (not an image). Repair" in told[1]
    assert not cache.exists()
    faults(FILES)


OWN = """
import torch
from runner.data import Source, Split

def load():
    split = Split(torch.full((4, 1, 8, 8), torch.nan), torch.tensor([0, 1, 0, 1]))
    return Source(split, split, ("a", "b"))
"""


@pytest.mark.slow
def test_the_command_refuses_what_a_function_of_the_users_own_gives_back(tmp_path, faults):
    (tmp_path / "own_images.py").write_text(OWN)
    (told,) = run_command(
        tmp_path, "data._target_=own_images.load", BISCUITS_ALLOW="own_images.load"
    )
    assert told.startswith("data (own_images.load): train.images must be uint8 [N, C, H, W], got ")
    assert "float32 [4, 1, 8, 8] with NaN or infinity in it. " in told
    faults(FILES)


def test_warnings_of_the_decoder_do_not_leak(folder, read):
    write(folder, "train/cat/large.png", np.zeros((9500, 9500), np.uint8))  # Pillow warns of it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(size=4).train.images.shape == (4, 3, 4, 4)
