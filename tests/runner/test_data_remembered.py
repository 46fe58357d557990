"""What is computed of all images once: the same as anew, and anew when anything is another."""

import json
import os

import numpy as np
import pytest
import torch

from runner.data import Split, image_folder, remembered, split_source
from runner.data.cache import Origin, save
from tests.conftest import run_in
from tests.faults.images import make_folder

SMALL = ("data.validation=0.3", "epochs=1", "batch_size=3", "model=resnet8", "model.width=2")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Have small files remembered too."""
    monkeypatch.setattr(remembered, "LEAST", 0)


@pytest.fixture
def split(tmp_path):
    file = tmp_path / "images-x.npy"
    images = torch.from_numpy(save(file, "key", (4, 1, 2, 2), np.uint8, np.zeros((4, 1, 2, 2))) + 0)
    return Split(images, torch.tensor([0, 1, 0]), torch.tensor([3, 1, 2]), Origin.of(file))


def computed(splits, what="sum"):
    """Count how often it is computed."""
    times = []
    found = remembered.remembered(splits, what, lambda: times.append(0) or [1.5, None, "x"])
    assert found == [1.5, None, "x"]
    return len(times)


def test_it_is_computed_once_for_the_same_samples_of_the_same_file(split):
    assert [computed([split]) for _ in range(3)] == [1, 0, 0]
    others = (
        [split._replace(rows=torch.tensor([3, 2, 1]))],
        [split._replace(labels=torch.tensor([0, 1, 1]))],
        [split._replace(labels=split.labels[:2], rows=split.rows[:2])],
        [split, split],
        [split._replace(origin=split.origin._replace(modified=1))],
        [split._replace(origin=split.origin._replace(number=1))],
        [split._replace(origin=split.origin._replace(size=1))],
    )
    assert [computed(other) for other in others] == [1] * len(others)
    assert computed([split], "product") == 1
    assert computed([split]) == 0


def test_without_a_file_and_of_a_few_bytes_it_is_computed_each_time(split, monkeypatch):
    assert [computed([split._replace(origin=None)]) for _ in range(2)] == [1, 1]
    assert [computed([split._replace(rows=None)]) for _ in range(2)] == [1, 1]
    assert [computed([split, split._replace(origin=None)]) for _ in range(2)] == [1, 1]
    monkeypatch.setattr(remembered, "LEAST", 10**6)
    assert [computed([split]) for _ in range(2)] == [1, 1]


def test_a_damaged_file_is_as_none(split, tmp_path):
    computed([split])
    (file,) = tmp_path.glob("known-*.json")
    for text in ("", "[1]", json.dumps({"key": "of another", "value": 1}), file.read_text()[:-9]):
        file.write_text(text)
        assert computed([split]) == 1
    file.unlink()
    os.mkfifo(file)
    assert [computed([split]), file.unlink()] == [1, None]


def test_the_statistics_and_a_run_are_the_same_to_the_bit(tmp_path, monkeypatch):
    root, cache = make_folder(tmp_path / "images"), tmp_path / "cache"
    given = ("data=image_folder", f"data.root={root}", f"data.cache={cache}", *SMALL)
    results = [run_in(tmp_path / f"{n}", *given) for n in range(3)]
    assert len([*cache.glob("known-*.json")]) == 2
    data = [json.loads((tmp_path / f"{n}" / "run.json").read_text())["data"] for n in range(3)]
    for place in range(1, 3):
        assert results[place]["weights"] == results[0]["weights"]
        assert data[place] == data[0]
    one, other = (split_source(image_folder(str(root), cache=str(cache)), 0.3, 0) for _ in range(2))
    monkeypatch.setattr(remembered, "LEAST", 10**9)
    anew = split_source(image_folder(str(root), cache=str(cache)), 0.3, 0)
    for found in (one, other):
        assert torch.equal(found.mean, anew.mean)
        assert torch.equal(found.std, anew.std)
