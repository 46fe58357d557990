"""Runs killed at random moments end with the bits of runs that were never stopped."""

import os
import random
import signal
import subprocess
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner import allowed
from runner.build import build
from runner.run import checkpoint
from runner.signals import Stopped, stoppable
from runner.store.runs import read_metrics
from tests.builders import read_status
from tests.conftest import ROOT, few, run_in, settings, start

PARTS = ROOT / "tests" / "parts"
ALLOWED = "pulse.Pulse,pulse.dropping"
OWN = (
    "+tricks.pulse._target_=pulse.Pulse",
    "+tricks.pulse.enabled=true",
    "data.augment.crop=1",
    "threads=1",
)
CASES = {
    "clipping": (),
    "centralization": (),
    "flooding": ("tricks.flooding.level=0.2",),
    "anti_aliasing": (),
    "warm_restarts": ("tricks.warm_restarts.T_0=3", "tricks.warm_restarts.T_up=0.5"),
    "label_smoothing": (),
    "clipping of transformed images": (
        "data.augment.transforms=[RandomResizedCrop]",
        "data.sampling=balanced",
        "drop_last=true",
        "loss.class_weights=[1,2,3,4,5,6,7,8,9,10]",
    ),
    "clipping by quantile": ("tricks.clipping.by=quantile", "tricks.clipping.quantile=0.7"),
    "all": (
        "tricks.flooding.level=0.8",
        "tricks.clipping.by=quantile",
        "tricks.clipping.quantile=0.7",
        "optimizer=adamw",
        "tricks.centralization.where=update",
    ),
}
QUICK = ("all", "clipping of transformed images")
NAMES = "clipping,centralization,flooding,anti_aliasing,warm_restarts,label_smoothing"


def overrides_of(case):
    names = NAMES if case == "all" else case.split()[0]
    return (f"tricks=[{names}]", *CASES[case], *OWN)


@pytest.fixture(autouse=True)
def _parts(monkeypatch, tmp_path):
    """Make the parts of the tests known, here and in the processes that are started."""
    monkeypatch.syspath_prepend(PARTS)
    monkeypatch.setattr(allowed, "USERS", frozenset(ALLOWED.split(",")))
    monkeypatch.setenv("PULSE", str(tmp_path / "pulse-here"))


class Killed:
    """A run of the command that is started, killed, and started again."""

    def __init__(self, folder, *overrides):
        self.folder, self.overrides = folder, overrides
        self.pulse = folder / "pulse"
        self.environment = {
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, PARTS))),
            "BISCUITS_ALLOW": ALLOWED,
            "PULSE": str(self.pulse),
        }

    @property
    def place(self):
        (place,) = self.folder.glob("outputs/run/*/seed=0")
        return place

    def start(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": None}
        return start(self.folder, "name=run", *self.overrides, options=quiet, **self.environment)

    def updates_of(self, process):
        lines = self.pulse.read_text().splitlines() if self.pulse.exists() else []
        pairs = [line.split() for line in lines if line.count(" ") == 1]
        return [int(update) for pid, update in pairs if pid == str(process.pid)]

    def kill_after_an_update(self, wait, condition=lambda: True):
        """Kill when it has begun a second update and some time has passed; None if it ended."""
        process, deadline = self.start(), time.monotonic() + 200
        try:
            while len(self.updates_of(process)) < 2 or not condition():
                if process.poll() is not None:
                    return None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(wait)
        finally:
            process.kill()
        return self.updates_of(process)[-1] if process.wait() == -signal.SIGKILL else None

    def finish(self):
        assert self.start().wait() == 0


def straight_run(tmp_path, overrides):
    """Do the same run in one go, in this process."""
    run_in(tmp_path / "straight", "name=run", *overrides)
    return tmp_path / "straight"


def timeless(folder):
    lines = read_metrics(folder)
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def bits(value):
    """Give back plain values for nested states, in which equal bits are equal."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [bits(part) for part in value]
    return repr(value)


def differing(one, other):
    """Name what is not equal to the bit in two finished runs, of all that they saved."""
    found = []
    if (one / "result.json").read_bytes() != (other / "result.json").read_bytes():
        found.append("result")
    if timeless(one) != timeless(other):
        found.append("metrics")
    for name in ("correct.npy", "predictions.npz"):
        if (one / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    states = [checkpoint.load(folder)["training"] for folder in (one, other)]
    return found + [key for key in states[0] if bits(states[0][key]) != bits(states[1][key])]


@pytest.mark.slow
def test_a_kill_in_mid_epoch_loses_no_bit(tmp_path, faults):
    run = Killed(
        tmp_path,
        *overrides_of("all"),
        *("epochs=4", "batch_size=32", "micro_batch_size=20", "checkpoint_seconds=0.1"),
    )
    step = run.kill_after_an_update(0.2)
    assert step is not None
    run.finish()
    assert differing(straight_run(tmp_path, run.overrides), run.place) == []
    assert read_status(run.place)["attempts"] == 2
    events = EventAccumulator(str(run.place), size_guidance={"scalars": 0}).Reload()
    shown = [event.step for event in events.Scalars("train/loss")]
    assert shown == [line["update"] for line in read_metrics(run.place)]
    faults("kills at random moments, all bits equal afterwards")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_kills_at_random_moments_lose_no_bit(tmp_path, faults, case):
    choose = random.Random(case)
    run = Killed(
        tmp_path,
        *overrides_of(case),
        *("epochs=15", "batch_size=32", "micro_batch_size=20", "checkpoint_seconds=0.1"),
    )
    steps = []
    for _ in range(5):
        step = run.kill_after_an_update(choose.uniform(0, 0.8))
        if step is not None:
            steps.append(step)
    print(f"{case}: killed in updates {steps}")
    assert len(steps) >= 4, "it ended too early to be killed often"
    assert any(step % 41 for step in steps)
    run.finish()
    straight = straight_run(tmp_path, run.overrides)
    assert differing(straight, run.place) == []
    faults("kills at random moments, all bits equal afterwards", len(steps))


@pytest.mark.slow
def test_kills_while_a_checkpoint_is_being_written_lose_no_bit(tmp_path, faults):
    run = Killed(
        tmp_path,
        "model.width=48",  # megabytes, so that writing takes a while
        *overrides_of("clipping by quantile"),
        *("epochs=1", "batch_size=32", "checkpoint_seconds=0"),
    )
    caught, steps = 0, []
    for _ in range(12):
        step = run.kill_after_an_update(0, lambda: list(tmp_path.rglob(".checkpoint.new.pt.*")))
        if step is not None:
            steps.append(step)
            caught += bool(list(run.place.glob(".checkpoint.new.pt.*")))  # what it left half done
        if caught == 3:
            break
    print(f"killed in updates {steps}, {caught} of them with a checkpoint half written")
    assert caught >= 1
    run.finish()
    assert not list(run.place.glob(".*.tmp"))
    assert differing(straight_run(tmp_path, run.overrides), run.place) == []
    faults("kills while a checkpoint is written", caught)


WITH_DROPOUT = ("~model.depth", "~model.width", "model._target_=pulse.dropping")
FORGOTTEN = {
    "nothing": None,
    "the model": lambda state, new: state.update(model=new["model"]),
    "the optimizer": lambda state, new: state.update(optimizer=new["optimizer"]),
    "the tricks": lambda state, new: state.update(tricks=new["tricks"]),
    "the averages": lambda state, new: state.update(averages=new["averages"]),
    "the random numbers": lambda state, new: state.update(random=new["random"]),
    "an update": lambda state, _: state.update(updates=state["updates"] - 1),
    "one bit of a momentum": lambda state, _: flip(state["optimizer"]["state"][0]),
}


def flip(state):
    state["momentum_buffer"].view(torch.int32).view(-1)[0] ^= 1


@pytest.mark.parametrize("forgotten", few(FORGOTTEN, ("nothing", "one bit of a momentum")))
def test_the_comparison_finds_whatever_a_checkpoint_forgets(tmp_path, signal_after, forgotten):
    overrides = (
        *overrides_of("clipping by quantile"),
        *("epochs=3", "batch_size=256", "tricks.clipping.warmup=2", *WITH_DROPOUT),
    )
    straight = straight_run(tmp_path, overrides)
    signal_after({9: [signal.SIGUSR1]})
    with pytest.raises(Stopped), stoppable():
        run_in(tmp_path / "stopped", "name=run", *overrides)
    place = tmp_path / "stopped"
    if change := FORGOTTEN[forgotten]:
        content = checkpoint.load(place)
        change(content["training"], build(settings("name=run", *overrides)).training.state_dict())
        checkpoint.save(place, content)
    run_in(place, "name=run", *overrides)
    assert (differing(straight, place) == []) == (forgotten == "nothing")


@pytest.mark.parametrize("case", few(CASES, QUICK))
def test_a_stop_in_mid_epoch_loses_no_bit_of_any_trick(tmp_path, signal_after, case):
    overrides = (*overrides_of(case), "epochs=2", "batch_size=256", "micro_batch_size=100")
    straight = straight_run(tmp_path, overrides)
    signal_after({8: [signal.SIGUSR1]})
    with pytest.raises(Stopped), stoppable():
        run_in(tmp_path / "stopped", "name=run", *overrides)
    assert read_status(tmp_path / "stopped")["checkpoint"] == 8
    run_in(tmp_path / "stopped", "name=run", *overrides)
    assert differing(straight, tmp_path / "stopped") == []
