"""Images that are larger than memory: the disk is asked for those that come next, and no others."""

import numpy as np
import pytest
import torch

from runner.data import Batches, Split, stream
from runner.data.cache import as_tensor, save
from runner.store import arrays

COUNT, SIDE = 60, 24
SIZE = 3 * SIDE**2


@pytest.fixture
def split(tmp_path):
    """Every other image of a map, from the last to the first."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 3, SIDE, SIDE), np.uint8)
    mapped = as_tensor(save(tmp_path / "x.npy", "key", images.shape, np.uint8, images))
    rows = torch.arange(COUNT - 1, 0, -2)
    return Split(mapped, rows % 4, rows)


@pytest.fixture
def asked(monkeypatch, split):
    """What the system is told, with places seen from the first byte of the images."""
    told, begin = [], split.images.data_ptr()
    monkeypatch.setattr(
        stream, "_advise", lambda name, address, size: told.append((name, address - begin, size))
    )
    return told


def larger(monkeypatch, ahead=0):
    monkeypatch.setattr(stream, "memory_here", lambda: COUNT * SIZE)
    monkeypatch.setattr(stream, "AHEAD", ahead)


def batches(split):
    return Batches(split, 4, torch.full((3,), 0.5), torch.full((3,), 0.25), shuffle=True)


@pytest.mark.parametrize("rows", [[3], [3, 4, 9], [9, 3, 4, 3], [*range(40)], [0, 59]])
@pytest.mark.parametrize("size", [100, stream.PIECE, 3 * stream.PIECE + 1])
def test_the_requests_are_the_bytes_of_the_images_and_no_others(rows, size):
    bytes_ = [*stream.requests(torch.tensor(rows), size)]
    assert all(0 < stop - start <= stream.PIECE for start, stop in bytes_)
    wanted = {number for row in rows for number in range(row * size, (row + 1) * size, 997)}
    wanted |= {(row + 1) * size - 1 for row in rows}
    assert all(any(start <= place < stop for start, stop in bytes_) for place in wanted)
    assert sum(stop - start for start, stop in bytes_) == len({*rows}) * size


def test_neighbours_are_asked_for_together():
    assert [*stream.requests(torch.tensor([7, 5, 6, 9]), 100)] == [(500, 800), (900, 1000)]


@pytest.mark.parametrize(("start", "step"), [(0, 1), (3, 1), (1, 3)])
def test_each_image_is_asked_for_once_before_its_batch_is_made(
    monkeypatch, split, asked, start, step
):
    larger(monkeypatch)
    made, order = batches(split), split.rows[batches(split).order(0)].split(4)[start::step]
    for number, _ in enumerate(made.epoch(0, start, step)):
        numbers = {n for _, place, size in asked[1:] for n in range(place, place + size, SIZE)}
        assert numbers == {row * SIZE for row in torch.cat(order[: number + 2]).tolist()}
    assert asked[0] == ("MADV_RANDOM", 0, split.images.nbytes)
    assert {name for name, *_ in asked[1:]} == {"MADV_WILLNEED"}
    assert sum(size for *_, size in asked[1:]) == sum(map(len, order)) * SIZE


def test_so_many_bytes_are_asked_for_beyond(monkeypatch, split, asked):
    larger(monkeypatch, ahead=5 * SIZE + 1)
    next(batches(split).epoch(0))
    assert sum(size for *_, size in asked[1:]) == (8 + 5) * SIZE


def test_nothing_is_said_of_images_that_memory_holds(monkeypatch, split, asked):
    monkeypatch.setattr(stream, "memory_here", lambda: 2 * COUNT * SIZE)
    [*batches(split).epoch(0)]
    [*split.chunks()]
    assert asked == []


def test_the_images_are_the_same_with_advice_and_without(monkeypatch, split):
    def read():
        parts = [each for batch in batches(split).epoch(0) for each in batch[:2]]
        return torch.cat([each.flatten() for each in (*parts, *split.chunks())])

    plain = read()
    larger(monkeypatch, ahead=2**14)
    assert torch.equal(read(), plain)


def test_a_container_has_the_memory_that_it_may_use(monkeypatch, tmp_path):
    whole = arrays.memory_here()
    (tmp_path / "memory.max").write_text("max\n")
    for name, text in (("", ""), ("low", "4096\n"), ("low/lower", "8192\n")):
        (tmp_path / name).mkdir(exist_ok=True)
        if text:
            (tmp_path / name / "memory.max").write_text(text)
    folders = [tmp_path / "low" / "lower", tmp_path / "low", tmp_path]
    monkeypatch.setattr(arrays, "cgroups", lambda controller: folders * (controller == "memory"))
    assert arrays.memory_here() == 4096
    folders[:] = [tmp_path]
    assert arrays.memory_here() == whole
