"""Ranks that torchrun starts again: they go on, on one machine and on several."""

import os
import signal

import pytest

from tests.conftest import ROOT
from tests.ranks.start import (
    SETTINGS,
    ended,
    free_port,
    ranks_of,
    start_ranks,
    torchrun,
    wait_for_epochs,
)
from tests.ranks.test_run import result, status

pytestmark = pytest.mark.slow

TWICE = ("--nproc-per-node=2", "--max-restarts=1")


@pytest.mark.parametrize(("number", "more"), [(0, ()), (1, ()), (1, ("again=true",))])
def test_torchrun_starts_killed_ranks_again_and_the_run_resumes_exactly(
    tmp_path, whole, number, more
):
    started = torchrun(tmp_path, "epochs=8", "tricks=core", *more, more=TWICE)
    wait_for_epochs(tmp_path, 2, started)
    os.kill(ranks_of(started)[number], signal.SIGKILL)
    out, err = started.communicate(timeout=180)
    assert started.returncode == 0, err
    assert "resuming at update" in out
    assert result(tmp_path) == whole


@pytest.mark.parametrize("number", [0, 1])
def test_ranks_of_two_machines_meet_again_when_one_of_them_is_killed(tmp_path, whole, number):
    given = ("epochs=8", "tricks=core")
    machines = (
        *("--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d"),
        *("--rdzv-id=both", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1"),
    )
    agents = [torchrun(tmp_path, *given, more=machines) for _ in range(2)]
    wait_for_epochs(tmp_path, 2, agents[0])
    os.kill(ranks_of(agents[number])[0], signal.SIGKILL)
    found = ended(agents)
    assert found.codes == [0, 0], found.err
    assert "resuming at update" in "".join(found.out)
    assert result(tmp_path) == whole


DIES = """
import atexit
import os
import signal
from runner.models import cifar_resnet

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def net(channels, classes):
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        if os.environ["WHEN"] == "before":
            die()
        atexit.register(die)
    return cifar_resnet(depth=8, width=8, channels=channels, classes=classes)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_again_begins_anew_just_once_whenever_a_rank_dies(tmp_path, when):
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "own.py").write_text(DIES)
    (tmp_path / "conf/model/own.yaml").write_text("_target_: own.net\nweights: null\n")
    known = {"BISCUITS_ALLOW": "own.net", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    given = ("-cd", "conf", "model=own", "epochs=3")
    before = {**known, "WHEN": "never", "TORCHELASTIC_RESTART_COUNT": "0"}
    ranks = start_ranks(tmp_path, *SETTINGS, *given, **before)
    wait_for_epochs(tmp_path, 1, ranks[0])
    for rank in ranks:
        rank.kill()
    ended(ranks)
    started = torchrun(tmp_path, *given, "again=true", more=TWICE, **known, WHEN=when)
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    assert "resuming" not in out
    assert out.count("epoch 1/3") == 1
    assert status(tmp_path)["attempts"] == 1
