"""How a run ends: which weights are tested, when it stops early, what it keeps; killed anywhere."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from runner.build import build
from runner.errors import UserError
from runner.run import checkpoint
from runner.run.attempt import attempt, resume_or_run
from runner.run.fingerprint import digest_tensors
from runner.signals import Stopped, stoppable
from runner.store import archive
from runner.store.runs import read_metrics, read_run
from tests.builders import read_status
from tests.conftest import settings

CHECKPOINTS = {"last": {"checkpoint.pt"}, "best": {"best.pt"}, "none": set()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small data set, in which the last weights are not the best ones."""
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


@pytest.fixture
def given(data):
    """Make settings of a run of it."""

    def given(*overrides):
        small = ("data=npz", f"data.file='{data}'", "model.width=4", "batch_size=30")
        return settings(*small, "epochs=6", "optimizer.lr=0.2", *overrides)

    return given


def do(folder, given):
    folder.mkdir(exist_ok=True)
    return attempt(folder, given, build(given), quiet=True)


def files(folder):
    return {p.name for p in folder.iterdir() if not p.name.startswith(("events", ".lock"))}


def rank(line):
    return line["validation/accuracy"], -line["validation/loss"], -line["epoch"]


def test_the_best_weights_on_the_validation_split_are_tested_and_written(tmp_path, given):
    last = do(tmp_path / "last", given())
    best = do(tmp_path / "best", given("result=best"))
    lines = read_metrics(tmp_path / "best")
    line = max(lines, key=rank)
    assert line["epoch"] < 6, "the data set does not tell them apart"
    assert (best["epoch"], best["updates"]) == (line["epoch"], line["update"])
    for key in ("validation/accuracy", "validation/loss"):
        assert best[key] == line[key]
    assert best["weights"] != last["weights"]
    state = archive.read(tmp_path / "best/model.pt", "a model", "")["model"]
    assert digest_tensors(state) == best["weights"]
    logits, labels = read_run(tmp_path / "best", "").predictions()
    assert (logits.argmax(1) == labels).mean() == best["test/accuracy"]
    kept = checkpoint.load(tmp_path / "best")["training"]  # and the training itself is the same
    assert digest_tensors(kept["model"]) == last["weights"]


def test_the_best_weights_are_those_of_a_run_that_was_stopped_there(tmp_path, given, signal_after):
    best = do(tmp_path / "best", given("result=best"))
    signal_after({best["updates"]: [signal.SIGUSR1]})
    with pytest.raises(Stopped), stoppable():
        do(tmp_path / "stopped", given())
    kept = checkpoint.load(tmp_path / "stopped")["training"]
    assert kept["updates"] == best["updates"]
    assert digest_tensors(kept["model"]) == best["weights"]


def test_patience_stops_after_so_many_evaluations_without_a_better_one(tmp_path, given, capsys):
    whole = do(tmp_path / "whole", given("epochs=12"))
    overrides = ("epochs=12", "patience=2")
    (tmp_path / "early").mkdir()
    early = attempt(tmp_path / "early", given(*overrides), build(given(*overrides)), quiet=False)
    lines, all_lines = (read_metrics(tmp_path / name) for name in ("early", "whole"))
    best = max(lines, key=rank)
    assert len(lines) == best["epoch"] + 2 < 12
    timeless = [k for k in lines[0] if not k.startswith("time/")]
    assert [[a[k] for k in timeless] for a in lines] == [
        [b[k] for k in timeless] for b in all_lines[: len(lines)]
    ]  # the schedule is that of all epochs
    assert (early["epoch"], early["updates"]) == (len(lines), 3 * len(lines))
    assert early["weights"] != whole["weights"]
    status = read_status(tmp_path / "early")
    assert (status["status"], status["stopped_early"]) == ("done", len(lines))
    assert "stopped_early" not in read_status(tmp_path / "whole")
    accuracy = f"{100 * best['validation/accuracy']:.2f} %"
    assert (
        f"stopped early, after epoch {len(lines)} of 12: 2 evaluations without a better one than "
        f"{accuracy} after epoch {best['epoch']}\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize("keep", CHECKPOINTS)
def test_a_finished_run_keeps_what_it_is_told_to(tmp_path, given, keep):
    do(tmp_path / "run", given(f"keep={keep}"))
    found = files(tmp_path / "run")
    assert {name for name in found if name.endswith(".pt")} == {"model.pt", *CHECKPOINTS[keep]}
    if keep == "best":
        best, last = (
            digest_tensors(archive.read(tmp_path / "run" / name, "a model", "")["model"])
            for name in ("best.pt", "model.pt")
        )
        assert best == do(tmp_path / "best", given("result=best"))["weights"] != last
    (tmp_path / "run/result.json").write_text("{")
    how = "resumes from its checkpoint" if keep == "last" else "is done again: it kept no"
    with pytest.raises(UserError, match=how):
        do(tmp_path / "run", given())


def test_less_is_kept_of_a_finished_run_by_the_same_command_with_another_keep(tmp_path, given):
    do(tmp_path / "run", given())
    resume_or_run(tmp_path / "run", given("keep=best"), quiet=True)
    assert "checkpoint.pt" in files(tmp_path / "run")  # its best weights are gone
    resume_or_run(tmp_path / "run", given("keep=none"), quiet=True)
    assert "checkpoint.pt" not in files(tmp_path / "run")


def test_a_run_that_diverges_keeps_its_checkpoint_whatever_keep_says(tmp_path, given):
    rises = ("scheduler=step", "scheduler.gamma=1e20", "scheduler.milestones=[2.8]")
    with pytest.raises(UserError, match="diverged"):
        do(tmp_path / "run", given(*rises, "keep=none"))
    assert "checkpoint.pt" in files(tmp_path / "run")


BOTH = ("result=best", "patience=3", "epochs=12", "checkpoint_seconds=0", "metrics=[macro_f1]")


@pytest.mark.parametrize("update", [7, 14, 20])
def test_a_run_that_is_stopped_chooses_the_same_weights_and_stops_at_the_same_epoch(
    tmp_path, given, signal_after, update
):
    straight = do(tmp_path / "straight", given(*BOTH, "keep=best"))
    assert 14 < straight["updates"] + 9 <= 27
    signal_after({update: [signal.SIGUSR1]})
    with pytest.raises(Stopped), stoppable():
        do(tmp_path / "stopped", given(*BOTH, "keep=best"))
    do(tmp_path / "stopped", given(*BOTH, "keep=best"))
    for name in ("result.json", "model.pt", "best.pt", "predictions.npz"):
        one, other = (tmp_path / folder / name for folder in ("straight", "stopped"))
        assert one.read_bytes() == other.read_bytes(), name


def test_a_checkpoint_without_the_best_weights_is_refused(tmp_path, given, signal_after):
    signal_after({14: [signal.SIGUSR1]})
    with pytest.raises(Stopped), stoppable():
        do(tmp_path / "run", given(*BOTH))
    state = checkpoint.load(tmp_path / "run")
    for change in ({"update": 1}, {"model": {}}, {"model": {"x": torch.zeros(1)}}, {"model": 3}):
        checkpoint.save(tmp_path / "run", {**state, "best": {**state["best"], **change}})
        with pytest.raises(UserError, match="checkpoint lacks the weights of its best evaluation"):
            do(tmp_path / "run", given(*BOTH))


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


WRITTEN = ("correct.npy", "predictions.npz", "model.pt", "result.json", "status.json")
POINTS = [
    *(("last", "replace", name) for name in WRITTEN),
    ("last", "unlink", "checkpoint.before.pt"),
    ("best", "replace", "best.pt"),
    ("best", "unlink", "checkpoint.before.pt"),
    ("best", "unlink", "checkpoint.pt"),
    ("none", "unlink", "checkpoint.pt"),
]


@pytest.mark.parametrize(("keep", "act", "name"), POINTS)
def test_a_run_that_is_killed_at_its_end_ends_as_if_it_was_not(
    tmp_path, given, faults, keep, act, name
):
    asked = given(*BOTH, f"keep={keep}")
    straight = do(tmp_path / "straight", asked)
    place = tmp_path / "killed"
    Point(act, name).kill(place, asked)
    result = resume_or_run(place, asked, quiet=True)
    assert {k: v for k, v in result.items() if k != "format"} == straight
    assert files(place) == files(tmp_path / "straight")
    for each in (
        "result.json",
        "model.pt",
        "predictions.npz",
        *CHECKPOINTS[keep] - {"checkpoint.pt"},
    ):
        assert (place / each).read_bytes() == (tmp_path / "straight" / each).read_bytes()
    status = read_status(place)
    assert status["status"] == "done"
    assert status["stopped_early"] == read_status(tmp_path / "straight")["stopped_early"]
    faults("kills at the end of a run")
