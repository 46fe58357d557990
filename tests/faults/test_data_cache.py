"""The cache of decoded images, damaged, or of a folder that changes: never a wrong one."""

import json
import os
import re
import shutil
import zlib

import numpy as np
import pytest

from runner.data import cache as cached
from runner.data import image_folder
from runner.data import images as images_module
from runner.data.decode import Reading
from tests.faults.images import (
    CACHES,
    EACH,
    TENTHS,
    assert_right,
    cache_file,
    flipped,
    make_folder,
    picture,
    put,
    refusal,
    released,
    without_rights,
    write,
)


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
    key, wanted = json.loads(whole[whole.rindex(b'{"key"') :])["key"], np.load(file)
    places, noticed = range(0, len(whole), step), 0
    for place in places:
        put(file, flipped(whole, place, place % 8))
        noticed += cached.load(file, key, 5, Reading()) is None
    assert noticed == len(places)
    put(file, whole)
    assert np.array_equal(cached.load(file, key, 5, Reading()), wanted)
    faults(CACHES, len(places))


def test_any_flipped_bit_in_the_shape_of_cached_images_is_noticed(tmp_path, faults):
    file, images = tmp_path / "x.npy", picture(0, 5 * 3 * 64, 64, 1).reshape(5, 3, 64, 64)
    assert np.array_equal(cached.save(file, "key", images.shape, np.uint8, images), images)
    whole = file.read_bytes()
    start = whole.index(b"(5, 3, 64, 64)")
    for bit in range(8 * len("(5, 3, 64, 64)")):
        put(file, flipped(whole, start + bit // 8, bit % 8))
        assert cached.load(file, "key", 5, Reading()) is None
    faults(CACHES, 8 * len("(5, 3, 64, 64)"))


@pytest.mark.parametrize("tenth", TENTHS)
def test_a_byte_flipped_in_any_tenth_of_a_cache_is_decoded_again(read, cache, faults, tenth):
    assert_right(read())
    file = cache_file(cache)
    whole = file.read_bytes()
    put(file, flipped(whole, len(whole) * tenth // 10 + 5, tenth % 8))
    assert_right(read())
    assert cached.load(file, "another key", 5, Reading()) is None
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
    file = tmp_path / "x.npy"
    np.save(file, images, allow_pickle=True)
    line = cached._line("key", images.shape, images.dtype, zlib.crc32(file.read_bytes()))
    put(file, file.read_bytes() + line)
    got = cached.load(file, "key", 5, Reading())
    assert (got is None) == (images is not RIGHT)
    assert cached.load(file, "another", 5, Reading()) is None
    assert cached.load(file, "key", 5, Reading(6)) is None
    assert cached.load(file, "key", 5, Reading(bits=16)) is None
    faults(CACHES, 4)


def test_a_cache_that_another_process_replaces_while_it_is_checked_is_read_to_its_end(
    tmp_path, monkeypatch, faults
):
    file, others = tmp_path / "images.npy", tmp_path / "others.npy"
    images = np.arange(5 * 3 * 4 * 4, dtype=np.uint8).reshape(5, 3, 4, 4)
    cached.save(file, "key", images.shape, np.uint8, images)
    cached.save(others, "another", images.shape, np.uint8, images[::-1])
    checksum = cached._checksum

    def replaced(handle, size):
        others.replace(file)
        return checksum(handle, size)

    monkeypatch.setattr(cached, "_checksum", replaced)
    assert np.array_equal(cached.load(file, "key", 5, Reading()), images)
    faults(CACHES)


def test_what_is_no_file_in_the_place_of_a_cache_is_not_read(read, folder, cache, capfd, faults):
    file = cached.path(str(cache), folder, Reading())
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
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # of whom /etc/passwd knows nothing
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
    told, decode = [], images_module._decode

    def decode_meanwhile(*arguments):
        yield from decode(*arguments)
        told.append(happens(folder))

    with monkeypatch.context() as patch:
        patch.setattr(images_module, "_decode", decode_meanwhile)
        text = refusal(read)
    assert f"{folder} changed while it was being read: {told[0]}. " in text
    assert list(cache.iterdir()) == []
    if happens is not change:  # that one is of another size now
        read()
        assert len(list(cache.iterdir())) == 1
    faults(CACHES)


def test_a_folder_that_vanishes_while_it_is_decoded_is_refused(
    folder, read, cache, monkeypatch, faults
):
    decode = images_module._decode

    def decode_meanwhile(*arguments):
        yield from decode(*arguments)
        shutil.rmtree(folder)

    monkeypatch.setattr(images_module, "_decode", decode_meanwhile)
    assert f"{folder} does not exist. " in refusal(read)
    assert list(cache.iterdir()) == []
    faults(CACHES)
