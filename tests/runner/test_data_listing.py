"""What of a folder is read: as torchvision's ImageFolder does, and the rest is told."""

import os

import pytest
import torch
from torchvision.datasets import ImageFolder

from runner.data import check_source, image_folder, split_source
from runner.data.layout import VALIDATION
from runner.data.listing import scan
from runner.errors import UserError
from tests.faults.images import make_folder, picture, pixels_of, write


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "images")


def assert_as_torchvision(root, split, listing, rows):
    files = [listing.files[row] for row in rows]
    theirs = [(os.path.relpath(path, root), label) for path, label in ImageFolder(root / split)]
    assert [(file.path, file.label) for file in files] == theirs


@pytest.fixture(autouse=True)
def _paths_alone(monkeypatch):
    monkeypatch.setattr(ImageFolder, "__getitem__", lambda self, index: self.samples[index])


def test_images_at_any_depth_are_listed_as_torchvision_lists_them(folder, tmp_path):
    names = ("b.png", "A.JPG", "zoo/10.png", "zoo/9.webp", "a b/ü/ß.tiff", "a/1.bmp", "a.b/1.png")
    for seed, name in enumerate(names):
        write(folder, f"train/cat/{name}", picture(seed))
        write(tmp_path, f"elsewhere/deep/{name}", picture(seed))
    write(folder, "test/dog/more/x.ppm", picture(0))
    (folder / "train/dog/linked").symlink_to(tmp_path / "elsewhere")
    (folder / "train/dog/one.png").symlink_to(tmp_path / "elsewhere/deep/b.png")
    (folder / "train/cat/empty").mkdir()
    (folder / "train/cat/notes.txt").write_text("not an image")
    listing = scan(folder)
    assert len(listing.train) == 3 + 2 * len(names)  # b.png was there, and one.png is new
    assert_as_torchvision(folder, "train", listing, listing.train)
    assert_as_torchvision(folder, "test", listing, listing.test)
    source = image_folder(root=str(folder), cache=str(tmp_path / "cache"))
    assert len(source.train.labels) == len(listing.train)


@pytest.mark.parametrize("name", VALIDATION)
def test_a_folder_for_validation_is_the_validation_split(folder, tmp_path, name, capfd):
    for seed in range(4):
        write(folder, f"{name}/{('cat', 'dog')[seed % 2]}/{seed}.png", picture(20 + seed))
    source = image_folder(root=str(folder), cache=str(tmp_path / "cache"))
    check_source(source, "data")
    assert "Decoding the 9 images" in capfd.readouterr().err
    data = split_source(source, "auto", seed=0)
    assert data.validation.labels.tolist() == [0, 0, 1, 1]
    wanted = [torch.from_numpy(picture(20 + seed)).permute(2, 0, 1) for seed in (0, 2, 1, 3)]
    assert torch.equal(pixels_of(data.validation), torch.stack(wanted))
    assert torch.equal(pixels_of(data.train), pixels_of(source.train))
    assert data.notes == ()
    share = split_source(source, 0.4, seed=0)
    assert len(share.train.labels) == 2
    assert share.notes == (
        "the 4 images of the data set's own validation split are not used, as "
        "data.validation=0.4; auto uses them",
    )


def test_without_one_a_tenth_is_held_out_as_before(folder, tmp_path):
    for seed in range(18):
        write(folder, f"train/dog/{seed}.png", picture(seed))
    source = image_folder(root=str(folder), cache=str(tmp_path / "cache"))
    auto, tenth = (split_source(source, share, seed=3) for share in ("auto", 0.1))
    assert len(auto.validation.labels) == 2
    assert torch.equal(pixels_of(auto.validation), pixels_of(tenth.validation))


def test_what_is_left_alone_is_told_once(folder, tmp_path, capfd):
    for name in ("1.gif", "2.GIF", "3.avif", "Makefile", ".x.png", "._y.jpg", ".DS_Store"):
        (folder / "train/cat" / name).write_text("")
    (folder / "train/cat/.ipynb_checkpoints").mkdir()
    write(folder, "test/loose.png", picture(0))
    write(folder, "train/.loose.png", picture(0))
    (folder / "unlabelled\x1b[31m").mkdir()
    (folder / "README.md").write_text("")
    for told in (True, False):
        image_folder(root=str(folder), cache=str(tmp_path / "cache"))
        err = capfd.readouterr().err
        assert (err.count("\n") == 1) == told
        line = (
            " Ignored: 3 hidden, 2 .gif, 1 .avif, 1 without a suffix, "
            r"1 beside the classes of test/, the folder unlabelled\x1b[31m/."
        )
        assert (line in err) == told


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda root: (root / "train/cat/up").symlink_to(".."),
            "train/cat and train/cat/up/cat in {root} are the same folder, by a link. ",
        ),
        (
            lambda root: (root / "train/cat/self").symlink_to("."),
            "train/cat and train/cat/self in {root} are the same folder, by a link. ",
        ),
        (
            lambda root: [(root / f"train/cat/{n}").symlink_to(root / "test/cat") for n in "ab"],
            " in {root} are the same folder, by a link. Remove the link.",
        ),
        (
            lambda root: (root / "train/cat/more").symlink_to("nowhere"),
            "{root}/train/cat has broken links: more. Repair or remove them.",
        ),
        (lambda root: (root / "val/cat").mkdir(parents=True), "{root} has no images in val. "),
        (
            lambda root: write(root, "val/fox/a.png", picture(0)),
            "{root}/val has classes that train/ lacks: fox. ",
        ),
        (
            lambda root: [(root / name).mkdir() for name in ("val", "valid")],
            "{root} has val, valid, and each could be the validation split. ",
        ),
        (
            lambda root: (root / "test/cat").rename(root / "test/ca\u0301t"),
            "{root}/test has classes that train/ lacks: ca\u0301t. ",
        ),
        (
            lambda root: (root / "test/cat").rename(root / "test/CAT "),
            "{root}/test has classes that train/ lacks: CAT  (train/cat?). ",
        ),
    ],
)
def test_links_that_meet_again_and_splits_that_do_not_fit_are_refused(folder, make, told):
    make(folder)
    with pytest.raises(UserError) as refusal:
        scan(folder)
    assert told.replace("{root}", str(folder)) in str(refusal.value)


def test_links_cannot_multiply_the_work(folder):
    for level in range(25):  # 2 to the power of 25 ways to the deepest
        place = folder / "train/cat" / "/".join(["a"] * level)
        (place / "a").mkdir()
        (place / "b").symlink_to("a")
    with pytest.raises(UserError, match="are the same folder, by a link"):
        scan(folder)
