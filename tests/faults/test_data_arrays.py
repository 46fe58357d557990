"""Files of arrays that are damaged, lie or do not fit: refused in one line, and never unpickled."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from runner.data import check_source, npz
from runner.errors import UserError
from tests.faults.images import (
    DATA_FILES,
    EACH,
    IMAGES,
    LABELS,
    TENTHS,
    flipped,
    put,
    refusal,
    released,
    without_rights,
)
from tests.faults.payloads import OnLoad


def test_a_file_of_arrays_that_may_not_be_read_is_named(public, faults):
    np.savez(public / "mine.npz", **ARRAYS)
    (public / "mine.npz").chmod(0)
    with without_rights():
        text = refusal(lambda: npz(file=str(public / "mine.npz")))
    assert "mine.npz cannot be read (Permission denied). " in text
    faults(DATA_FILES)


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
    faults(DATA_FILES)


@pytest.mark.parametrize("name", [*ARRAYS, "classes", "another"])
def test_objects_in_arrays_are_never_unpickled(load, tmp_path, faults, name):
    trap = np.array([OnLoad(os.mkdir, str(tmp_path / "sprung"))], dtype=object)
    if name == "another":
        load(another=trap)
    else:
        assert "Object arrays cannot be loaded" in refusal(lambda: load(**{name: trap}))
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "sprung").exists()  # it is a trap
    faults(DATA_FILES)


@pytest.mark.parametrize("missing", ARRAYS)
def test_a_file_without_one_of_its_arrays_tells_what_it_holds(tmp_path, faults, missing):
    arrays = {name: array for name, array in ARRAYS.items() if name != missing}
    np.savez(tmp_path / "mine.npz", **arrays, **{"\x1b[31m\n": LABELS})
    text = refusal(lambda: npz(file=str(tmp_path / "mine.npz")))
    assert f"mine.npz has no {missing}, only {', '.join(arrays)}, \\x1b[31m\\n. " in text
    faults(DATA_FILES)


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
    faults(DATA_FILES)


def test_arrays_that_unpack_to_more_than_the_memory_are_refused_before_they_are_read(
    tmp_path, faults
):
    file = tmp_path / "mine.npz"
    np.savez(file, **ARRAYS)
    with zipfile.ZipFile(file, "a") as archive:
        archive.getinfo("x_test.npy").file_size = 2**50
        archive.writestr("another.npy", b"")  # else the directory is not written again
    text = refusal(lambda: npz(file=str(file)))
    assert f"data.file: the arrays of {file} take 1,125,899.9 GB, more than the " in text
    faults(DATA_FILES)


def pixels_and_labels(source):
    return [*source.train[:2], *source.test[:2]]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_of_arrays_cut_short_anywhere_is_refused(tmp_path, faults, save):
    file = tmp_path / "mine.npz"
    save(file, **ARRAYS)
    whole = file.read_bytes()
    for tenth in TENTHS:
        put(file, whole[: len(whole) * tenth // 10])
        assert "is not an .npz file, or is truncated. " in refusal(lambda: npz(file=str(file)))
    faults(DATA_FILES, len(TENTHS))


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
    faults(DATA_FILES, len(places))


def test_what_is_no_file_is_not_read_as_arrays(tmp_path, faults):
    os.mkfifo(tmp_path / "pipe")
    with released(tmp_path / "pipe"):
        assert "pipe is not a file. " in refusal(lambda: npz(file=str(tmp_path / "pipe")))
    assert f"{tmp_path} is not a file. " in refusal(lambda: npz(file=str(tmp_path)))
    np.save(tmp_path / "x.npy", IMAGES)
    assert "x.npy is not an .npz file" in refusal(lambda: npz(file=str(tmp_path / "x.npy")))
    faults(DATA_FILES, 3)
