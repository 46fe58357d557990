"""Image folders: decoded once, into a cache that notices changes; errors name what is wrong."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from runner.data import check_source, image_folder, split_source
from runner.errors import UserError
from tests.conftest import settings
from tests.faults.images import NAMES, make_folder, picture, pixels_of, write


@pytest.fixture
def folder(tmp_path):
    """A small folder of images: the picture of seed n under the n-th name."""
    return make_folder(tmp_path / "images")


@pytest.fixture
def read(folder, tmp_path):
    def read(**arguments):
        return image_folder(root=str(folder), cache=str(tmp_path / "cache"), **arguments)

    return read


def chw(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_images_come_back_pixel_for_pixel_with_the_folders_as_classes(read):
    source = read()
    check_source(source, "data")
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 0, 1]
    assert source.test.labels.tolist() == [0, 1]
    assert torch.equal(pixels_of(source.train), torch.stack([chw(picture(n)) for n in (0, 1, 2)]))
    assert torch.equal(pixels_of(source.test), torch.stack([chw(picture(n)) for n in (3, 4)]))


def replaced_unseen(path, pixels):
    """Replace a picture by one of the same size, and restore its time: the listing is the same."""
    before = path.stat()
    Image.fromarray(pixels).save(path)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def bitmaps(folder):
    """The training cats as bitmaps, whose size depends on the shape alone."""
    for seed in (0, 1):
        path = folder / NAMES[seed]
        path.unlink()
        write(folder, path.with_suffix(".bmp").relative_to(folder), picture(seed))
    return folder / "train/cat"


def test_a_folder_that_has_not_changed_is_not_decoded_again(read, bitmaps, capfd):
    first = read()
    assert "Decoding the 5 images of" in capfd.readouterr().err
    replaced_unseen(bitmaps / "a.bmp", picture(99))  # only decoding would notice
    again = read()
    assert torch.equal(pixels_of(again.train), pixels_of(first.train))
    assert torch.equal(again.train.labels, first.train.labels)
    assert torch.equal(pixels_of(again.test), pixels_of(first.test))
    assert again.classes == first.classes
    assert capfd.readouterr().err == ""


def touch(folder):
    os.utime(folder / "a.bmp", ns=(0, (folder / "a.bmp").stat().st_mtime_ns + 1))


def add(folder):
    write(folder, "c.bmp", picture(5))


def remove(folder):
    (folder / "b.bmp").unlink()


def rename(folder):
    (folder / "b.bmp").rename(folder / "c.bmp")


def resize(folder):
    Image.fromarray(picture(0)).save(folder / "b.bmp", dpi=(100, 100))
    with open(folder / "b.bmp", "ab") as file:
        file.write(b"\0")
    os.utime(folder / "b.bmp", ns=(0, 1))


@pytest.mark.parametrize("change", [touch, add, remove, rename, resize])
def test_a_folder_that_has_changed_is_decoded_again_into_the_same_file(
    read, bitmaps, tmp_path, change
):
    os.utime(bitmaps / "b.bmp", ns=(0, 1))
    read()
    replaced_unseen(bitmaps / "a.bmp", picture(99))
    change(bitmaps)
    assert torch.equal(pixels_of(read().train)[0], chw(picture(99)))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_each_size_and_each_folder_has_its_own_cache(read, folder, tmp_path):
    assert pixels_of(read().train).shape == (3, 3, 6, 5)
    assert pixels_of(read(size=4).train).shape == (3, 3, 4, 4)
    assert pixels_of(read().train).shape == (3, 3, 6, 5)
    shutil.copytree(folder, tmp_path / "other", copy_function=shutil.copy2)  # times and all
    image_folder(root=str(tmp_path / "other"), cache=str(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_cache_is_noticed_and_rebuilt(read, tmp_path, capfd, damage):
    whole = pixels_of(read().train)  # a copy: what is mapped would change with the file
    (file,) = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    place = content.find(picture(0).transpose(2, 0, 1).tobytes()[:30])
    assert place > 0
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    damaged = {"flip": flipped, "cut": content[:-100], "empty": b"", "text": b"something else"}
    file.write_bytes(damaged[damage])
    capfd.readouterr()
    assert torch.equal(pixels_of(read().train), whole)
    assert "Decoding" in capfd.readouterr().err
    assert file.read_bytes()[:4] == content[:4]
    read()
    assert capfd.readouterr().err == ""


def test_a_cache_that_cannot_be_written_is_reported_and_does_no_harm(folder, tmp_path, capfd):
    (tmp_path / "file").write_text("in the way")
    source = image_folder(root=str(folder), cache=str(tmp_path / "file"))
    assert len(source.train.labels) == 3
    assert f"not cached: cannot write {tmp_path}/file" in capfd.readouterr().err


@pytest.mark.parametrize("variable", ["BISCUITS_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_the_environment_says_where_the_cache_is(folder, tmp_path, monkeypatch, variable):
    for name in ("BISCUITS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "place"))
    image_folder(root=str(folder))
    below = {"BISCUITS_CACHE": "", "XDG_CACHE_HOME": "biscuits", "HOME": ".cache/biscuits"}
    assert len(list((tmp_path / "place" / below[variable]).glob("images-*.npy"))) == 1


def test_images_that_are_all_grey_have_one_channel(tmp_path):
    for seed, name in enumerate(NAMES):
        write(tmp_path, name, picture(seed, channels=1))
    source = image_folder(root=str(tmp_path), cache=str(tmp_path / "cache"))
    wanted = torch.stack([torch.from_numpy(picture(n, channels=1))[None] for n in (0, 1, 2)])
    assert torch.equal(pixels_of(source.train), wanted)


def test_one_colour_image_makes_all_rgb(folder, read):
    for seed, name in enumerate(NAMES[1:], start=1):
        write(folder, name, picture(seed, channels=1))
    source = read()
    assert torch.equal(pixels_of(source.train)[0], chw(picture(0)))
    grey = torch.from_numpy(picture(4, channels=1))
    assert torch.equal(pixels_of(source.test)[1], grey.expand(3, -1, -1))


def test_transparency_is_dropped(folder, read):
    write(folder, NAMES[0], picture(0, channels=4))
    assert torch.equal(pixels_of(read().train)[0], chw(picture(0, channels=4)[..., :3].copy()))


def test_hidden_files_and_files_with_other_suffixes_are_ignored(folder, read):
    for name in ("train/cat/.a.png", "train/cat/notes.txt", "train/dog/Thumbs.db", "README.md"):
        (folder / name).write_text("not an image")
    (folder / "train/.git").mkdir()
    write(folder, "train/dog/UPPER.PNG", picture(7))
    source = read()
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 0, 1, 1]


def test_resizing_is_antialiased(tmp_path):
    board = np.indices((16, 16)).sum(0) % 2 * 255  # without antialiasing it would alias
    for name in NAMES:
        write(tmp_path, name, board.astype(np.uint8))
    source = image_folder(root=str(tmp_path), size=4, cache=str(tmp_path / "cache"))
    assert pixels_of(source.train).shape == (3, 1, 4, 4)
    assert ((pixels_of(source.train).float() - 127.5).abs() < 20).all()


def test_images_of_different_sizes_need_a_size(folder, read):
    write(folder, "test/cat/big.png", picture(9, height=12, width=20))
    message = (
        r"data\.size is needed .*: train/cat/a\.png is 5 x 6, test/cat/big\.png is 20 x 12 pixels"
        r"\. Set data\.size=5 "
    )
    with pytest.raises(UserError, match=message):
        read()
    source = read(size=6)
    assert pixels_of(source.test).shape == (3, 3, 6, 6)
    with pytest.raises(UserError, match=r"data\.size must be >= 1 or a list, .*, got 0\."):
        settings("data=image_folder", "data.root=images", "data.size=0")


def test_what_the_headers_show_is_all_named_at_once_and_then_what_decoding_finds(
    folder, read, tmp_path
):
    (folder / "train/cat/broken.jpg").write_text("no picture")
    (folder / "test/dog/empty.png").write_bytes(b"")
    whole = (folder / NAMES[4]).read_bytes()
    for name in ("test/dog/cut.png", "train/cat/cut.png"):
        (folder / name).write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((6, 5), 40000, np.uint16)).save(folder / "train/dog/deep.png")
    write(folder, "test/dog/big.png", picture(9, height=12))  # reported once these are repaired
    with pytest.raises(UserError) as caught:
        read()
    text = str(caught.value)
    assert f"cannot read 3 of 11 images in {folder}: " in text
    assert "train/cat/broken.jpg, test/dog/empty.png (not a readable image), train/dog/dee" in text
    assert "data.bits=16 reads" in text
    assert "\n" not in text
    for name in ("train/cat/broken.jpg", "test/dog/empty.png", "train/dog/deep.png"):
        (folder / name).unlink()
    (folder / "test/dog/big.png").unlink()
    with pytest.raises(UserError, match=r"cannot read 2 of 7 .*: train/cat/cut\.png, test/dog/cut"):
        read()
    assert list((tmp_path / "cache").iterdir()) == []


def test_of_many_broken_images_five_are_named_and_the_rest_counted(folder, read):
    for number in range(25):
        (folder / f"train/cat/{number:02d}.jpg").write_text("no picture")
    Image.fromarray(np.full((6, 5), 40000, np.uint16)).save(folder / "train/dog/deep.png")
    named = r"train/cat/00\.jpg, .*, train/cat/04\.jpg and 20 more \(not a readable image\)"
    deep = r"train/dog/deep\.png \(more than 8 bits per channel\)"
    with pytest.raises(UserError, match=rf"cannot read 26 of 31 .*: {named}, {deep}\. ") as caught:
        read()
    assert "05.jpg" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, r"data\.root: .*images does not exist\. Expected train/<class>/\*\.jpg"),
        (
            lambda root: shutil.rmtree(root / "train"),
            r"data\.root: no folder train/ in .*images, which has test\. ",
        ),
        (
            lambda root: shutil.rmtree(root / "test"),
            r"data\.root: no folder test/ or val/ in .*images, which has train\. ",
        ),
        (
            lambda root: [shutil.rmtree(path) for path in (root / "train").iterdir()],
            r"data\.root: no folder in .*images/train\. ",
        ),
        (
            lambda root: (root / "train/dog/a.png").unlink(),
            r"data\.root: .*images has no images in train/dog\. Expected files that end in \.jpg ",
        ),
        (
            lambda root: [path.unlink() for path in (root / "test").glob("*/*")],
            r"data\.root: .*images has no images in test\. Expected files that end in \.jpg ",
        ),
        (
            lambda root: write(root, "test/fox/a.png", picture(0)),
            r"data\.root: .*images/test has classes that train/ lacks: fox\. ",
        ),
    ],
)
def test_an_incomplete_folder_is_refused_by_name(folder, read, spoil, message):
    spoil(folder)
    with pytest.raises(UserError, match=message):
        read()


def test_a_root_that_is_a_file_is_refused(folder):
    with pytest.raises(UserError, match=r"data\.root: .*a\.png is not a folder\. "):
        image_folder(root=str(folder / NAMES[0]))


@pytest.mark.parametrize("spoil", [shutil.rmtree, lambda dog: (dog / "y.png").unlink()])
def test_a_class_without_test_images_is_allowed_and_told(folder, read, spoil):
    spoil(folder / "test/dog")
    source = read()
    assert source.test.labels.tolist() == [0]
    told = "the test split has no images of dog: the test accuracy is over 1 of 2 classes"
    assert split_source(source, 0.0, seed=0).notes == (told,)
