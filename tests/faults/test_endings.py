"""How a run ends: which weights are tested, when it stops early, what it keeps; killed anywhere."""

import json
import os
import signal
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from runner.build import build
from runner.errors import UserError
from runner.run import checkpoint
from runner.run.attempt import attempt, resume_or_run
from runner.run.choice import Choice
from runner.run.fingerprint import digest_tensors
from runner.settings import refuse_contradictions
from runner.signals import Stopped, stoppable
from runner.store import archive
from runner.store.runs import read_metrics, read_run
from tests.builders import read_status
from tests.conftest import settings

BOTH = ("result=best", "patience=2", "checkpoint_seconds=0", "metrics=[macro_f1]")
CHECKPOINTS = {"last": {"checkpoint.pt"}, "best": {"best.pt"}, "none": set()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small data set that can be learnt."""
    file = tmp_path_factory.mktemp("data") / "small.npz"
    random = np.random.default_rng(2)
    labels = {"y_train": np.arange(90) % 3, "y_test": np.arange(60) % 3, "y_val": np.arange(30) % 3}
    arrays = {}
    for key, each in labels.items():
        noise = random.integers(0, 200, (len(each), 8, 8))
        noise[:, :3] += 55 * (each == 1)[:, None, None]
        noise[:, :, :3] += 55 * (each == 2)[:, None, None]
        arrays |= {key: each, key.replace("y_", "x_"): noise.astype(np.uint8)}
    np.savez(file, **arrays)
    return file


@pytest.fixture(scope="module")
def given(data):
    """Make settings of a run that learns it for three epochs, and then loses it again."""

    def given(*overrides):
        small = ("data=npz", f"data.file='{data}'", "model.width=2", "batch_size=30", "epochs=6")
        rises = ("scheduler=step", "scheduler.milestones=[0.5]", "scheduler.gamma=50")
        return settings(*small, *rises, "optimizer.lr=0.2", *overrides)

    return given


def do(folder, given):
    folder.mkdir(exist_ok=True)
    return attempt(folder, given, build(given), quiet=True)


@pytest.fixture(scope="module")
def straight(given, tmp_path_factory):
    """Give the folder and the result of a run that was not disturbed, which is done once."""

    @lru_cache
    def straight(*overrides):
        folder = tmp_path_factory.mktemp("straight")
        return folder, do(folder, given(*overrides))

    return straight


def weights_in(file):
    """Give the digest of the weights in a model's file."""
    return digest_tensors(archive.read(file, "a model", "")["model"])


def files(folder):
    return {p.name for p in folder.iterdir() if not p.name.startswith(("events", ".lock"))}


def rank(line):
    return line["validation/accuracy"], -line["validation/loss"], -line["epoch"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"result": "best"}, "result=best chooses by the validation split, but data.validation=0"),
        ({"patience": 3}, "patience=3 chooses by the validation split, but data.validation=0"),
        ({"keep": "best"}, "keep=best chooses by the validation split, but data.validation=0"),
        ({"result": "best", "last_evaluations": 2}, "the test set is used once. Drop one of them"),
        ({"patience": 3, "last_evaluations": 2}, "the test set is used once. Drop one of them"),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(given, change, told):
    chosen = replace(given(), **change)
    if "last_evaluations" not in change:
        refuse_contradictions(chosen)
        chosen = replace(chosen, data={**chosen.data, "validation": 0})
    with pytest.raises(UserError, match=told):
        refuse_contradictions(chosen)


def test_the_best_weights_on_the_validation_split_are_tested_and_written(straight):
    (last_folder, last), (folder, best) = straight(), straight("result=best")
    line = max(read_metrics(folder), key=rank)
    assert line["epoch"] <= 3
    assert (best["epoch"], best["updates"]) == (line["epoch"], line["update"])
    for key in ("validation/accuracy", "validation/loss"):
        assert best[key] == line[key]
    assert best["weights"] != last["weights"]
    assert weights_in(folder / "model.pt") == best["weights"]
    logits, labels = read_run(folder, "").predictions()
    assert (logits.argmax(1) == labels).mean() == best["test/accuracy"]
    kept = checkpoint.load(folder)["training"]  # and the training itself is the same
    assert digest_tensors(kept["model"]) == last["weights"] == weights_in(last_folder / "model.pt")


def test_the_best_weights_are_those_of_a_run_that_was_stopped_there(
    tmp_path, straight, given, signal_after
):
    _, best = straight("result=best")
    signal_after({best["updates"]: [signal.SIGUSR1]})
    with pytest.raises(Stopped), stoppable():
        do(tmp_path, given())
    kept = checkpoint.load(tmp_path)["training"]
    assert kept["updates"] == best["updates"]
    assert digest_tensors(kept["model"]) == best["weights"]


def test_patience_stops_after_so_many_evaluations_without_a_better_one(
    tmp_path, straight, given, capsys
):
    (folder, whole), asked = straight(), given("patience=2")
    early = attempt(tmp_path, asked, build(asked), quiet=False)
    lines, all_lines = read_metrics(tmp_path), read_metrics(folder)
    best = max(lines, key=rank)
    assert len(lines) == best["epoch"] + 2 < 6
    timeless = [k for k in lines[0] if not k.startswith("time/")]
    assert [[a[k] for k in timeless] for a in lines] == [
        [b[k] for k in timeless] for b in all_lines[: len(lines)]
    ]  # the schedule is that of all epochs
    assert (early["epoch"], early["updates"]) == (len(lines), 3 * len(lines))
    assert early["weights"] != whole["weights"]
    status = read_status(tmp_path)
    assert (status["status"], status["stopped_early"]) == ("done", len(lines))
    assert "stopped_early" not in read_status(folder)
    accuracy = f"{100 * best['validation/accuracy']:.2f} %"
    assert (
        f"stopped early, after epoch {len(lines)} of 6: 2 evaluations without a better one than "
        f"{accuracy} after epoch {best['epoch']}\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize("keep", CHECKPOINTS)
def test_a_finished_run_keeps_what_it_is_told_to(straight, given, keep):
    folder, _ = straight(*BOTH, f"keep={keep}")
    assert {n for n in files(folder) if n.endswith(".pt")} == {"model.pt", *CHECKPOINTS[keep]}
    result = (folder / "result.json").read_bytes()
    (folder / "result.json").write_text("{")
    how = "resumes from its checkpoint" if keep == "last" else "is done again: it kept no"
    with pytest.raises(UserError, match=how):
        do(folder, given(*BOTH))
    (folder / "result.json").write_bytes(result)


def test_best_pt_has_the_best_weights_where_the_last_are_tested(tmp_path, straight, given):
    result = do(tmp_path, given("keep=best"))
    assert weights_in(tmp_path / "model.pt") == result["weights"] == straight()[1]["weights"]
    assert weights_in(tmp_path / "best.pt") == straight("result=best")[1]["weights"]


@pytest.mark.slow
def test_less_is_kept_of_a_finished_run_by_the_same_command_with_another_keep(tmp_path, given):
    do(tmp_path, given())
    resume_or_run(tmp_path, given("keep=best"), quiet=True)
    assert "checkpoint.pt" in files(tmp_path)  # its best weights are gone
    resume_or_run(tmp_path, given("keep=none"), quiet=True)
    assert "checkpoint.pt" not in files(tmp_path)


@pytest.mark.slow
def test_a_run_that_diverges_keeps_its_checkpoint_whatever_keep_says(tmp_path, given):
    with pytest.raises(UserError, match="diverged"):
        do(tmp_path, given("scheduler.gamma=1e36", "keep=none"))
    assert "checkpoint.pt" in files(tmp_path)


@pytest.mark.parametrize(
    "update", [10, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 12))]
)
def test_a_run_that_is_stopped_chooses_the_same_weights_and_stops_at_the_same_epoch(
    tmp_path, straight, given, signal_after, update
):
    folder, result = straight(*BOTH, "keep=best")
    assert 3 <= result["updates"] <= 9
    signal_after({update: [signal.SIGUSR1]})
    with pytest.raises(Stopped), stoppable():
        do(tmp_path, given(*BOTH, "keep=best"))
    do(tmp_path, given(*BOTH, "keep=best"))
    for name in ("result.json", "model.pt", "best.pt", "predictions.npz"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_checkpoint_without_the_best_weights_is_refused(tmp_path, given, signal_after):
    signal_after({10: [signal.SIGUSR1]})
    with pytest.raises(Stopped), stoppable():
        do(tmp_path, given(*BOTH))
    state = checkpoint.load(tmp_path)
    for change in ({"update": 1}, {"model": {}}, {"model": {"x": torch.zeros(1)}}, {"model": 3}):
        checkpoint.save(tmp_path, {**state, "best": {**state["best"], **change}})
        with pytest.raises(UserError, match="checkpoint lacks the weights of its best evaluation"):
            do(tmp_path, given(*BOTH))


def test_the_best_weights_of_then_are_not_taken_for_those_of_a_later_evaluation(tmp_path, given):
    bench = build(given("keep=best"))

    def line(epoch):
        numbers = {"validation/accuracy": epoch / 10, "validation/loss": 1.0}
        return json.dumps({"epoch": epoch, "update": 3 * epoch, **numbers})

    first = Choice(tmp_path, given("keep=best"), bench)
    first.add(line(1))
    saved = first.state_dict()["best"]
    assert Choice(tmp_path, given(), bench, [line(1)], saved).state_dict() == first.state_dict()
    later = Choice(tmp_path, given("keep=last"), bench, [line(1)], saved)
    later.add(line(2))  # better, and its weights are not asked for
    assert later.state_dict() == {}


class Point:
    """A moment at the end of a run: when a file was written, or removed."""

    def __init__(self, act, name):
        self.act, self.name = act, name

    def die_here(self, folder):
        """Have this process killed then."""
        real = getattr(os, self.act)

        def acted(path, *others, **more):
            real(path, *others, **more)
            is_end = self.name != "status.json" or (folder / "result.json").exists()
            if Path([path, *others][-1]).name == self.name and is_end:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, self.act, acted)

    def kill(self, folder, given):
        """Do a run in a process of its own, which is killed at this moment."""
        folder.mkdir()
        child = os.fork()
        if child == 0:
            try:
                self.die_here(folder)
                attempt(folder, given, build(given), quiet=True)
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


WRITTEN = ("correct.npy", "predictions.npz", "model.pt", "status.json")
POINTS = [
    ("last", "replace", "result.json"),
    ("best", "unlink", "checkpoint.before.pt"),
    *(
        pytest.param(*point, marks=pytest.mark.slow)
        for point in (
            *(("last", "replace", name) for name in WRITTEN),
            ("last", "unlink", "checkpoint.before.pt"),
            ("best", "replace", "best.pt"),
            ("best", "unlink", "checkpoint.pt"),
            ("none", "unlink", "checkpoint.pt"),
        )
    ),
]


@pytest.mark.parametrize(("keep", "act", "name"), POINTS)
def test_a_run_that_is_killed_at_its_end_ends_as_if_it_was_not(
    tmp_path, straight, given, faults, keep, act, name
):
    folder, wanted = straight(*BOTH, f"keep={keep}")
    asked, place = given(*BOTH, f"keep={keep}"), tmp_path / "killed"
    Point(act, name).kill(place, asked)
    result = resume_or_run(place, asked, quiet=True)
    assert {k: v for k, v in result.items() if k != "format"} == wanted
    assert files(place) == files(folder)
    same = CHECKPOINTS[keep] - {"checkpoint.pt"} | {"result.json", "model.pt", "predictions.npz"}
    for each in same:
        assert (place / each).read_bytes() == (folder / each).read_bytes()
    status = read_status(place)
    assert status["status"] == "done"
    assert status["stopped_early"] == read_status(folder)["stopped_early"]
    faults("kills at the end of a run")
