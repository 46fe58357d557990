"""The command told to stop, as a person at a terminal and a scheduler tell it: real processes."""

import os
import signal
import subprocess
import time
from functools import partial

import pytest

from runner.store.runs import read_metrics
from tests.builders import read_status
from tests.conftest import HEARS_CTRL_C, ROOT, start

LONG = ("epochs=400", "batch_size=32", "threads=1", "name=long")
SWEEP = (
    *("ablation=one_at_a_time", "tricks=[clipping]", "ablation.seeds=1", "name=sweep"),
    *("epochs=400", "batch_size=32", "hydra/launcher=local", "hydra.launcher.workers=2"),
)


start = partial(start, options=HEARS_CTRL_C)


def wait_for(process, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def evaluated(folder, runs):
    """Whether so many runs have logged an evaluation."""
    return sum(bool(read_metrics(path.parent)) for path in folder.rglob("metrics.jsonl")) >= runs


def statuses(folder):
    return [read_status(path.parent) for path in folder.rglob("status.json")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_sweep_that_is_told_to_stop_saves_every_run_and_goes_on(tmp_path, name, faults):
    process = start(tmp_path, *SWEEP)
    wait_for(process, lambda: evaluated(tmp_path, 2))
    process.send_signal(getattr(signal, name))
    out, complaint = process.communicate(timeout=60)
    assert process.returncode == (130 if name == "SIGINT" else 143), complaint
    assert complaint.count("Stopping when the current update is done and saved.") == 1
    assert "Traceback" not in out + complaint
    told = statuses(tmp_path)
    assert [status["status"] for status in told] == ["stopped", "stopped"]
    assert all(status["checkpoint"] == status["update"] >= 41 for status in told)
    faults("signals to stop", 2)

    lines = {path: len(read_metrics(path.parent)) for path in tmp_path.rglob("metrics.jsonl")}
    again = start(tmp_path, *SWEEP)  # it goes on from there
    wait_for(again, lambda: all(len(read_metrics(p.parent)) > n for p, n in lines.items()))
    again.terminate()
    again.communicate(timeout=60)
    for before, after in zip(told, statuses(tmp_path), strict=True):
        assert after["attempts"] == 2
        assert after["checkpoint"] > before["checkpoint"]


@pytest.mark.slow
def test_ctrl_c_twice_ends_an_update_that_hangs(tmp_path):
    process = start(
        tmp_path,
        *(*LONG, "+tricks.dying._target_=dying.Dying", "+tricks.dying.enabled=true"),
        "+tricks.dying.how=hang",
        PYTHONPATH=os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "parts"))),
        BISCUITS_ALLOW="dying.Dying",
    )
    wait_for(process, lambda: any(s["status"] == "running" for s in statuses(tmp_path)))
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(signal.SIGINT)
    out, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Ctrl-C again stops at once" in complaint
    assert "Traceback" not in out + complaint
    assert [status["status"] for status in statuses(tmp_path)] == ["stopped"]


@pytest.mark.slow
def test_who_holds_a_folder_is_told_and_a_scheduler_that_asks_gets_a_checkpoint(tmp_path, faults):
    process = start(tmp_path, *LONG)
    wait_for(process, lambda: evaluated(tmp_path, 1))
    second = start(tmp_path, *LONG)
    _, complaint = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"is locked by process {process.pid} on " in complaint
    assert len(complaint.strip().splitlines()) == 1
    process.send_signal(signal.SIGTERM)
    out, complaint = process.communicate(timeout=60)
    assert process.returncode == 143
    assert complaint.strip() == "Stopping when the current update is done and saved."
    assert "Give the same command to go on." in out
    (status,) = statuses(tmp_path)
    assert status["status"] == "stopped"
    assert status["checkpoint"] == status["update"]
    faults("signals to stop")


def test_a_signal_while_the_command_starts_ends_it_with_143(tmp_path):
    process = start(tmp_path, *LONG)
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM)  # shells show both as 143
    assert not list(tmp_path.rglob("status.json"))
