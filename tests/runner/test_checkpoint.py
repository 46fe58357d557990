"""Checkpoints: whole or not there, noticed when damaged, nothing unpickled."""

import pytest
import torch

from runner.errors import UserError
from runner.run import checkpoint
from runner.run.checkpoint import BEFORE, LAST, NEW
from runner.store import archive
from runner.store.files import write_atomically


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


def read_after(folder, content):
    """Put a content in the place of the last checkpoint, and read."""
    (folder / LAST).write_bytes(content)
    return checkpoint.load(folder)["updates"]


def test_a_checkpoint_cut_short_anywhere_is_named_and_the_one_before_used(tmp_path, capsys, faults):
    for number in (1, 2):
        checkpoint.save(tmp_path, state(number))
    content = (tmp_path / LAST).read_bytes()
    lengths = {*(len(content) * tenth // 10 for tenth in range(10)), *range(8)}
    lengths |= {len(content) - cut for cut in (1, 2, 71, 72, 73, 74, 95)}
    for length in lengths:
        assert read_after(tmp_path, content[:length]) == 1, length
        assert f"{tmp_path / LAST} is damaged (its checksum" in capsys.readouterr().out
    assert read_after(tmp_path, content) == 2
    faults("damaged checkpoints", len(lengths))


def test_a_bit_flipped_anywhere_is_noticed_where_torch_would_pass_over_it(tmp_path, faults):
    for number in (1, 2):
        checkpoint.save(tmp_path, state(number))
    content = bytearray((tmp_path / LAST).read_bytes())
    # every region: each name, header, pickle, tensor, padding, directory, and the comment
    places = [*range(0, 2000, 7), *range(2000, len(content) - 2000, 997)]
    places += [*range(len(content) - 2000, len(content), 7), len(content) - 1]
    passed_over = 0
    for number, place in enumerate(places):
        content[place] ^= 1 << number % 8
        (tmp_path / LAST).write_bytes(content)
        try:
            torch.load(tmp_path / LAST, weights_only=True)
            passed_over += 1
        except Exception:  # torch's own words for damage are many
            pass
        assert read_after(tmp_path, content) == 1, place
        content[place] ^= 1 << number % 8
    assert read_after(tmp_path, content) == 2
    assert passed_over > len(places) // 2
    faults("damaged checkpoints", len(places))


def test_torch_reads_a_checkpoint_as_any_other_file(tmp_path):
    checkpoint.save(tmp_path, state(3))
    assert torch.load(tmp_path / LAST, weights_only=True)["updates"] == 3
    assert torch.load(tmp_path / LAST, weights_only=True, mmap=True)["updates"] == 3


def test_a_crash_between_the_renames_loses_nothing(tmp_path):
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, state(number))
    (tmp_path / LAST).replace(tmp_path / NEW)  # the one before was made, the last not yet
    assert checkpoint.load(tmp_path)["updates"] == 3
    checkpoint.save(tmp_path, state(4))
    assert checkpoint.load(tmp_path)["updates"] == 4
    assert not (tmp_path / NEW).exists()


def test_a_place_that_cannot_be_taken_is_named(tmp_path):
    checkpoint.save(tmp_path, state(1))
    (tmp_path / BEFORE / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match=r"checkpoint.pt cannot be written: Is a directory"):
        checkpoint.save(tmp_path, state(2))
    assert checkpoint.load(tmp_path)["updates"] == 2  # the new one, which was not renamed


def test_an_error_that_is_not_the_systems_stays_as_it_is(tmp_path):
    wrong = RuntimeError("x")
    with pytest.raises(RuntimeError) as raised:
        write_atomically(tmp_path / "file", lambda _: (_ for _ in ()).throw(wrong))
    assert raised.value is wrong
    assert raised.value.__cause__ is None


def test_where_all_checkpoints_are_damaged_it_says_that_the_run_starts_over(tmp_path, capsys):
    for number in (1, 2):
        checkpoint.save(tmp_path, state(number))
    for name in (LAST, BEFORE):
        (tmp_path / name).write_bytes(b"no")
    assert checkpoint.load(tmp_path) is None
    assert "has no good checkpoint. The run starts from the beginning." in capsys.readouterr().out


def test_a_checkpoint_of_a_newer_format_is_refused_by_name(tmp_path):
    checkpoint.save(tmp_path, {**state(1), "format": 99})
    with pytest.raises(UserError, match="has format 99; this version reads 1 and older"):
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


def sealed(folder, content):
    """Write a checkpoint of somebody who knows how to make its checksum."""
    with open(folder / LAST, "wb") as file:
        archive.write(content, file)


def test_nothing_is_unpickled_from_a_checkpoint(tmp_path, monkeypatch):
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    sealed(tmp_path, {"format": 1, "evil": Evil()})
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which turns torch's default off
    with pytest.raises(UserError, match=r"holds code .* nothing of it was executed"):
        checkpoint.load(tmp_path)
    assert not mark.exists()
    torch.load(tmp_path / LAST, weights_only=False)["evil"].close()  # the payload is one
    assert mark.exists()


@pytest.mark.parametrize("content", [[1, 2], {"format": "1"}, {}, "text", torch.ones(2)], ids=str)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    sealed(tmp_path, content)
    with pytest.raises(UserError, match="is not a checkpoint"):
        checkpoint.load(tmp_path)
