"""Sweeps over a real Slurm: what becomes of runs and jobs, and the same verdicts as locally."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from runner.store.runs import read_metrics, read_run
from tests.builders import read_status
from tests.cluster.slurm import wait_until
from tests.conftest import HEARS_CTRL_C, ROOT, biscuits, start
from tests.test_ablation import results, states
from tests.test_launchers import DYING, PARTS

pytestmark = pytest.mark.cluster

TWO = ("ablation=one_at_a_time", "tricks=[clipping,anti_aliasing]", "model.width=4", "threads=1")
SMALL = ("batch_size=256", "epochs=1")
start = partial(start, options=HEARS_CTRL_C)


LEFT_OUT = ("plan", "runs", "checksum", "warnings")
"""Of a report: its name and command, attempts, and that the question was asked before."""


def report(root):
    """Give back what a report concludes, but for times and memory."""

    def without(node):
        if isinstance(node, dict):
            kept = (key for key in node if not re.search("time|seconds|memory|process", key))
            return {key: without(node[key]) for key in kept}
        return [without(value) for value in node] if isinstance(node, list) else node

    content = json.loads((root / "report.json").read_text())
    return {k: without(v) for k, v in content.items() if k not in LEFT_OUT}


def updates(root):
    """Give back how many evaluations each run has logged."""
    return {str(p.parent): len(read_metrics(p.parent)) for p in root.rglob("metrics.jsonl")}


def begun(process, root, runs):
    def condition():
        assert process.poll() is None, process.communicate()
        return sum(count > 1 for count in updates(root).values()) >= runs

    wait_until(condition, 120)


def finish(process):
    out, complaint = process.communicate(timeout=300)
    return process.returncode, out, complaint


def test_thirty_runs_in_arrays_outlast_a_drained_node_and_requeued_jobs(cluster, command, tmp_path):
    arguments, variables = command
    ablation = (*TWO, *SMALL, "ablation.seeds=10")
    code, _, complaint = biscuits(tmp_path, *ablation, "name=here", **variables)
    assert code == 0, complaint
    given = (*ablation, *arguments, "name=there", "hydra.launcher.runs_per_job=3")
    process = start(tmp_path, *given, **variables)
    root = tmp_path / "outputs" / "there"
    wait_until(lambda: len(results(root)) >= 3, 120)
    for job in cluster.jobs("RUNNING")[:1]:
        cluster.ask("scontrol", "requeue", job)
    cluster.update_node("DRAIN")
    wait_until(lambda: not cluster.jobs("RUNNING", "COMPLETING"), 90)
    done = len(results(root))
    assert done < 30
    assert cluster.jobs("PENDING")
    cluster.update_node("RESUME")
    code, out, complaint = finish(process)
    assert code == 0, complaint + out
    assert "30 runs are in 10 jobs" in out
    assert "sacct" not in out + complaint
    assert set(states(root).values()) == {"done"}
    here = tmp_path / "outputs" / "here"
    assert results(here) == results(root)
    assert report(here) == report(root)
    assert not cluster.jobs()
    assert not list((tmp_path / "cache" / "jobs").rglob("*.*"))
    assert not list((tmp_path / "outputs").glob(".*-*"))


def test_how_runs_end_is_recorded_and_slurm_is_told(cluster, command, tmp_path):
    arguments, variables = command
    mercy = tmp_path / "mercy"
    given = (
        *("--config-dir", str(PARTS / "conf"), "ablation=one_at_a_time", "tricks=[dying]"),
        "ablation.factors={tricks.dying.how:[nothing,raise,exit,kill,hang]}",
        *(*SMALL, *arguments, "name=deaths", "ablation.seeds=1", "hydra.launcher.timeout=15"),
        *("hydra.launcher.runs_per_job=3", f"tricks.dying.mercy={mercy}"),
    )
    code, out, complaint = biscuits(tmp_path, *given, **DYING, **variables)
    root = tmp_path / "outputs" / "deaths"
    assert code == 1
    assert "4 of 5 runs failed" in complaint
    assert "Traceback" not in complaint
    hows = ("raise", "exit", "kill", "hang")
    found = {how: read_run(root / f"dying.how={how}" / "seed=0", how).cause for how in hows}
    assert found == {"raise": "exception", "exit": "exception", "kill": "killed", "hang": "timeout"}
    for how in hows:
        assert f"dying.how={how}" in out
    known = cluster.ask("scontrol", "show", "job", "-o").splitlines()[-2:]
    assert all("JobState=FAILED" in job for job in known)

    mercy.touch()
    code, out, complaint = biscuits(tmp_path, *given, **DYING, **variables)
    assert code == 0, complaint
    assert "4 runs are in 2 jobs" in out
    assert set(states(root).values()) == {"done"}


LONG = ("-m", "epochs=60", "variant=one")


@pytest.mark.parametrize("how", ["the signal before the limit", "another job is urgent"])
def test_what_slurm_ends_is_saved_queued_again_and_resumes_to_the_same_bits(
    cluster, command, tmp_path, how
):
    arguments, variables = command
    biscuits(tmp_path, *LONG, "seed=0,1", "threads=1", "name=here", **variables)
    process = start(tmp_path, *LONG, "seed=0,1", *arguments, "name=there", **variables)
    root = tmp_path / "outputs" / "there"
    begun(process, root, 2)
    if how == "another job is urgent":
        cluster.ask("sbatch", "-p", "urgent", "-n", "2", "-o", "/dev/null", "--wrap", "sleep 3")
    else:
        cluster.ask("scancel", "--signal=USR2", *cluster.jobs("RUNNING"))
    wait_until(lambda: set(states(root).values()) == {"stopped"}, 30)
    reached = [read_status(path.parent) for path in root.rglob("status.json")]
    assert all(0 < status["checkpoint"] == status["update"] for status in reached)
    code, out, complaint = finish(process)
    assert code == 0, complaint + out
    assert {read_status(p.parent)["attempts"] for p in root.rglob("status.json")} == {2}
    assert results(root) == results(tmp_path / "outputs" / "here")


def test_a_job_that_reaches_its_limit_resumes_as_often_as_it_takes(command, tmp_path):
    arguments, variables = command
    limits = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=15")
    given = ("-m", "variant=one", "seed=0,1", "epochs=200", *arguments, *limits, "name=limit")
    code, out, complaint = biscuits(tmp_path, *given, **variables)
    assert code == 0, complaint + out
    found = [read_status(p.parent) for p in (tmp_path / "outputs").rglob("status.json")]
    assert {status["status"] for status in found} == {"done"}
    assert all(status["attempts"] > 1 for status in found)


def test_ctrl_c_saves_all_and_the_same_command_or_the_local_launcher_ends_it(
    cluster, command, tmp_path
):
    arguments, variables = command
    ablation = (*TWO, "ablation.seeds=1", "epochs=30", "batch_size=128")
    for name in ("here", "there first", "here first"):
        root = tmp_path / "outputs" / name.replace(" ", "_")
        given = (*ablation, f"name={root.name}")
        there, here = (*given, *arguments), (*given, "hydra/launcher=local")
        if name != "here":
            process = start(tmp_path, *(there if name == "there first" else here), **variables)
            begun(process, root, 2)
            process.send_signal(signal.SIGINT)
            code, _, complaint = finish(process)
            assert code == 130, complaint
            assert complaint.count("Stopping when the current update is done and saved.") == 1
            assert "stopped" in states(root).values()
            assert "running" not in states(root).values()
            assert not cluster.jobs()
        code, _, complaint = biscuits(
            tmp_path, *(there if name == "here first" else here), **variables
        )
        assert code == 0, complaint
    roots = [tmp_path / "outputs" / name for name in ("here", "there_first", "here_first")]
    assert len(results(roots[0])) == 3
    for root in roots[1:]:
        assert results(root) == results(roots[0])
        assert report(root) == report(roots[0])


def test_the_same_command_waits_for_the_jobs_of_one_that_was_killed(cluster, command, tmp_path):
    arguments, variables = command
    given = (*LONG, "seed=0,1,2", *arguments, "name=lost")
    process = start(tmp_path, *given, **variables)
    root = tmp_path / "outputs" / "lost"
    begun(process, root, 2)
    process.kill()
    process.communicate()
    jobs = set(cluster.jobs())
    assert len(jobs) == 3
    code, _, complaint = biscuits(tmp_path, *given, "again=true", **variables)
    assert code == 1
    assert "An earlier command's jobs still do these runs" in complaint
    process = start(tmp_path, *given, **variables)
    wait_until(lambda: len(states(root)) == 3, 120)
    assert set(cluster.jobs()) <= jobs  # no other
    code, out, complaint = finish(process)
    assert code == 0, complaint + out
    assert re.search(r"(One run is|\d runs are) in .* of an earlier command", out)
    found = [read_status(path.parent) for path in root.rglob("status.json")]
    assert [status["attempts"] for status in found] == [1, 1, 1]
    assert not cluster.jobs()


def test_jobs_that_are_gone_without_a_word_or_cannot_begin_are_given_up(cluster, command, tmp_path):
    arguments, variables = command
    process = start(tmp_path, *LONG, "seed=0,1,2", *arguments, "name=gone", **variables)
    root = tmp_path / "outputs" / "gone"
    begun(process, root, 2)
    (held,) = cluster.jobs("PENDING")
    cluster.ask("scontrol", "hold", held)
    job = cluster.jobs("RUNNING")[0]
    (found,) = (int(p) for p in os.listdir("/proc") if p.isdigit() and does_job(p, job))
    os.kill(found, signal.SIGKILL)
    code, _out, complaint = finish(process)
    assert code == 1
    assert "2 of 3 runs failed" in complaint
    assert f"Job {job} of Slurm ended as FAILED" in complaint
    assert f"Job {held} of Slurm cannot begin: JobHeld" in complaint
    assert sorted(states(root).values()) == ["done", "failed", "failed"]
    found = [read_status(path.parent) for path in root.rglob("status.json")]
    assert sorted(str(status["cause"]) for status in found) == ["None", "killed", "killed"]
    assert not cluster.jobs()


def of_process(pid, name):
    """Read a file of a process in /proc, as words."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text().split("\0")
    except OSError:  # it is gone
        return []


def does_job(pid, job):
    """Whether a process is the one that submitit started in a job."""
    array, _, task = job.partition("_")
    named = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={task}"}
    command = of_process(pid, "cmdline")
    is_python = command and command[0] == sys.executable
    return (
        is_python and "submitit.core._submit" in command and named <= {*of_process(pid, "environ")}
    )


REFUSED = {
    "hydra.launcher.partition=mian": "partition=mian is none of this cluster. Did you mean main?",
    "hydra.launcher.partition=closed": "partition=closed takes no jobs now: it is down.",
    "hydra.launcher.timeout_min=90": "timeout_min must be <= 60, the limit of partition main",
    "hydra.launcher.signal_delay_s=3600": "signal_delay_s must be less than timeout_min=60",
    "hydra.launcher.nodes=2": "hydra.launcher.nodes must be 1",
    "hydra.launcher.runs_per_job=0": "runs_per_job must be auto or a whole number >= 1, got 0",
    "hydra.launcher.cpus_per_task=9": "cpus_per_task must be <= 2, the cores of a node in",
    "hydra.launcher.constraint=gpu80": "refuses the jobs: Batch job submission failed: Invalid",
}


def test_what_cannot_be_is_one_line_before_anything_is_submitted(cluster, command, tmp_path):
    arguments, variables = command
    partition = "hydra.launcher.partition=main"
    for setting, words in REFUSED.items():
        given = (*TWO, *SMALL, *arguments, partition, setting, "name=refused")
        code, _out, complaint = biscuits(tmp_path, *given, **variables)
        assert (code, complaint.count("\n")) == (1, 1), complaint
        assert words in complaint, complaint
        assert not cluster.jobs()
    given = (*TWO, *SMALL, *arguments, "name=refused")
    nowhere = {**variables, "PATH": os.path.dirname(sys.executable)}
    _, _, complaint = biscuits(tmp_path, *given, **nowhere)
    assert "needs Slurm, but there is no sbatch here" in complaint
    dead = tmp_path / "dead.conf"
    text = (cluster.folder / "slurm.conf").read_text()
    dead.write_text(text.replace("SlurmctldPort=", "SlurmctldPort=1 #"))
    _, _, complaint = biscuits(tmp_path, *given, **{**variables, "SLURM_CONF": str(dead)})
    assert "Slurm does not answer here: scontrol says" in complaint
    code, _, _ = biscuits(tmp_path, *given, "ablation.dry_run=true", **nowhere)
    assert code == 0  # a dry run needs none


def test_a_folder_that_the_node_does_not_see_is_one_line(cluster, command, tmp_path):
    arguments, variables = command
    work = tmp_path / "work"
    work.mkdir()
    given = ["-m", "runner", "-m", "seed=0,1", *SMALL, *arguments, "name=unseen"]
    script = f'mount -t tmpfs none {work} && cd {work} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "bash", sys.executable, *given],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 1
    assert "does not see what was written to" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    wait_until(lambda: not cluster.jobs(), 60)
