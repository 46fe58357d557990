"""Tables of images: read as they are written, and refused with the lines that are wrong."""

import os

import pytest
import torch

from runner.data import check_source, image_table, split_source
from runner.errors import UserError
from tests.faults.images import picture, released, write

ROWS = [("a/0.png", "cat", "train"), ("a/1.png", "dog", "Train"), ("b/2.png", "cat", "TEST")]
ROWS += [("b/3.png", "dog", "test"), ("4.png", "cat", "valid"), ("5.png", "dog", "Training")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of forty pictures: 0.png and on, those of the rows in their places."""
    root = tmp_path_factory.mktemp("images")
    for n, (name, _, _) in enumerate(ROWS):
        write(root, name, picture(n))
    for n in range(40):
        write(root, f"many/{n}.png", picture(100 + n))
    return root


@pytest.fixture
def read(root, tmp_path):
    def read(text, encoding="utf-8", **arguments):
        (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
        file, cache = str(tmp_path / "labels.csv"), str(tmp_path / "cache")
        source = image_table(**{"file": file, "root": str(root), "cache": cache, **arguments})
        check_source(source, "data")
        return source

    return read


def table(rows, header="file,label,split", separator=","):
    return "\n".join([header.replace(",", separator), *(separator.join(row) for row in rows)])


def files(source, split):
    return [source.files[row] for row in split.rows]


FORMS = {
    "plain": (table(ROWS), "utf-8"),
    "with a byte-order mark": (table(ROWS), "utf-8-sig"),
    "of semicolons": (table(ROWS, separator=";"), "utf-8"),
    "of tabs, with CRLF and empty lines": (
        table(ROWS, separator="\t").replace("\n", "\r\n") + "\r\n\r\n\t\t\r\n",
        "utf-8",
    ),
    "with capitals, spaces and quotes": (table(ROWS, 'File, LABEL ,"split"'), "utf-8"),
    "in another order, with another column": (
        table([(s, "1", f"./{f}", f" {c} ") for f, c, s in reversed(ROWS)], "split,x,file,label"),
        "utf-8",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_read_however_it_is_written(read, form):
    source = read(*FORMS[form])
    assert source.classes == ("cat", "dog")
    assert files(source, source.train) == ["5.png", "a/0.png", "a/1.png"]
    assert files(source, source.test) == ["b/2.png", "b/3.png"]
    assert files(source, source.validation) == ["4.png"]
    assert source.train.labels.tolist() == [1, 0, 1]
    assert source.notes == ()
    pixels = [torch.from_numpy(picture(n)).permute(2, 0, 1) for n in (2, 3)]
    assert torch.equal(source.test.images_of(torch.arange(2)), torch.stack(pixels))


def test_paths_are_relative_to_the_table_or_lead_where_they_will(root, tmp_path):
    outside = root.parent / "outside.png"
    write(root.parent, "outside.png", picture(7))
    rows = [
        ("a/0.png", "cat", "train"),
        (str(outside), "dog", "train"),
        ("../outside.png", "dog", "test"),
    ]
    (root / "own.csv").write_text(table([*rows, ("5.png", "cat", "test")]))
    source = image_table(file=str(root / "own.csv"), cache=str(tmp_path))
    assert files(source, source.test) == ["../outside.png", "5.png"]
    assert torch.equal(
        source.train.images_of(torch.tensor([0])), source.test.images_of(torch.tensor([0]))
    )


def test_whole_numbers_are_sorted_as_numbers_and_a_suffix_is_added(read):
    rows = [(f"many/{n}", str(n % 12)) for n in range(40)]
    source = read(table(rows, "file,label"), test=0.3, suffix=".png")
    assert source.classes == tuple(map(str, range(12)))
    name = source.files[source.test.rows[0]]
    assert source.test.labels[0] == int(name.removeprefix("many/").removesuffix(".png")) % 12


def test_what_no_line_names_is_told_once_and_hidden_files_are_not(read, root, capfd):
    write(root, "a/.hidden.png", picture(0))
    for told in (True, False):
        read(table(ROWS[:2] + ROWS[3:]))
        line = " Ignored: 1 image that no line names (b/2.png).\n"
        assert (line in capfd.readouterr().err) == told


GROUPED = [(f"many/{n}.png", "cat" if n < 24 else "dog", f"p{n // 4}") for n in range(40)]


def groups_of(source, split):
    return {int(file[5:-4]) // 4 for file in files(source, split)}


@pytest.mark.parametrize("split_seed", range(3))
def test_a_group_is_never_in_two_splits(read, split_seed):
    text = table(GROUPED, "file,label,group")
    source = read(text, test=0.3, split_seed=split_seed)
    data = split_source(source, 0.3, seed=split_seed)
    parts = [groups_of(source, split) for split in (data.train, data.validation, data.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10
    assert source.test.labels.bincount().tolist() == [8, 4]  # 2 of 6 and 1 of 4 groups: the nearest
    tests = [read(text, fold=fold, folds=3, split_seed=split_seed) for fold in range(3)]
    held_out = [groups_of(source, source.test) for source in tests]
    assert sum(map(len, held_out)) == len(set.union(*held_out)) == 10
    assert all(len(source.test.labels.unique()) == 2 for source in tests)


def test_the_only_group_of_a_class_stays_in_training(read):
    alone = [(file, f"only{n}", f"q{n}") for n, (file, _, _) in enumerate(GROUPED[24:])]
    source = read(table([*GROUPED[:24], *alone], "file,label,group"), test=0.4)
    assert source.test.labels.tolist() == [0] * 16
    data = split_source(source, "auto", seed=0)
    assert len(data.train.labels.unique()) == 17
    assert data.validation.labels.tolist() == [0] * 4


def test_a_share_is_taken_of_the_training_lines_wherever_they_stand(read):
    rows = [
        (f"many/{n}.png", "cat" if n % 2 else "dog", ("val", "train")[n > 9]) for n in range(40)
    ]
    source = read(table(rows), test=0.2)
    numbers = [sorted(int(f[5:-4]) for f in files(source, s)) for s in (source.train, source.test)]
    assert sorted(numbers[0] + numbers[1]) == [*range(10, 40)]
    assert source.test.labels.bincount().tolist() == [3, 3]
    assert len(source.validation.labels) == 10


def test_notes_say_what_was_done_with_splits_repeats_and_likely_groups(read):
    text = table(
        [(*row, "p") for row in [*ROWS, ROWS[0]] if row[2].lower() != "test"],
        "file,label,split,patient_id",
    )
    rows = text.replace("dog,Training", "cat,valid").splitlines()
    source = read("\n".join([*rows, "many/1.png,Dog ,train,p"]).replace("valid,p", "VALID,p"))
    assert source.validation is None
    assert set(source.notes) == {
        "files that the table names again, alike, are read once: 1",
        "the images of the split val are the test split, as there is no test; images for "
        "validation are taken from train (data.validation)",
        "labels that differ in case or spaces alone are classes: Dog and dog",
        "data.group_column=patient_id would keep the images of one group in one split",
    }
    with_share = read(table(ROWS), test=0.34)
    assert with_share.notes == (
        "the 2 images of the split test are not read: data.test=0.34 takes the test images from "
        "train",
    )
    assert len(with_share.files) == 4


REFUSED = {
    "{csv} is empty. ": ("", {}),
    "{csv} has a header alone. ": ("file,label\n", {}),
    "the first line of {csv} has no column file and no column label, only a/0.png, cat. Write ": (
        table(ROWS, "a/0.png,cat"),
        {},
    ),
    "has no column file, only Image Path, label, split. Set 'data.file_column=\"Image Path\"'.": (
        table(ROWS, "Image Path,label,split"),
        {},
    ),
    "has no column label, only file, breed. Set data.label_column=breed.": ("file,breed\na,b", {}),
    "has no column labl, only file, label. Set data.label_column=label.": (
        table(ROWS, "file,label"),
        {"label_column": "labl"},
    ),
    "has no column set, only file, label, split. Set data.split_column=split.": (
        table(ROWS),
        {"split_column": "set"},
    ),
    "{csv} has two columns label. ": (table(ROWS, "file,label,LABEL"), {}),
    "{csv} has an empty label in lines 3, 4. Correct them, or remove the lines.": (
        "file,label\na/0.png,cat\na/1.png,\na/2.png, \n",
        {"test": 0.5},
    ),
    "{csv} has an empty split in line 2. Correct it, or remove the line. Without a value for every "
    "image, remove the column.": ("file,label,split\na/0.png,cat,", {}),
    "{csv} has other than 2 cells in line 4. ": (
        'file,label\n"a\n0.png",cat\nb, c.png,dog\n',
        {"test": 0.5},
    ),
    "line 3 of {csv} is no CSV: ": ('file,label\na,b\n"a"b,c\n', {}),
    "the splits in {csv} must be train, val or test, got trian (line 3). Did you mean train? ": (
        "file,label,split\na/0.png,cat,train\na/1.png,cat,trian",
        {},
    ),
    "{csv} has no column of splits. Hold out a share for testing: data.test=0.2, or set "
    "data.split_column=subset.": (table(ROWS, "file,label,subset"), {}),
    "{csv} names no test images. Hold out a share for testing: data.test=0.2.": (
        table(ROWS[:2]),
        {},
    ),
    "{csv} contradicts itself: a/0.png is cat (line 2) and dog (line 4). ": (
        table([*ROWS[:2], ("./a/0.png", "dog", "train")]),
        {},
    ),
    "{csv} contradicts itself: a/0.png is train (line 2) and test (line 3). ": (
        table([ROWS[0], (*ROWS[0][:2], "test")]),
        {},
    ),
    "{csv} has labels that no training image has: Cat (line 3; cat?), owl (line 4). ": (
        table([ROWS[0], ("a/1.png", "Cat", "test"), ("b/2.png", "owl", "val")]),
        {},
    ),
    "{csv} divides 1 group: p is in train (line 2) and test (line 4). ": (
        table(
            [(*row, "p" if n != 1 else "q") for n, row in enumerate(ROWS[:3])],
            "file,label,split,group",
        ),
        {},
    ),
    "2 of the 3 files in {csv} are not in {root}: b/7.png (line 3), nul\\x00 (line 4). Set data.": (
        "file,label\na/0.png,cat\nb/7.png,dog\nnul\x01,dog".replace("\x01", "\0"),
        {"test": 0.4},
    ),
    "are not in {root}: 7 (line 2), 8 (line 3). Did you mean 'data.root=\"{root}/many\"' "
    "data.suffix=.png?": ("file,label\n7,cat\n8,dog", {"test": 0.5}),
    "line 2 of {csv} is not UTF-8. Save the table as CSV UTF-8.": ("file,label\né,cat", {}),
    "folds of unequal classes: fewer groups than the 5 folds in dog (4). Set data.folds=4, add ": (
        table(GROUPED, "file,label,group"),
        {"fold": 0},
    ),
}


@pytest.mark.parametrize("told", REFUSED)
def test_a_table_that_is_wrong_is_refused_with_its_lines(read, root, tmp_path, told, capfd):
    text, arguments = REFUSED[told]
    with pytest.raises(UserError) as refusal:
        read(text, encoding="latin-1" if "UTF-8" in told else "utf-8", **arguments)
    said = str(refusal.value)
    assert said.isprintable()
    assert told.replace("{csv}", f"{tmp_path}/labels.csv").replace("{root}", str(root)) in said
    assert capfd.readouterr().err == ""


def test_a_pipe_is_not_waited_for_as_a_table_or_in_one(read, tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with released(pipe):
        with pytest.raises(UserError, match=r"data\.file: .*pipe\.png is not a file\. "):
            image_table(file=str(pipe))
        with pytest.raises(UserError, match=r"pipe\.png \(not a file\)"):
            read(table([*ROWS, (str(pipe), "cat", "train")]))


def test_a_table_that_is_nowhere_is_told(tmp_path):
    with pytest.raises(UserError, match=r"data\.file: .*nowhere\.csv does not exist\. "):
        image_table(file=str(tmp_path / "nowhere.csv"))
