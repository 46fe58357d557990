"""Runs of an earlier version, in tests/data/run_folder: still read, reported and verified.

An ablation of two runs as the version before the packages of `runner/` wrote it, without its
checkpoints: `ablation=one_at_a_time 'tricks=[clipping]' epochs=2 batch_size=256 model.width=4
threads=1 name=old ablation.seeds=1`.
"""

import json
import shutil

import pytest
import torch

from runner.ablation.plan import load_plan
from runner.report.__main__ import main as report
from runner.run.fingerprint import fingerprint
from runner.run.result import finished
from runner.store.runs import read_run
from runner.verify import main as verify
from tests.conftest import ROOT, settings

RUN = ("epochs=2", "batch_size=256", "model.width=4", "name=old")


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(ROOT / "tests" / "data" / "run_folder", tmp_path / "old")


def test_the_report_reads_them(folder, capsys):
    report([str(folder)])
    out = capsys.readouterr().out
    assert "NO VERDICT" in out
    assert "-1.11" in out  # points of accuracy
    assert "damaged" not in out
    assert load_plan(folder).variants.keys() == {"baseline", "clipping"}


def test_the_same_command_finds_them_done(folder):
    result = finished(folder / "baseline" / "seed=0", settings(*RUN, "variant=baseline"))
    assert result["updates"] == 12
    given = settings(*RUN, "tricks=[clipping]", "variant=clipping")
    assert finished(folder / "clipping" / "seed=0", given)["tricks/clipping/clipped_share"] == 1 / 6
    machine = fingerprint(given, torch.device("cpu"))
    stored = json.loads((folder / "clipping" / "seed=0" / "run.json").read_text())
    assert stored["config"] == machine["config"]


@pytest.mark.parametrize("variant", ["baseline", "clipping"])
def test_verify_gives_the_same_bits(folder, variant, capsys):
    place = folder / variant / "seed=0"
    here = fingerprint(settings(), torch.device("cpu"))
    made = read_run(place, variant).machine
    same = all(made[key] == here[key] for key in ("processor", "capability"))
    same &= made["libraries"]["torch"] == here["libraries"]["torch"]
    said = outcome(place, capsys)
    assert f"{place} is bit-identical: " in said or not same
    assert f"{place} is bit-identical: " in said or f"{place} differs: " in said


def outcome(place, capsys):
    try:
        verify([str(place)])
    except SystemExit as difference:
        return str(difference)
    return capsys.readouterr().out
