"""The command `python -m runner.report`: on ablations, on other runs, and on what is half there."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runner.ablation.plan import load_plan
from runner.ablation.verdicts import judge
from runner.report import html, markdown
from runner.report.__main__ import main
from tests.builders import trick, tricks, write_ablation, write_plan, write_run
from tests.conftest import ROOT

REPORTS = ("report.html", "report.md", "report.json")


def told(capsys, *folders):
    main([str(folder) for folder in folders])
    return capsys.readouterr().out


def test_an_ablation_is_judged_and_its_reports_are_written(tmp_path, capsys):
    write_ablation(tmp_path, tricks(clipping=0.03, flooding=-0.03))
    out = told(capsys, tmp_path)
    rows = {line.split()[1]: line.split()[0] for line in out.splitlines() if " 5  x" in line}
    assert rows == {"clipping": "HELPS", "flooding": "HURTS"}
    assert all((tmp_path / name).stat().st_size > 500 for name in REPORTS)
    content = json.loads((tmp_path / "report.json").read_text())
    assert [e["verdict"] for e in content["effects"]] == ["HELPS", "HURTS"]
    assert len(content["runs"]) == 15
    assert str(tmp_path / "report.html") in out
    page = (tmp_path / "report.html").read_text()
    assert f"python -m runner.verify {tmp_path}/baseline/seed=0" in page
    assert f"tensorboard --logdir {tmp_path}" in page
    assert "python -m runner ablation=one_at_a_time tricks=core name=" in page


@pytest.mark.parametrize("kind", ["both", "pairs", "factorial", "leave_one_out", "calibration"])
def test_every_design_has_a_report(tmp_path, kind):
    given = tricks(clipping=0.01, flooding=-0.01, mixing=0.0)
    seeds = 8 if kind == "calibration" else 3
    plan = write_ablation(tmp_path, given, kind, seeds=seeds)
    findings = judge(tmp_path, plan)
    page = html.page(findings)
    assert (">Interactions<" in page) == bool(findings.interactions)
    assert ("All together, measured" in page) == (kind == "both")
    assert (">Calibration<" in page) == (kind == "calibration")
    assert page.count("<svg") >= (2 if kind == "calibration" else 4)
    assert all(finding.reason in page for finding in findings.effects)
    assert "{" not in markdown.page(findings)


def test_damaged_files_are_named_once_and_nothing_is_concluded_from_them(tmp_path, capsys):
    write_ablation(tmp_path, tricks(clipping=0.03, flooding=-0.03))
    (tmp_path / "clipping/seed=1/result.json").write_text('{"test/accuracy": 0.9')
    (tmp_path / "flooding/seed=2/metrics.jsonl").write_bytes(b'{"epoch": \xff\n{}\n[1]\n')
    (tmp_path / "flooding/seed=3/status.json").write_text("[]")
    machine = tmp_path / "flooding/seed=4/run.json"
    config = json.loads(machine.read_text())["config"]
    machine.write_text(json.dumps({"config": config, "code": [], "libraries": 3}))
    out = told(capsys, tmp_path)
    assert out.count("result.json is damaged") == 1
    assert out.count("metrics.jsonl, line 1 is damaged") == 1
    assert out.count("status.json is damaged") == 1
    content = json.loads((tmp_path / "report.json").read_text())
    clipping, flooding = content["effects"]
    assert sorted(clipping["differences"]) == ["0", "2", "3", "4"]
    assert clipping["verdict"] == "NO VERDICT"
    assert flooding["verdict"] == "HURTS"
    page = (tmp_path / "report.html").read_text()
    assert "<strong>clipping/seed=1</strong> (damaged): result.json is damaged" in page
    assert "flooding/seed=2: metrics.jsonl, line 1 is damaged" in page


def test_a_sweep_that_still_runs_says_how_far_it_is(tmp_path, capsys):
    write_ablation(tmp_path, tricks(clipping=0.03))
    shutil.rmtree(tmp_path / "clipping/seed=4")
    (tmp_path / "clipping/seed=3/result.json").unlink()
    write_run(tmp_path, "clipping", 3, status="running", epochs=2)
    with open(tmp_path / "clipping/seed=3/metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "upd')  # cut short
    out = told(capsys, tmp_path)
    assert "8 of 10 runs done: 1 running, 1 not started." in out
    assert "NO VERDICT  clipping" in out
    assert "8 of 10 runs done" in (tmp_path / "report.html").read_text()


def test_what_failed_is_told_by_its_last_line_and_in_full_on_the_page(tmp_path, capsys):
    write_ablation(tmp_path, tricks(clipping=0.03))
    (tmp_path / "clipping/seed=3/result.json").unlink()
    error = "Traceback (most recent call last):\n  File x\nValueError: no room\n"
    write_run(tmp_path, "clipping", 3, status="failed", told={"error": error})
    out = told(capsys, tmp_path)
    assert "1 of 5 failed (baseline 0 of 5)" in " ".join(out.split())
    assert "failed clipping/seed=3: ValueError: no room" in out
    page = (tmp_path / "report.html").read_text()
    assert "<strong>clipping/seed=3</strong> (failed): ValueError: no room" in page
    assert "<pre>Traceback (most recent call last):\n  File x\nValueError: no room</pre>" in page
    assert "failed: clipping/seed=3: ValueError: no room" in (tmp_path / "report.md").read_text()


def test_runs_of_other_code_are_told(tmp_path, capsys):
    write_ablation(tmp_path, tricks(clipping=0.03))
    write_run(tmp_path, "clipping", 3, 0.93, machine={"code": {"commit": "fedcba"}})
    out = " ".join(told(capsys, tmp_path).split())
    assert "different code: abcdef123456 (9 runs), fedcba (1 run)" in out
    assert "These differ: abcdef123456 (9 runs)" in (tmp_path / "report.html").read_text()


def test_a_folder_of_ablations_and_other_runs_has_a_report_for_each(tmp_path, capsys):
    write_ablation(tmp_path / "one", tricks(clipping=0.03))
    write_ablation(tmp_path / "deep/two", tricks(clipping=-0.03))
    write_run(tmp_path / "digits", "baseline", 0, 0.9)
    out = told(capsys, tmp_path)
    lines = out.splitlines()
    assert any(line.startswith("HELPS    one       clipping") for line in lines)
    assert any(line.startswith("HURTS    two       clipping") for line in lines)
    assert any(line.startswith("digits/baseline     1") for line in lines)
    for folder in ("one", "deep/two", "."):
        assert all((tmp_path / folder / name).exists() for name in REPORTS)
    assert not (tmp_path / "digits/report.html").exists()
    assert json.loads((tmp_path / "report.json").read_text())["variants"].keys() == {
        "digits/baseline"
    }


def test_other_runs_have_mean_and_sample_deviation_the_baseline_first(tmp_path, capsys):
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        write_run(tmp_path, "baseline", seed, accuracy)
        idle = ["clipping"] if seed else ()
        write_run(tmp_path, "clipping", seed, accuracy + 0.01, inactive=idle)
    write_run(tmp_path, "flooding", 0, 0.99)
    write_run(tmp_path, "flooding", 1, status="diverged", told={"error": "the loss is nan"})
    out = told(capsys, tmp_path)
    heads, _, *rows = out.splitlines()[2:]
    assert heads.split()[:2] == ["variant", "runs"]
    assert [row.split()[0] for row in rows[:3]] == ["baseline", "flooding", "clipping"]
    assert "92.00 ± 2.00" in rows[0]  # the sample's: n - 1
    assert "3.0 ± 1.0" in rows[0]
    assert "93.00 ± 2.00" in rows[2]
    assert "Note: clipping: clipping by its own count inactive in 2" in rows
    assert "99.00" in rows[1]
    assert "±" not in rows[1]  # one value has no spread
    assert "Note: flooding: 1 diverged" in rows
    assert "diverged flooding/seed=1: the loss is nan" in out
    assert "This is a plain sweep: it is listed, not judged." in out
    page = (tmp_path / "report.html").read_text()
    assert "92.00 ± 2.00" in page
    assert "This is a plain sweep: it is listed, not judged." in page
    assert page.count("<svg") == 2
    assert "| baseline | 3 | 92.00 ± 2.00 |" in (tmp_path / "report.md").read_text()
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["variants"]["baseline"]["test/accuracy"]["mean"] == pytest.approx(0.92)
    assert content["variants"]["flooding"]["test/accuracy"]["spread"] is None


def test_results_of_a_stranger_cannot_break_the_table(tmp_path, capsys):
    place = write_run(tmp_path, "baseline", 0, 0.9)
    odd = {"test/accuracy": "<b>", "test/loss": [1], "inactive": {"a": 1}}
    (place / "result.json").write_text(json.dumps(odd)[:-1] + ', "test/shift_consistency": NaN}')
    (place / "status.json").write_text('{"status": ["x"], "seconds": "y", "error": {"z": 1}}')
    (place / "metrics.jsonl").write_text('[]\n{"epoch": "1", "train/loss": {}}\n')
    (row,) = (line for line in told(capsys, tmp_path).splitlines() if line.startswith("baseline"))
    assert row.split() == ["baseline", "1", "-", "-", "-", "-"]


def test_a_folder_without_runs_is_one_line_and_the_others_are_reported(tmp_path, capsys):
    write_ablation(tmp_path / "good", tricks(clipping=0.03))
    write_plan(tmp_path / "broken", (trick("clipping"),))
    (tmp_path / "broken/sweep.yaml").write_text("format: 1\nname: [")
    (tmp_path / "empty").mkdir()
    folders = [str(tmp_path / name) for name in ("empty", "broken", "good", "gone")]
    with pytest.raises(SystemExit) as ended:
        main(folders)
    empty, broken, gone = str(ended.value).splitlines()
    assert "empty: no runs there." in empty
    assert "sweep.yaml must be" in broken
    assert "gone: no such folder." in gone
    assert "HELPS" in capsys.readouterr().out
    assert (tmp_path / "good/report.html").exists()


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_nothing_found_in_a_folder_is_executed(tmp_path, capsys):
    mark = tmp_path / "executed"
    write_ablation(tmp_path / "run", tricks(clipping=0.03), samples=100)
    for place in (tmp_path / "run").glob("*/seed=*"):
        np.save(place / "correct.npy", np.array([Trap(mark)]), allow_pickle=True)
        (place / "checkpoint.pt").write_bytes(pickle.dumps(Trap(mark)))
        (place / "config.yaml").write_text(f"!!python/object/apply:builtins.open [{mark}, w]")
    told(capsys, tmp_path / "run")
    plan = (tmp_path / "run/sweep.yaml").read_text()
    trap = f"x: !!python/object/apply:builtins.open [{mark}, w]\n"
    (tmp_path / "run/sweep.yaml").write_text(plan + trap)
    with pytest.raises(SystemExit, match=r"sweep.yaml must have no tags"):
        main([str(tmp_path / "run")])
    assert not mark.exists()
    assert load_plan(tmp_path) is None


@pytest.mark.slow
def test_a_terminal_without_the_characters_gets_others_in_straight_columns(tmp_path):
    write_ablation(tmp_path, tricks(clipping=0.03, flooding=-0.03), seeds=3)
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "runner.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=plain, check=True)
    rows = [line for line in done.stdout.decode("ascii").splitlines() if " +- " in line]
    assert len({row.index(" +- ") for row in rows if "of 3" in row}) == 1
    assert not done.stderr


@pytest.mark.slow  # tests/faults/test_terminal.py has the same in one process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_an_output_that_is_full_is_one_line_and_the_files_are_written(tmp_path):
    write_run(tmp_path, "baseline", 0, 0.9)
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "runner.report", str(tmp_path)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "No space left on device" in line
    assert (tmp_path / "report.json").exists()


def test_interactions_and_shares_are_told_everywhere_with_what_their_interval_is(tmp_path, capsys):
    write_ablation(tmp_path, tricks(clipping=0.01, flooding=-0.01), "both", seeds=3)
    out = " ".join(told(capsys, tmp_path).split())
    for text in (out, (tmp_path / "report.md").read_text()):
        assert "clipping x the others" in text
        assert "Sum of the shares" in text
        assert "± is its own 95 % interval; a verdict allows for the number of effects" in text
    page = (tmp_path / "report.html").read_text()
    assert "clipping x the others" in page.partition(">Interactions<")[2].partition("<h2>")[0]
