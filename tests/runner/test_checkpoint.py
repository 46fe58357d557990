"""Checkpoints: whole or not there, noticed when damaged, nothing unpickled."""

import pytest
import torch

from runner import checkpoint
from runner.checkpoint import BEFORE, LAST
from runner.errors import UserError


def state(number):
    return {"weights": torch.full((100, 100), float(number)), "updates": number}


def test_the_last_checkpoint_comes_back_and_the_one_before_is_kept(tmp_path):
    assert checkpoint.load(tmp_path) is None
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, state(number))
    assert checkpoint.load(tmp_path)["updates"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {LAST, BEFORE}
    (tmp_path / LAST).unlink()
    assert checkpoint.load(tmp_path)["updates"] == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, damage, capsys):
    for number in (1, 2):
        checkpoint.save(tmp_path, state(number))
    content = bytearray((tmp_path / LAST).read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1  # inside the tensor: torch.load would not notice
        (tmp_path / LAST).write_bytes(content)
        assert torch.load(tmp_path / LAST, weights_only=True)["updates"] == 2
    else:
        (tmp_path / LAST).write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    assert checkpoint.load(tmp_path)["updates"] == 1
    assert f"{tmp_path / LAST} is damaged" in capsys.readouterr().out


def test_a_checkpoint_of_a_newer_format_is_refused_by_name(tmp_path):
    checkpoint.save(tmp_path, {**state(1), "format": 99})
    with pytest.raises(UserError, match="must be of format 1 or older, got 99"):
        checkpoint.load(tmp_path)


def test_a_failed_write_leaves_the_old_checkpoint_and_no_rubbish(tmp_path):
    checkpoint.save(tmp_path, state(1))

    class Unpicklable:
        def __reduce__(self):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        checkpoint.save(tmp_path, {"bad": Unpicklable()})
    assert checkpoint.load(tmp_path)["updates"] == 1
    assert {path.name for path in tmp_path.iterdir()} <= {LAST, BEFORE}


def test_nothing_is_unpickled_from_a_checkpoint(tmp_path):
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    torch.save({"format": 1, "evil": Evil()}, tmp_path / LAST)
    with pytest.raises(UserError, match="would have to be executed"):
        checkpoint.load(tmp_path)
    assert not mark.exists()
