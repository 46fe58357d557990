"""Resuming: only where the bits stay the same, and only from a checkpoint of the run."""

import json

import pytest

from runner.errors import UserError
from runner.run import checkpoint
from tests.builders import read_status
from tests.conftest import few

SHORT = ("epochs=3", "batch_size=256", "model.width=4")


def rewrite(folder, **changes):
    """Change what a checkpoint says that its run was made with, as another place would have it."""
    state = checkpoint.load(folder)
    state["made_with"] |= changes
    checkpoint.save(folder, state)


def test_a_stopped_run_resumes_only_where_its_bits_stay_the_same(do, tmp_path, capsys):
    result = do(*SHORT)
    place = tmp_path / "run"
    (place / "result.json").unlink()  # as if stopped before its end
    made_with = checkpoint.load(place)["made_with"]
    for what in ("data", "device", "processor", "capability", "code", "torch"):
        rewrite(place, **{what: "another"})
        words = rf"Cannot resume .*: {what} changed \(another -> "
        with pytest.raises(UserError, match=words) as refusal:
            do(*SHORT)
        assert ("resume=anywhere" in str(refusal.value)) == (what != "data")
        status = read_status(place)
        assert (status["status"], status["error"]) == ("failed", str(refusal.value))
        rewrite(place, **made_with)
    rewrite(place, data="another")
    with pytest.raises(UserError, match="data changed"):
        do(*SHORT, "resume=anywhere")
    rewrite(place, **{**made_with, "processor": "another", "torch": "1.0"})
    capsys.readouterr()
    assert do(*SHORT, "resume=anywhere")["weights"] == result["weights"]  # it is the same after all
    change = "processor changed (another -> "
    out = capsys.readouterr().out
    assert f"resuming, although {change}" in out
    assert f"resuming at update {result['updates']} of {result['updates']}\n" in out
    (move,) = json.loads((place / "run.json").read_text())["moves"]
    assert move.startswith(f"from update {result['updates']}: {change}")
    (place / "result.json").unlink()
    rewrite(place, processor="a third")
    do(*SHORT, "resume=anywhere")
    assert len(json.loads((place / "run.json").read_text())["moves"]) == 1  # of its last checkpoint
    (place / "result.json").unlink()
    rewrite(place, data="another")
    assert do(*SHORT, "again=true") == result


UNFIT = [{}, {"made_with": 3}, {"training": None}, {"training": {"updates": "2"}}, {"training": {}}]


@pytest.mark.parametrize("state", few(UNFIT, UNFIT[1::3]), ids=str)
def test_a_checkpoint_that_does_not_fit_the_run_is_refused_in_one_line(do, tmp_path, state):
    do(*SHORT)
    (tmp_path / "run" / "result.json").unlink()
    whole = checkpoint.load(tmp_path / "run") if state else {}
    checkpoint.save(tmp_path / "run", {**whole, **state})
    with pytest.raises(UserError, match=r"Cannot resume .*: its checkpoint does not fit this run"):
        do(*SHORT)


@pytest.mark.parametrize("updates", few([-10, 10**9, True], [10**9]))
def test_a_checkpoint_beyond_the_run_is_refused(do, tmp_path, updates):
    do(*SHORT)
    (tmp_path / "run" / "result.json").unlink()
    state = checkpoint.load(tmp_path / "run")
    state["training"]["updates"] = updates
    checkpoint.save(tmp_path / "run", state)
    with pytest.raises(UserError, match=r"it is from update .* of 18"):
        do(*SHORT)
