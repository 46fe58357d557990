"""One run over two ranks: the same run, whatever becomes of one of them."""

import json
import os
import re
import signal
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import ROOT, start
from tests.ranks.start import (
    SETTINGS,
    ended,
    lines,
    ranks_of,
    run_ranks,
    start_ranks,
    torchrun,
    wait_for_epochs,
)

QUICK = "epochs=1"
TOLD = "rank 1 differs from rank 0: the sum of the model's bytes after update 7"
AGREED = [[0, 0, 1, 0, 0, 0]] * 2
DRIFTED = [["nothing", TOLD, 2, 1], ["nothing", "elsewhere", 2, 1]]


def run(folder, *arguments):
    """Do a run in one process."""
    process = start(folder, *arguments)
    found = ended([process])
    return SimpleNamespace(returncode=found.codes[0], stdout=found.out[0], stderr=found.err[0])


def result(folder):
    """The weights of the only run, and its log without the times."""
    (place,) = folder.glob("outputs/ours/*/seed=0")
    lines = map(json.loads, (place / "metrics.jsonl").read_text().splitlines())
    log = [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]
    return json.loads((place / "result.json").read_text())["weights"], log


def trained(folder):
    """The parameters of the only run, and what each of its epochs logged of them."""
    (place,) = folder.glob("outputs/ours/*/seed=0")
    saved = torch.load(place / "checkpoint.pt", weights_only=True)["training"]["model"]
    log = [{k: line[k] for k in line if k.startswith("train/")} for line in result(folder)[1]]
    # of batch norm each rank has its own statistics
    own = ("running_mean", "running_var", "num_batches_tracked")
    return {k: v.tolist() for k, v in saved.items() if not k.endswith(own)}, log


def status(folder):
    (file,) = folder.glob("outputs/ours/*/seed=0/status.json")
    return json.loads(file.read_text())


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_other_with_the_cause(tmp_path):
    ranks = start_ranks(tmp_path, *SETTINGS, "epochs=500")
    wait_for_epochs(tmp_path, 1, ranks[0])
    ranks[1].kill()
    found = ended(ranks, timeout=20)
    assert found.codes == [1, -signal.SIGKILL]
    (line,) = lines(found.err[0])
    assert line.startswith("A rank was killed, or cannot be reached (")
    assert line.endswith("Give the same command to go on.")
    assert status(tmp_path)["status"] == "failed"
    assert status(tmp_path)["cause"] == "machine"


@pytest.mark.slow
def test_two_ranks_write_what_one_writes_and_only_one_prints(tmp_path):
    found = run_ranks(tmp_path, QUICK)
    assert found.codes == [0, 0], found.err
    assert found.out[1] == ""
    assert lines("".join(found.err)) == []
    (two,) = tmp_path.glob("outputs/ours/*/seed=0")
    one = run(tmp_path, *SETTINGS[:-1], "name=alone", QUICK)
    (alone,) = tmp_path.glob("outputs/alone/*/seed=0")
    assert one.returncode == 0
    names = {re.sub(r"tfevents.*", "tfevents", path.name) for path in two.iterdir()}
    assert names == {re.sub(r"tfevents.*", "tfevents", path.name) for path in alone.iterdir()}
    assert json.loads((two / "run.json").read_text())["ranks"] == 2
    again = run_ranks(tmp_path, QUICK)
    assert again.codes == [0, 0]
    assert "test accuracy" in again.out[0]
    assert again.out[1] == ""


@pytest.mark.slow
def test_micro_batches_are_dealt_so_that_one_process_has_the_same_weights(tmp_path):
    (tmp_path / "one").mkdir()
    run(tmp_path / "one", *SETTINGS, QUICK, "micro_batch_size=32", "tricks=core")
    run_ranks(tmp_path, QUICK, "micro_batch_size=32", "tricks=core")
    assert trained(tmp_path) == trained(tmp_path / "one")


@pytest.mark.slow
def test_with_synchronised_batch_norm_the_run_is_that_of_one_process(tmp_path):
    (tmp_path / "one").mkdir()
    run(tmp_path / "one", *SETTINGS, "epochs=2")
    run_ranks(tmp_path, "epochs=2", "sync_batch_norm=true")
    one, two = (result(place)[1][0] for place in (tmp_path / "one", tmp_path))
    for key in ("train/loss", "validation/loss", "train/gradient_norm"):
        assert two[key] == pytest.approx(one[key], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [True, False])
def test_a_signal_to_one_rank_or_all_stops_them_after_one_update_and_saves(tmp_path, whole, to_all):
    started = torchrun(tmp_path, "epochs=8", "tricks=core")
    wait_for_epochs(tmp_path, 2, started)
    os.kill(started.pid if to_all else ranks_of(started)[1], signal.SIGTERM)
    out, _ = started.communicate(timeout=60)
    assert "Stopped and saved at update" in out
    assert status(tmp_path)["status"] == "stopped"
    assert status(tmp_path)["update"] == status(tmp_path)["checkpoint"]
    found = run_ranks(tmp_path, "epochs=8", "tricks=core")
    assert found.codes == [0, 0], found.err
    assert result(tmp_path) == whole


STOPS = """
import os
import signal
from pathlib import Path

calls = []

def stop(logits, labels):
    calls.append(1)  # the first one tries it, before the run begins
    if os.environ.get("RANK") == "1" and len(calls) == 2 and not Path("sent").exists():
        Path("sent").touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return 0.5
"""


@pytest.mark.slow
def test_a_signal_in_the_last_evaluation_of_one_rank_stops_all(tmp_path):
    (tmp_path / "own.py").write_text(STOPS)
    given = (tmp_path, QUICK, "metrics=[own.stop]")
    variables = {"BISCUITS_ALLOW": "own.stop", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    found = run_ranks(*given, **variables)
    assert found.codes == [143, 143], found.err
    assert "Stopped and saved at update" in found.out[0]
    assert status(tmp_path)["status"] == "stopped"
    found = run_ranks(*given, **variables)
    assert found.codes == [0, 0], found.err


@pytest.mark.slow
def test_a_rank_may_have_no_part_of_the_first_update(tmp_path):
    few = ("data.validation=0.98", "precision=float16", "allow_emulated=true")
    found = run_ranks(tmp_path, QUICK, *few, "data.augment.crop=1", "data.augment.flip=true")
    assert found.codes == [0, 0], found.err


@pytest.mark.slow
def test_another_number_of_ranks_resumes_only_where_that_is_asked_for(tmp_path, whole):
    started = torchrun(tmp_path, "epochs=8", "tricks=core")
    wait_for_epochs(tmp_path, 2, started)
    started.terminate()
    started.communicate(timeout=60)
    given = (*SETTINGS, "epochs=8", "tricks=core")
    refused = run(tmp_path, *given)
    assert refused.returncode == 1
    assert "ranks changed (2 -> 1)" in refused.stderr
    moved = run(tmp_path, *given, "resume=anywhere")
    assert moved.returncode == 0
    (file,) = tmp_path.glob("outputs/ours/*/seed=0/run.json")
    (move,) = json.loads(file.read_text())["moves"]
    assert "ranks changed (2 -> 1)" in move
    losses, those = (
        [line["train/loss"] for line in log] for log in (result(tmp_path)[1], whole[1])
    )
    assert losses[:2] == those[:2]  # of the epochs before it moved
    assert losses[2:] != those[2:]
    assert losses == pytest.approx(those, rel=0.5)


OWN = """
import os
import torch
from torch import nn
from runner.models import cifar_resnet

class Net(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.inner = cifar_resnet(depth=8, width=8, channels=channels, classes=classes)
        self.passes = 0

    def forward(self, inputs):
        self.passes += torch.is_grad_enabled()
        if self.passes > 3 and os.environ.get("RANK") == "1":
            raise ValueError("the second half is not to my taste")
        return self.inner(inputs)
"""


@pytest.mark.slow
def test_an_error_on_one_rank_is_told_once_and_recorded(tmp_path):
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "conf/model/own.yaml").write_text("_target_: own.Net\nweights: null\n")
    given = ("-cd", "conf", "model=own", QUICK)
    variables = {"BISCUITS_ALLOW": "own.Net", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    found = run_ranks(tmp_path, *given, **variables)
    told = lines("".join(found.err))
    assert len(told) == 1, told
    assert told[0].startswith("rank 1: the second half is not to my taste")
    assert "rank 1 failed" in status(tmp_path)["error"]


@pytest.mark.slow
def test_odd_networks_and_wishes(tmp_path):
    found = ended(start_ranks(tmp_path, module="tests.ranks.odd_worker"))
    assert found.codes == [0, 0], found.err
    everywhere = json.loads(found.out[0])
    assert [case for wrong, *_ in everywhere for case in wrong.items() if case[1]] == []
    assert [agreed for _, agreed, _ in everywhere] == AGREED
    assert [drift for *_, drift in everywhere] == DRIFTED
