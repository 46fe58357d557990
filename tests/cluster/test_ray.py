"""Sweeps by a real Ray of several nodes on this machine, one of which dies; `make test-cluster`."""

import os
import shutil
import signal
import socket
import time

import pytest

from runner.errors import UserError
from runner.store.runs import read_metrics, read_run
from tests.builders import read_status
from tests.cluster.late_disk import late_disk
from tests.cluster.late_disk import missing as late_missing
from tests.cluster.nodes import VARIABLES, missing, nodes
from tests.cluster.slurm import wait_until
from tests.cluster.test_slurm import report
from tests.conftest import HEARS_CTRL_C, biscuits, start
from tests.test_ablation import results, states
from tests.test_launchers import DYING, PARTS

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(missing()), reason=missing())]

TWELVE = (
    *("ablation=one_at_a_time", "tricks=[clipping,ema,label_smoothing]", "ablation.seeds=3"),
    *("epochs=20", "batch_size=256", "threads=1", "memory_format=contiguous", "name=mine"),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with nodes(tmp_path_factory.mktemp("ray"), port) as started:
        started.add("a")
        started.add("b")
        yield started


def by_ray(cluster, *more):
    return ("hydra/launcher=ray", f"hydra.launcher.address={cluster.address}", *more)


@pytest.fixture(scope="module")
def locally(tmp_path_factory):
    """The twelve runs, done by the local launcher."""
    folder = tmp_path_factory.mktemp("locally")
    code, _, complaint = biscuits(folder, *TWELVE)
    assert code == 0, complaint
    return folder / "outputs" / "mine"


def evaluated(root):
    return sum(bool(read_metrics(path.parent)) for path in root.rglob("metrics.jsonl"))


def test_a_node_and_a_worker_that_die_cost_no_run_and_the_report_is_as_locally(
    tmp_path, cluster, locally
):
    cluster.add("c")
    process = start(tmp_path, *TWELVE, *by_ray(cluster), **VARIABLES)
    root = tmp_path / "outputs" / "mine"
    wait_until(lambda: evaluated(root) >= 3 or process.poll() is not None, 120)
    cluster.kill("c")
    (worker, *_) = cluster.members("a", called="ray::_do")
    os.kill(worker, signal.SIGKILL)
    out, complaint = process.communicate(timeout=400)
    assert process.returncode == 0, complaint + out
    assert out.count("of Ray was lost") == 2
    assert len(results(root)) == 12
    assert results(root) == results(locally)
    assert report(root) == report(locally)


def test_a_sweep_begun_locally_is_stopped_in_ray_and_finished_locally(tmp_path, cluster, locally):
    root = tmp_path / "outputs" / "mine"
    for more in ((), by_ray(cluster)):
        process = start(tmp_path, *TWELVE, *more, options=HEARS_CTRL_C, **VARIABLES)
        before = len(results(root))
        wait_until(lambda: len(results(root)) > before or process.poll() is not None, 200)  # noqa: B023
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, complaint = process.communicate(timeout=120)
        assert process.returncode == 130, complaint + out
        assert complaint.count("Stopping when the current update is done and saved.") == 1
        assert "Traceback" not in out + complaint
        assert set(states(root).values()) <= {"done", "stopped"}
    code, _, complaint = biscuits(tmp_path, *TWELVE)
    assert code == 0, complaint
    assert report(root) == report(locally)


def test_each_way_to_die_is_recorded_and_every_other_run_is_done(tmp_path, cluster):
    mercy = tmp_path / "mercy"
    command = (
        *("--config-dir", str(PARTS / "conf"), "ablation=one_at_a_time", "tricks=[dying]"),
        "ablation.factors={tricks.dying.how:[nothing,raise,exit,kill,hang]}",
        *("epochs=1", "threads=1", "name=deaths", "ablation.seeds=1"),
        *by_ray(cluster, "hydra.launcher.timeout=20", "hydra.launcher.runs_per_job=2"),
        f"tricks.dying.mercy={mercy}",
    )
    code, out, complaint = biscuits(tmp_path, *command, **DYING, **VARIABLES)
    root = tmp_path / "outputs" / "deaths"
    assert code == 1, complaint + out
    assert "4 of 5 runs failed" in complaint
    assert "Traceback" not in complaint
    assert states(root)["baseline/seed=0"] == "done"
    ways = ("raise", "exit", "kill", "hang")
    found = {how: read_run(root / f"dying.how={how}" / "seed=0", how).cause for how in ways}
    assert found == {"raise": "exception", "exit": "exception", "kill": "killed", "hang": "timeout"}
    errors = {how: read_status(root / f"dying.how={how}" / "seed=0")["error"] for how in ways}
    assert "RuntimeError: the trick raised" in errors["raise"]
    assert "killed by SIGKILL (out of memory?)" in errors["kill"]
    mercy.touch()
    code, _, complaint = biscuits(tmp_path, *command, **DYING, **VARIABLES)
    assert code == 0, complaint
    assert set(states(root).values()) == {"done"}


def complaint_of(folder, *more, **environment):
    """The line in which a sweep is refused; nothing of it may have been begun."""
    code, out, complaint = biscuits(folder, *TWELVE, *more, **VARIABLES | environment)
    assert code == 1, complaint + out
    assert not list(folder.rglob("status.json"))
    assert len(complaint.strip().splitlines()) == 1, complaint
    return complaint


def test_what_cannot_be_is_refused_before_a_run_begins(tmp_path, cluster):
    where = by_ray(cluster)
    large = complaint_of(tmp_path, *where, "hydra.launcher.cpus_per_job=64")
    assert "No machine of the Ray cluster has what a job needs: CPU 64." in large
    other = complaint_of(tmp_path, *where, "+hydra.launcher.resources.tpu=1")
    assert "tpu 1" in other
    token = complaint_of(tmp_path, *where, RAY_AUTH_TOKEN=64 * "0")
    assert "that cluster wants its token" in token
    nobody = complaint_of(tmp_path, "hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:1")
    assert "no Ray cluster there ([Errno 111] Connection refused)" in nobody
    client = complaint_of(tmp_path, "hydra/launcher=ray", "hydra.launcher.address=ray://here:1")
    assert "Ray's clients are not supported" in client


def test_a_node_that_has_just_died_is_not_waited_for(tmp_path, cluster, locally):
    cluster.add("gone")
    cluster.kill("gone")  # Ray shows it as alive for half a minute
    code, out, complaint = biscuits(tmp_path, *TWELVE, *by_ray(cluster), **VARIABLES)
    assert code == 0, complaint + out
    assert report(tmp_path / "outputs" / "mine") == report(locally)


def test_another_release_of_ray_is_refused(monkeypatch):
    from runner.sweep import ray_cluster

    monkeypatch.setattr(ray_cluster.metadata, "version", lambda _: "1.13.0")
    with pytest.raises(UserError, match=r"works with Ray 2\.40 and later, .*this is 1\.13\.0"):
        ray_cluster.check_version()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root")
def test_a_folder_that_a_node_does_not_share_is_told_before_a_run_begins(tmp_path, cluster):
    cluster.add("apart", before=f"mount -t tmpfs none {tmp_path}")
    try:
        assert "does not see what was written to" in complaint_of(tmp_path, *by_ray(cluster))
    finally:
        cluster.kill("apart")


@pytest.mark.skipif(bool(late_missing()), reason=late_missing())
def test_a_disk_that_shows_files_late_and_whose_locks_hold_on_one_machine_alone(
    tmp_path, cluster, locally
):
    below, place = tmp_path / "below", tmp_path / "place"
    below.mkdir()
    with late_disk(below, tmp_path / "there", 5.0) as there, late_disk(below, place, 5.0):
        cluster.add("late", before=f"mount --bind {there} {place}", more='{"late": 1}')
        try:
            more = by_ray(cluster, "+hydra.launcher.resources.late=1")
            code, out, complaint = biscuits(place, *TWELVE, *more, **VARIABLES)
        finally:
            cluster.kill("late")
        assert code == 0, complaint + out
        assert report(below / "outputs" / "mine") == report(locally)
