"""mistakes.png: the worst mistakes of a run, as pictures of a kind that any data set has."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from runner import tiles
from runner.build import build
from runner.run import mistakes
from tests.conftest import settings


@pytest.fixture(scope="module")
def bench():
    return build(settings("data.validation=0"))


def sure(bench, wrong):
    """Make logits that are right but for some images, which are taken for the next class."""
    labels = bench.data.test.labels.clone()
    logits = torch.nn.functional.one_hot(labels, 10).float()
    for height, image in enumerate(wrong):
        logits[image] = 0
        logits[image, (labels[image] + 1) % 10] = 1.0 + height
    return logits


def test_the_worst_mistakes_come_first_and_are_at_most_24(bench):
    wrong = [*range(100, 0, -3)]  # the last one is the surest
    labels = bench.data.test.labels.numpy()
    found = mistakes.worst(sure(bench, wrong).numpy(), labels).tolist()
    assert found == wrong[::-1][: mistakes.MOST]
    equal = sure(bench, [])
    equal[[7, 3, 5]] = 0.0  # as likely as each other, and of any class but the first wrong
    expected = [n for n in (3, 5, 7) if labels[n] != 0]
    assert mistakes.worst(equal.numpy(), labels).tolist() == expected


def test_the_picture_has_the_pixels_of_the_images_and_is_the_same_each_time(bench, tmp_path):
    logits = sure(bench, [5, 9])
    mistakes.write(tmp_path, bench, logits)
    content = (tmp_path / "mistakes.png").read_bytes()
    sheet = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    left, top = tiles.EDGE, 2 * tiles.EDGE + tiles.LINE
    shown = sheet[top : top + tiles.SIDE, left : left + tiles.SIDE]
    image = bench.data.test.images_of(torch.tensor([9]))[0, 0].numpy()
    assert np.array_equal(shown, image.repeat(12, 0).repeat(12, 1))
    mistakes.write(tmp_path, bench, logits)
    assert (tmp_path / "mistakes.png").read_bytes() == content


def test_without_a_mistake_there_is_no_picture_and_an_old_one_goes(bench, tmp_path):
    (tmp_path / "mistakes.png").write_bytes(b"old")
    found = mistakes.write(tmp_path, bench, sure(bench, []))
    assert list(found) == ["images/confusion"]
    assert not list(tmp_path.iterdir())


def test_images_of_any_kind_are_shown():
    noise = np.random.default_rng(0).integers(0, 256, (13, 20, 30), dtype=np.uint8)
    for channels in (1, 2, 3, 4, 13):
        shown = np.asarray(tiles.as_picture(noise[:channels]))
        assert shown.shape == (60, 90, 3), channels
        first = noise[:3] if channels >= 3 else noise[[0, 0, 0]]
        assert np.array_equal(shown[::3, ::3], first.transpose(1, 2, 0))
    dark = (noise[:1].astype(np.uint16) + 1000) * 2  # of 16 bits, which no screen would show
    assert np.abs(np.asarray(tiles.as_picture(dark))[::3, ::3, 0] - noise[0].astype(int)).max() <= 1
    assert tiles.as_picture(np.full((1, 2, 2), 7, np.uint16)).size == (96, 96)
    assert tiles.as_picture(np.zeros((3, 300, 400), np.uint8)).size == (96, 72)
    assert tiles.as_picture(np.zeros((3, 1, 4000), np.uint8)).size == (96, 1)


def test_photographs_stay_small():
    noise = np.random.default_rng(0).integers(0, 256, (24, 3, 200, 200), dtype=np.uint8)
    sheet = tiles.tiling([*noise], [("a", "b")] * 24, "caption")
    assert len(tiles.encode(sheet)) < 300_000


def test_names_are_written_in_what_the_font_has():
    names = ["cat", "Müller", "猫", "cho", "chó", "a\nb"]
    assert tiles.drawable(names) == [*("cat", "Muller", "class 2", "class 3", "class 4", "a\\nb")]
    assert max(map(len, tiles.drawable(["x" * 10**6, "y"]))) <= 200
    sheets = [tiles.tiling([np.zeros((1, 8, 8), np.uint8)], [(n, n)], "") for n in ("x", "x" * 99)]
    assert sheets[0].size == sheets[1].size


@pytest.mark.parametrize("classes", [2, 20, 21, 1000])
def test_a_matrix_of_any_size_has_its_colours(classes):
    counts = np.eye(classes, dtype=np.int64)
    counts[0, 1], counts[1, 1] = 1, 0  # one class is taken for another, which has no image
    sheet = np.asarray(tiles.matrix(counts, [f"name {n}" for n in range(classes)]))
    assert max(sheet.shape) <= 1000
    if classes > tiles.LABELLED:
        cell = len(sheet) // classes
        red, green, _ = sheet[:: max(1, cell), :: max(1, cell)].transpose(2, 0, 1).astype(int)
        assert (green > red).sum() == classes - 1
        assert (red > green).sum() == 1
