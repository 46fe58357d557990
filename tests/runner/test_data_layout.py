"""Which images are in which split: by folders, by a share, by folds; the same for every seed."""

import pytest
import torch

from runner.data import check_source, image_folder, split_source
from runner.data.folds import HoldOut, deal_out
from runner.errors import UserError
from tests.conftest import settings
from tests.faults.images import picture, write

SIZES = {"cat": 7, "dog": 13, "fox": 20}


def fill(root, split="", start=0, **sizes):
    """Write so many different pictures of each class; picture n under the n-th name."""
    for name, count in sizes.items():
        for n in range(start, start + count):
            write(root, f"{split}/{name}/{n:02}.png".lstrip("/"), picture(hash_of(split, name, n)))
    return root


def hash_of(split, name, n):
    return sum(map(ord, split + name)) * 100 + n


def files(source, split):
    return [source.files[row] for row in split.rows]


@pytest.fixture
def read(tmp_path):
    def read(root, **arguments):
        source = image_folder(root=str(root), cache=str(tmp_path / "cache"), **arguments)
        check_source(source, "data")
        return source

    return read


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A folder of classes without splits."""
    return fill(tmp_path_factory.mktemp("photos"), **SIZES)


def test_without_test_images_val_is_the_test_split_and_a_note_says_so(tmp_path, read):
    root = fill(fill(tmp_path / "a", "train", cat=10, dog=10), "val", cat=3, dog=4)
    source = read(root)
    assert source.validation is None
    assert all(file.startswith("val/") for file in files(source, source.test))
    data = split_source(source, "auto", seed=0)
    assert data.notes == (
        "val/ is the test split, as there is no test/; images for validation are taken from train/ "
        "(data.validation)",
    )
    assert [len(s.labels) for s in (data.train, data.validation, data.test)] == [18, 2, 7]


def test_with_a_share_val_stays_the_validation_split(tmp_path, read):
    root = fill(fill(tmp_path / "a", "train", cat=10, dog=10), "val", cat=3, dog=4)
    source = read(root, test=0.2)
    assert source.test.labels.tolist() == [0, 0, 1, 1]
    assert all(file.startswith("train/") for file in files(source, source.test))
    assert all(file.startswith("val/") for file in files(source, source.validation))
    assert source.notes == ()


def test_with_a_share_a_folder_of_test_images_is_not_read(tmp_path, read, capfd):
    root = fill(tmp_path / "a", "train", cat=10, dog=10)
    write(root, "test/unlabelled.png", picture(0))
    source = read(root, test=0.2)
    assert not [file for file in source.files if file.startswith("test")]
    assert source.notes == ("test/ is not read: data.test=0.2 takes the test images from train/",)
    assert "Ignored: the folder test/." in capfd.readouterr().err


def test_a_share_of_one_folder_is_taken_of_each_class(classes, read):
    source = read(classes, test=0.25)
    assert source.classes == ("cat", "dog", "fox")
    assert source.test.labels.bincount().tolist() == [2, 3, 5]  # 1.75, 3.25, 5
    assert sorted(files(source, source.train) + files(source, source.test)) == sorted(source.files)
    assert len(set(source.files)) == sum(SIZES.values())
    for split in (source.train, source.test):
        for n, (file, label) in enumerate(zip(files(source, split), split.labels, strict=True)):
            name, _, number = file.partition("/")
            assert name == source.classes[label]
            pixels = picture(hash_of("", name, int(number[:2])))
            found = split.images_of(torch.tensor([n]))[0]
            assert torch.equal(found, torch.from_numpy(pixels).permute(2, 0, 1))


def test_each_image_is_in_one_fold_and_the_folds_are_alike(classes, read, capfd):
    tests, counts = [], []
    for fold in range(5):
        source = read(classes, fold=fold)
        tests += files(source, source.test)
        counts.append(source.test.labels.bincount(minlength=3))
        assert not {*files(source, source.test)} & {*files(source, source.train)}
        assert len(source.files) == len(source.test.labels) + len(source.train.labels)
    assert sorted(tests) == sorted(source.files)
    spread = torch.stack(counts)
    assert (spread.amax(0) - spread.amin(0) <= 1).all()
    assert spread.sum(1).tolist() == [8] * 5
    assert capfd.readouterr().err.count("Decoding") == 1


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_differ_by_at_most_one_image_in_all_and_in_each_class(folds):
    labels = torch.tensor([0] * 7 + [1] * 13 + [2] * 20)
    table = torch.zeros(folds, 3).index_put_(
        (deal_out(labels, folds, seed=1), labels), torch.ones(40), accumulate=True
    )
    for sizes in (*table.unbind(1), table.sum(1)):
        assert sizes.max() - sizes.min() <= 1


def test_which_images_are_tested_depends_on_the_split_seed_alone(classes, read):
    one, same, other = (read(classes, test=0.25, split_seed=seed) for seed in (0, 0, 1))
    assert files(one, one.test) == files(same, same.test) != files(other, other.test)
    a, b = (split_source(one, "auto", seed) for seed in (0, 1))
    assert torch.equal(a.test.rows, b.test.rows)
    assert not torch.equal(a.validation.rows, b.validation.rows)


def test_names_of_splits_may_have_capitals_and_end_in_ing(tmp_path, read):
    root = fill(fill(tmp_path / "a", "Training", cat=3, dog=3), "TESTING", cat=2, dog=1)
    fill(root, "Valid", cat=1, dog=1)
    source = read(root)
    assert [len(s.labels) for s in (source.train, source.test, source.validation)] == [6, 3, 2]


def nested(root):
    fill(root, "photos", cat=2, dog=2)


REFUSED = {
    "no folder train/ in {root}, which has cat, dog. If these are the classes, hold out a share "
    "for testing: data.test=0.2. ": (lambda root: fill(root, cat=2, dog=2), {}),
    "no folder train/ in {root}, which has photos. Did you mean 'data.root=\"{root}/photos\"'?": (
        nested,
        {},
    ),
    "only one class in {root}, photos. Did you mean 'data.root=\"{root}/photos\"'?": (
        nested,
        {"test": 0.2},
    ),
    "no folder train/ in {root}, which has a, b. Did you mean 'data.root=\"{root}/b\"'?": (
        lambda root: (fill(root, "a", cat=1), fill(root, "b/Train", cat=1)),
        {},
    ),
    "no folder train/ in {root}, which has cat, test. ": (
        lambda root: fill(root, cat=2, test=2),
        {"test": 0.5},
    ),
    "no folder test/ or val/ in {root}, which has train. Add it, or hold out a share of train/ for "
    "testing: data.test=0.2.": (lambda root: fill(root, "train", cat=2, dog=2), {}),
    "{root} has no images in test. ": (
        lambda root: (fill(root, "train", cat=2, dog=2), write(root, "test/1.png", picture(0))),
        {},
    ),
    "{root} has Train, train, and each could be the training split. ": (
        lambda root: (fill(root, "train", cat=2, dog=2), fill(root, "Train", cat=2, dog=2)),
        {},
    ),
    "{root}/Test has classes that Train/ lacks: Cat (Train/cat?). ": (
        lambda root: (fill(root, "Train", cat=2, dog=2), fill(root, "Test", Cat=2)),
        {},
    ),
    "labels in a table are read by data=image_table.": (
        lambda root: write(root, "cat_1.png", picture(0)),
        {},
    ),
}


@pytest.mark.parametrize("told", REFUSED)
def test_a_folder_that_is_laid_out_otherwise_is_refused_with_a_remedy(tmp_path, read, told):
    make, arguments = REFUSED[told]
    make(tmp_path / "a")
    with pytest.raises(UserError) as refusal:
        read(tmp_path / "a", **arguments)
    assert told.replace("{root}", str(tmp_path / "a")).lower() in str(refusal.value).lower()


def test_a_table_given_for_a_folder_is_told_apart(tmp_path, read):
    (tmp_path / "a.csv").write_text("file,label")
    with pytest.raises(
        UserError, match=r"a\.csv is a file\. Read it with data=image_table 'data\.f"
    ):
        read(tmp_path / "a.csv")


def test_classes_with_fewer_images_than_folds_are_named_before_anything_is_decoded(
    classes, read, tmp_path
):
    told = (
        r"data\.folds: folds of unequal classes: fewer images than the 10 folds in cat \(7\)\. "
        r"Set data\.folds=7, add images, or remove the class\."
    )
    with pytest.raises(UserError, match=told):
        read(classes, folds=10, fold=0)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"test": 0.2, "fold": 1}, r"data\.test=0\.2 and data\.fold=1 both choose the test images"),
        ({"test": 0.2, "folds": 5}, r"data\.test=0\.2 and data\.folds=5 both choose"),
        ({"folds": 3}, r"data\.folds=3 needs data\.fold, .* -m data\.folds=3 'data\.fold=range\(3"),
        ({"fold": 5}, r"data\.fold must be from 0 to 4, as there are 5 folds, got 5\. "),
        ({"folds": 3, "fold": 3}, r"must be from 0 to 2, as there are 3 folds, got 3\. "),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, told):
    with pytest.raises(UserError, match=told):
        HoldOut(**given)


@pytest.mark.parametrize("share", [0.01, 0.95])
def test_a_share_that_takes_nothing_or_too_much_is_refused(classes, read, share):
    with pytest.raises(UserError, match=rf"data\.test={share} takes \d+ of 40 images\. It must "):
        read(classes, test=share)


@pytest.mark.parametrize("given", ["test=1", "folds=1"])
def test_values_out_of_range_are_refused_by_the_config(given):
    with pytest.raises(UserError, match=rf"^data\.{given.partition('=')[0]} must be "):
        settings("data=image_folder", "data.root=images", f"data.{given}")
