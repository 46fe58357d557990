"""Ablations with each launcher: the same bits, and what becomes of runs that die."""

import os
import time

import pytest

from runner.store.runs import read_run
from tests.builders import read_status
from tests.conftest import ROOT, biscuits, start
from tests.test_ablation import SHORT, TWO, ablate, results, states

PARTS = ROOT / "tests" / "parts"
DYING = {"PYTHONPATH": f"{ROOT}{os.pathsep}{PARTS}", "BISCUITS_ALLOW": "dying.Dying"}


@pytest.mark.slow
def test_each_way_to_die_is_recorded_and_every_other_run_is_done(tmp_path):
    mercy = tmp_path / "mercy"
    command = (
        *("--config-dir", str(PARTS / "conf"), "ablation=one_at_a_time", "tricks=[dying]"),
        "ablation.factors={tricks.dying.how:[nothing,raise,exit,kill,hang]}",
        *(*SHORT, "name=deaths", "ablation.seeds=1", "hydra.launcher.timeout=20"),
        f"tricks.dying.mercy={mercy}",
    )
    code, out, complaint = biscuits(tmp_path, *command, **DYING)
    root = tmp_path / "outputs" / "deaths"
    assert code == 1
    assert "4 of 5 runs failed" in complaint
    assert "Traceback" not in complaint
    assert states(root)["baseline/seed=0"] == "done"
    errors = {
        how: read_status(root / f"dying.how={how}" / "seed=0")["error"]
        for how in ("raise", "exit", "kill", "hang")
    }
    assert "RuntimeError: the trick raised" in errors["raise"]
    assert "Traceback" in errors["raise"]
    assert "SystemExit: 7" in errors["exit"]
    assert "killed by SIGKILL (out of memory?)" in errors["kill"]
    assert "longer than hydra.launcher.timeout=20" in errors["hang"]
    found = {how: read_run(root / f"dying.how={how}" / "seed=0", how).cause for how in errors}
    assert found == {"raise": "exception", "exit": "exception", "kill": "killed", "hang": "timeout"}
    for how in errors:
        assert f"dying.how={how}" in out
    said = " ".join(out.split())
    assert said.count("NO VERDICT") >= 4  # one seed proves nothing
    assert "BROKEN" not in said

    mercy.touch()  # the same command tries the failed ones again, and those alone
    done = {path: path.stat().st_mtime_ns for path in root.rglob("result.json")}
    ablate(tmp_path, *command, **DYING)
    assert set(states(root).values()) == {"done"}
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())


@pytest.mark.slow
def test_with_joblib_a_sweep_that_is_killed_leaves_no_worker_behind(tmp_path):
    overrides = ("-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    with start(tmp_path, *overrides, "epochs=3000", "threads=1", "name=orphans") as process:
        pattern, end = "*/seed=*/metrics.jsonl", time.monotonic() + 120
        root = tmp_path / "outputs" / "orphans"
        while len(files := [*root.glob(pattern)]) < 2 and time.monotonic() < end:
            time.sleep(0.5)
        process.kill()
        process.wait()
        time.sleep(3)  # a worker looks for its parent every second
        sizes = [file.stat().st_size for file in files]
        time.sleep(3)  # several epochs
    assert len(sizes) == 2
    assert [file.stat().st_size for file in files] == sizes


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_every_launcher_gives_the_same_bits(tmp_path, launcher):
    for name in ("local", launcher):
        ablate(
            tmp_path, *TWO[:2], *SHORT, "ablation.seeds=1", f"hydra/launcher={name}", f"name={name}"
        )
    found = [results(tmp_path / "outputs" / name) for name in ("local", launcher)]
    assert len(found[0]) == 3
    assert found[0] == found[1]
    assert not list((tmp_path / "outputs").rglob("*.pkl"))


def killed_with(tmp_path, launcher):
    """Do an ablation of four runs, one of which is killed; give back the states of all."""
    code, _, complaint = biscuits(
        tmp_path,
        *("--config-dir", str(PARTS / "conf"), "ablation=one_at_a_time", "tricks=[dying]"),
        "ablation.factors={tricks.dying.how:[nothing,kill],optimizer.lr:[0.1,0.05,0.02]}",
        *("epochs=4", "threads=1", "name=deaths", "ablation.seeds=1"),
        f"hydra/launcher={launcher}",
        f"tricks.dying.mercy={tmp_path / 'mercy'}",
        **DYING,
    )
    found = states(tmp_path / "outputs" / "deaths")
    failed = list(found.values()).count("failed")
    assert code == (1 if failed else 0), complaint
    assert (f"{failed} of 4 runs failed" in complaint) == bool(failed)
    return found


@pytest.mark.slow
def test_with_submitit_too_a_killed_run_alone_has_failed(tmp_path):
    found = killed_with(tmp_path, "submitit_local")
    assert found.pop("dying.how=kill/seed=0") == "failed"
    assert list(found.values()) == 3 * ["done"]


@pytest.mark.slow
def test_with_joblib_the_runs_beside_a_killed_one_fail_too_and_the_same_command_does_them(tmp_path):
    found = killed_with(tmp_path, "joblib")
    assert len(found) == 4
    assert found.pop("dying.how=kill/seed=0") == "failed"
    assert set(found.values()) <= {"done", "failed"}
    (tmp_path / "mercy").touch()
    assert set(killed_with(tmp_path, "joblib").values()) == {"done"}
