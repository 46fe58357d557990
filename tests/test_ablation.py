"""Ablations as a person types them: real sweeps, real kills, and what is left after them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from runner.__main__ import main
from runner.store.files import checked
from tests.conftest import HEARS_CTRL_C, biscuits, start

SHORT = ("epochs=1", "batch_size=256", "threads=1")
TWO = ("ablation=one_at_a_time", "tricks=[clipping,anti_aliasing]", "name=mine")


def ablate(folder, *arguments, **environment):
    """Do an ablation that has to succeed; give back what it printed."""
    code, out, complaint = biscuits(folder, *arguments, **environment)
    assert code == 0, complaint + out
    return out


def results(root):
    found = {}
    for path in sorted(root.glob("*/seed=*/result.json")):
        found[str(path.parent.relative_to(root))] = path.read_text()
    return found


def states(root):
    return {
        str(path.parent.relative_to(root)): json.loads(path.read_text())["status"]
        for path in sorted(root.glob("*/seed=*/status.json"))
    }


def test_an_ablation_ends_in_verdicts_and_is_never_done_twice(tmp_path, do):
    small = (*SHORT, "model.width=4")
    command = (*TWO, *small, "ablation.seeds=3")
    out = ablate(tmp_path, *command)
    root = tmp_path / "outputs" / "mine"
    assert set(results(root)) == {
        f"{variant}/seed={seed}"
        for variant in ("baseline", "clipping", "anti_aliasing")
        for seed in range(3)
    }
    for name in ("sweep.yaml", "report.html", "report.md", "report.json"):
        assert (root / name).stat().st_size > 500, name
    assert any(word in out for word in ("HELPS", "HURTS", "NEGLIGIBLE", "UNDECIDED"))
    plan = yaml.safe_load((root / "sweep.yaml").read_text())
    assert plan["config"]["epochs"] == 1
    assert plan["changes"]["clipping"] == {"tricks.clipping.enabled": True}
    saved = yaml.safe_load((root / "clipping" / "seed=2" / "config.yaml").read_text())
    assert (saved["variant"], saved["seed"], saved["name"]) == ("clipping", 2, "mine")
    assert "ablation" not in saved

    alone = do(*small, "tricks=[clipping]", "seed=1")  # the same run, of no ablation
    assert checked(json.loads(results(root)["clipping/seed=1"])) == {"format": 1, **alone}

    before = {path: path.stat().st_mtime_ns for path in root.rglob("result.json")}
    (root / "report.html").unlink()
    ablate(tmp_path, *command)
    assert (root / "report.html").exists()
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("result.json")}


@pytest.mark.slow
def test_the_demo_decides(tmp_path):
    with start(tmp_path, "experiment=demo", "seed=200") as process:
        out, complaint = process.communicate(timeout=1200)
    assert process.returncode == 0, complaint + out
    report = json.loads((tmp_path / "outputs" / "demo" / "report.json").read_text())
    verdicts = [effect["verdict"] for effect in report["effects"]]
    assert len(verdicts) == 5
    assert sum(verdict in ("HELPS", "HURTS", "NEGLIGIBLE") for verdict in verdicts) >= 2


LONG = (
    *("ablation=one_at_a_time", "tricks=[clipping]", "name=mine"),
    *("batch_size=32", "threads=1", "epochs=10", "ablation.seeds=1"),
)


def start_group(folder, *arguments):
    """Start an ablation in a group of processes of its own."""
    return start(
        folder,
        *arguments,
        options={"stderr": subprocess.STDOUT, "start_new_session": True, **HEARS_CTRL_C},
    )


def wait_for_epochs(root, runs):
    """Wait until so many runs have an epoch behind them and are in the middle of another."""
    deadline = time.monotonic() + 120
    while sum(path.stat().st_size > 0 for path in root.glob("*/seed=*/metrics.jsonl")) < runs:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    ablate(folder, *LONG)
    return results(folder / "outputs" / "mine")


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_the_same_command_resumes_bit_identically(tmp_path, undisturbed):
    root = tmp_path / "outputs" / "mine"
    process = start_group(tmp_path, *LONG)
    wait_for_epochs(root, 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to all of them
    pressed = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - pressed < 20
    assert process.returncode == 130, out
    assert "Give the same command to go on." in out
    assert "Traceback" not in out
    assert "running" not in states(root).values()
    assert "stopped" in states(root).values()
    ablate(tmp_path, *LONG)
    assert results(root) == undisturbed


@pytest.mark.slow
def test_a_sweep_that_is_killed_leaves_no_process_behind_and_resumes(tmp_path, undisturbed):
    root = tmp_path / "outputs" / "mine"
    process = start_group(tmp_path, *LONG)
    wait_for_epochs(root, 1)
    process.kill()  # the sweep alone; its workers have to notice
    process.communicate(timeout=60)
    out = ablate(tmp_path, *LONG)
    assert "is locked" not in out
    assert results(root) == undisturbed


@pytest.mark.slow
def test_a_second_sweep_in_the_same_folder_is_refused(tmp_path):
    root = tmp_path / "outputs" / "mine"
    longer = (*LONG[:-2], "epochs=100", "ablation.seeds=1")
    process = start_group(tmp_path, *longer)
    try:
        wait_for_epochs(root, 1)
        code, _, complaint = biscuits(tmp_path, *longer)
        assert code != 0
        assert "outputs/mine is locked by another process" in complaint
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_editing_a_config_during_a_sweep_changes_nothing(tmp_path):
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    file = own / "mine.yaml"
    text = "# @package _global_\nepochs: 2\nbatch_size: 64\nname: mine\n"
    file.write_text(text)
    root = tmp_path / "outputs" / "mine"
    command = ("-cd", "conf", "experiment=mine", *TWO[:2], "threads=1", "ablation.seeds=2")
    process = start_group(tmp_path, *command)
    deadline = time.monotonic() + 120
    while not list(root.glob("*/seed=*/status.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    file.write_text(text.replace("epochs: 2", "epochs: 3"))
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    epochs = {yaml.safe_load(p.read_text())["epochs"] for p in root.rglob("config.yaml")}
    assert epochs == {2}
    code, _, complaint = biscuits(tmp_path, *command)
    assert code != 0
    assert "epochs is 2, not 3" in complaint


def test_a_dry_run_tells_the_runs_and_what_they_could_show_and_writes_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = (*TWO, *SHORT, "ablation.seeds=4", "ablation.dry_run=true")
    monkeypatch.setattr(sys, "argv", ["biscuits", *arguments])
    main()
    out = capsys.readouterr().out
    assert "12 runs, seed by seed: 0, 1, 2, 3; 0 are done" in out
    assert re.search(r"core hours, with 1 core for each run\n  workers +wall time +busy\n", out)
    assert re.search(r"a run leaves 12 files, about .*; all 12 runs 144 files, .* of disk\n", out)
    assert "tricks.anti_aliasing.enabled=True" in out
    assert "times the seed-to-seed standard deviation of the difference" in out
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("until", "seeds"), [("decided", [0, 1, 2, 3]), ("looks", [0, 1, 2, 3, 4])]
)
def test_seeds_are_added_until_all_is_decided_or_there_are_enough(tmp_path, until, seeds):
    first = "ablation.seeds=2" if until == "decided" else "ablation.seeds=3"
    grow = (f"ablation.until={until}", first, f"ablation.most_seeds={len(seeds)}")
    out = ablate(tmp_path, *TWO, *SHORT, *grow)
    root = tmp_path / "outputs" / "mine"
    plan = yaml.safe_load((root / "sweep.yaml").read_text())
    assert plan["seeds"] == seeds  # of so short a training nothing is decided
    assert "UNDECIDED" in out
    assert f"seed={plan['seeds'][-1]}" in out
    done = results(root)
    ablate(tmp_path, *TWO, *SHORT, *grow)
    assert results(root) == done
    assert yaml.safe_load((root / "sweep.yaml").read_text())["seeds"] == plan["seeds"]


MISTAKES = {
    ("ablation=one_at_a_time",): "must vary something, got no factor",
    ("ablation=one_at_time", "tricks=core"): "Did you mean one_at_a_time?",
    ("ablation.seeds=3",): "ablation.seeds needs a design, got none. Write ablation=DESIGN",
    (*TWO, "ablation.sedes=3"): "ablation.sedes is not a setting. Did you mean ablation.seeds?",
    (*TWO, "optimizer.lr=0.1,0.2"): "'ablation.factors={optimizer.lr:[0.1,0.2]}'",
    ("-m", *TWO, "optimizer.lr=0.1,0.2"): "'ablation.factors={optimizer.lr:[0.1,0.2]}'",
    ("-m", *TWO, "seed=1,2"): "'ablation.seeds=[1,2]'",
    (*TWO, "hydra/sweeper=basic"): "needs its own sweeper. Drop hydra/sweeper=basic.",
    (*TWO, "tricks.label_smoothing.smoothing=0.2"): "label_smoothing is off. Switch it on",
    (*TWO, "ablation.factors={optimizer.lr:[0.1,0.1]}"): "got optimizer.lr=0.1 twice",
    (*TWO, "tricks.clipping.max_norm=-1"): "clipping cannot be built: tricks.clipping: Clipping",
    (*TWO, "data=image_folder", "data.root=nowhere"): "data.root: nowhere does not exist.",
    (*TWO, "model=timm", "model.name=no_such"): "baseline cannot be built: ",
    (*TWO, "hydra.launcher.workers=0"): "hydra.launcher.workers must be",
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.items(), ids=str)
def test_a_mistake_is_one_line_and_nothing_is_begun(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["biscuits", *arguments])
    with pytest.raises(SystemExit) as ended:  # the command itself, without waiting for torch
        main()
    assert message in str(ended.value)
    assert "\n" not in str(ended.value)
    assert not list(tmp_path.rglob("config.yaml"))
