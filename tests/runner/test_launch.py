"""The local launcher's share-out of a machine; how its runs end is in tests/test_launchers.py."""

import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import cloudpickle
import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext
from omegaconf import OmegaConf

from runner.cli.hydra_internals import Loader
from runner.cli.task import register
from runner.errors import UserError
from runner.run.status import conclude
from runner.store.lock import lock_folder
from runner.sweep import slots as slots_module
from runner.sweep import where
from runner.sweep.composed import Composed
from runner.sweep.hydra_state import HydraState
from runner.sweep.local_launcher import LocalLauncher
from runner.sweep.slots import Slot, available_cores, slots, visible_cards
from runner.sweep.sweeper import AblationSweeper
from runner.sweep.worker import Worker, cause_of_death
from tests.builders import read_status, write_status
from tests.conftest import ROOT


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(slots_module, "available_cores", lambda: [2, 3, 4, 5, 6, 7, 8, 9])
    for module, name in ((slots_module, "usable"), (where, "usable"), (where, "idle")):
        monkeypatch.setattr(module, f"{name}_cores", lambda: 8)


@pytest.mark.usefixtures("eight_cores")
def test_each_run_gets_cores_of_its_own_and_all_are_used():
    assert slots("auto", 1, runs=100, cards=[]) == [Slot((core,)) for core in range(2, 10)]
    assert slots(2, 1, 100, []) == [Slot((2, 3, 4, 5)), Slot((6, 7, 8, 9))]
    assert slots("auto", 1, 3, []) == [Slot((2, 3)), Slot((4, 5)), Slot((6, 7))]
    assert [slot.cores for slot in slots(16, 1, 100, [])] == 2 * [(core,) for core in range(2, 10)]


@pytest.mark.usefixtures("eight_cores")
def test_on_cuda_there_is_one_run_a_card_or_several_if_asked():
    assert [slot.card for slot in slots("auto", 1, 100, ["0", "3"])] == ["0", "3"]
    assert [slot.card for slot in slots("auto", 2, 100, ["0", "3"])] == ["0", "3", "0", "3"]
    assert [len(slot.cores) for slot in slots("auto", 1, 100, ["0", "3"])] == [4, 4]


LAUNCHERS = {
    "local": ({"_target_": "x.LocalLauncher", "workers": "auto", "per_card": 1}, 1),
    "local, two at once": ({"_target_": "x.LocalLauncher", "workers": 2, "per_card": 1}, 4),
    "basic": ({"_target_": "x.BasicLauncher"}, 8),
    "joblib": ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, 1),
    "joblib, three at once": ({"_target_": "x.JoblibLauncher", "n_jobs": 3}, 2),
    "a cluster": ({"_target_": "x", "runs_per_job": 1, "cpus_per_task": 3, "workers": "auto"}, 1),
    "a cluster, by one": ({"_target_": "x", "runs_per_job": 1, "cpus_per_task": 3}, 3),
    "a cluster, by cards": (
        {
            "_target_": "x",
            "runs_per_job": 1,
            "cpus_per_task": 8,
            "gpus_per_node": 2,
            "workers": "auto",
        },
        4,
    ),
}


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("launcher", "threads"), LAUNCHERS.values(), ids=LAUNCHERS)
def test_where_threads_are_left_open_a_run_has_its_share_of_the_cores(launcher, threads):
    device = "auto" if "gpus_per_node" in launcher else "cpu"
    assert where.cores_of_a_run(OmegaConf.create(launcher), device) == threads


CARDS = {
    "here": ({"_target_": "x.LocalLauncher"}, False),
    "as processes here": ({"_target_": "x.SubmititLocalLauncher", "runs_per_job": 1}, False),
    "none": ({"_target_": "x.SlurmLauncher", "runs_per_job": 1, "gpus_per_node": None}, False),
    "one": ({"_target_": "x.SlurmLauncher", "runs_per_job": 1, "gpus_per_node": 1}, True),
    "gres": ({"_target_": "x.SlurmLauncher", "runs_per_job": 1, "gres": "gpu:a100:1"}, True),
    "Ray": ({"_target_": "x.RayLauncher", "runs_per_job": 1, "gpus_per_job": 0.5}, True),
}


@pytest.mark.parametrize(("launcher", "cards"), CARDS.values(), ids=CARDS)
def test_what_is_left_open_is_chosen_for_cards_where_a_job_asks_for_them(launcher, cards):
    assert where.may_have_cards(launcher) == cards


@pytest.mark.parametrize("value", [0, -1, "two", 1.5])
def test_a_number_of_workers_that_is_none_is_refused(value):
    with pytest.raises(
        UserError, match=r"hydra\.launcher\.workers must be auto or a whole number >= 1"
    ):
        slots(value, 1, 10, [])


def test_on_the_cpu_there_are_no_cards():
    assert visible_cards("cpu") == []
    assert visible_cards("cuda:1") == []  # that one card is the user's choice


def where_it_runs(*_):
    return sorted(os.sched_getaffinity(0)), os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can be chosen on Linux")
def test_a_worker_keeps_to_its_cores_and_its_card(tmp_path):
    core = available_cores()[-1]
    config = Loader().compose(())
    config.hydra.sweep.dir = str(tmp_path)
    context = HydraContext(config_loader=None, callbacks=Callbacks())
    content = context, Composed.of(config), where_it_runs
    payload = cloudpickle.dumps(content)
    worker = Worker(Slot((core,), "1"), HydraState.of(register))
    try:
        cause, value, printed = worker.begin(payload, None).result(timeout=120)
    finally:
        worker.stop()
    assert cause is None, value
    assert value == ([core], "1")
    assert printed == ""
    assert not multiprocessing.active_children()


registered = []


def register_and_count():
    registered.append(os.getpid())
    register()


def what_hydra_knows(*_):
    """Look, and spoil it for the next run."""
    found = len(registered), OmegaConf.has_resolver("hydra"), OmegaConf.has_resolver("spoilt")
    OmegaConf.clear_resolvers()
    OmegaConf.register_new_resolver("spoilt", str)
    GlobalHydra.instance().clear()
    return found


@pytest.mark.slow
def test_each_run_of_a_worker_finds_what_hydra_knows_and_plugins_are_looked_for_once(tmp_path):
    config = Loader().compose(())
    config.hydra.sweep.dir = str(tmp_path)
    context = HydraContext(config_loader=None, callbacks=Callbacks())
    job = cloudpickle.dumps((context, Composed.of(config), what_hydra_knows))
    setup_globals()  # as Hydra's application does
    worker = Worker(Slot(tuple(available_cores())), HydraState.of(register_and_count))
    try:
        results = [worker.begin(job, None).result(timeout=120) for _ in range(3)]
    finally:
        worker.stop()
    assert [(cause, value) for cause, value, _ in results] == [(None, (1, True, False))] * 3


def test_what_the_report_needs_is_imported_while_runs_go_on_also_if_they_fail():
    code = (
        "import sys\n"
        "from runner.sweep import ahead\n"
        "try:\n"
        "    with ahead.importing():\n"
        "        raise ZeroDivisionError\n"
        "except ZeroDivisionError:\n"
        "    print(*[name for name in ahead.NEEDED if name not in sys.modules], 'failed')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["failed"]


def test_the_collector_does_not_look_through_what_workers_are_forked_with():
    code = "import gc, runner.sweep.imported; print(gc.get_freeze_count(), gc.isenabled())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    frozen, enabled = found.stdout.split()
    assert int(frozen) > 100_000  # torch's
    assert enabled == "True"


@pytest.mark.slow
def test_a_worker_that_died_while_it_had_nothing_to_do_is_replaced():
    worker = Worker(Slot(tuple(available_cores())), HydraState.of(register))
    try:
        worker.begin(b"", None).exception(timeout=120)  # no job; but there is a process now
        (process,) = worker.pool._pool_manager.worker_manager.workers.values()
        process.kill()
        process.join()
        for _ in range(2):  # noticed at once, or by the next job
            error = worker.begin(b"", None).exception(timeout=120)
            if not isinstance(error, BrokenProcessPool):
                break
            worker.stop()
        assert isinstance(error, EOFError)  # what an empty job is
    finally:
        worker.stop()


@pytest.mark.parametrize("timeout", ["soon", 0, -1])
def test_a_time_limit_that_is_none_is_refused(timeout):
    with pytest.raises(UserError, match=r"hydra\.launcher\.timeout must be null or > 0"):
        LocalLauncher("auto", 1, timeout, register)


def test_an_older_end_is_overwritten_and_a_damaged_status_is_no_obstacle(tmp_path):
    write_status(tmp_path, "stopped")
    conclude(tmp_path, "failed", "it hung", before=read_status(tmp_path))
    assert read_status(tmp_path)["status"] == "failed"
    (tmp_path / "status.json").write_text("{")
    conclude(tmp_path, "failed", "it was killed")
    assert read_status(tmp_path)["error"] == "it was killed"


def test_the_end_of_a_process_is_named_by_its_signal():
    class Ended(OSError):
        exitcode = -9

    text, cause = cause_of_death(Ended(), again=False)
    assert "killed by SIGKILL (out of memory?)" in text
    assert cause == "killed"
    Ended.exitcode = 3
    assert cause_of_death(Ended(), again=False) == (
        "The worker process ended with code 3 without reporting.",
        "killed",
    )
    text, cause = cause_of_death(BrokenProcessPool("All workers expired"), again=False)
    assert "could not be started" in text
    assert cause == "killed"


def test_an_end_is_recorded_only_where_the_run_recorded_none(tmp_path):
    conclude(tmp_path / "new", "failed", "never began")
    assert read_status(tmp_path / "new")["error"] == "never began"
    pairs = {"running": "stopped", "done": "done", "diverged": "diverged", "failed": "failed"}
    for before, after in pairs.items():
        folder = tmp_path / before
        write_status(folder, before, attempts=3)
        conclude(folder, "stopped", before={"status": "stopped", "attempts": 2})
        content = read_status(folder)
        assert (content["status"], content["attempts"]) == (after, 3)


def test_a_run_that_another_process_has_locked_is_left_as_it_is(tmp_path):
    write_status(tmp_path, "running")
    with lock_folder(tmp_path):
        conclude(tmp_path, "failed", "gone")
    assert read_status(tmp_path)["status"] == "running"


def test_hydra_takes_our_sweeper_for_a_plugin():
    register()
    found = {f"{c.__module__}.{c.__name__}" for c in Plugins.instance().discover(Sweeper)}
    assert "hydra_plugins.biscuits.AblationSweeper" in found


class Raising:
    """A launcher that raises at its second job, which was killed; the third had not begun."""

    def __init__(self, root):
        self.root, self.launched = root, []

    def launch(self, job_overrides, initial_job_idx):  # noqa: ARG002
        names = [variant.partition("=")[2] for variant, _ in job_overrides]
        self.launched.append(names)
        for name, status in zip(names, ("done", "running"), strict=False):
            folder = self.root / name / "seed=0"
            write_status(folder, status, attempts=1)
        if len(names) > 1:
            raise RuntimeError("job 2 is gone")
        return [JobReturn(status=JobStatus.COMPLETED)]


class Planned:
    """As much of a plan as launching needs."""

    def folder(self, root, variant, seed):
        return root / variant / f"seed={seed}"


def swept(launcher, root, *variants):
    sweeper = AblationSweeper()
    sweeper.config = OmegaConf.create({"hydra": {"launcher": {"timeout_min": 0.01}}})
    sweeper._launch(launcher, root, Planned(), [(variant, 0) for variant in variants])
    return {v: read_status(root / v / "seed=0") for v in variants}


def test_a_launcher_that_raises_is_given_the_jobs_that_had_not_begun(tmp_path):
    launcher = Raising(tmp_path)
    found = swept(launcher, tmp_path, "a", "b", "c")
    assert launcher.launched == [["a", "b", "c"], ["c"]]
    assert [found[v]["status"] for v in "abc"] == ["done", "failed", "done"]
    assert found["b"]["error"].startswith("job 2 is gone\nThe worker process died")


def test_a_launcher_that_begins_nothing_is_not_asked_again(tmp_path):
    def launch(*_):
        raise RuntimeError("no cluster here")

    found = swept(SimpleNamespace(launch=launch), tmp_path, "a", "b")
    assert {status["status"] for status in found.values()} == {"failed"}
    assert found["a"]["error"].startswith("no cluster here")
    assert found["a"]["cause"] == "killed"


def test_why_a_job_failed_is_recorded_where_the_run_never_began(tmp_path):
    end = JobReturn(status=JobStatus.FAILED)
    end.return_value = UserError("the data are gone")
    found = swept(SimpleNamespace(launch=lambda *_: [end]), tmp_path, "a")
    assert found["a"]["error"] == "the data are gone"
    assert found["a"]["cause"] == "exception"


def test_the_wait_for_a_run_that_still_holds_its_folder_has_a_limit(tmp_path):
    folder = tmp_path / "a" / "seed=0"

    def launch(*_):
        write_status(folder, "running", attempts=1)
        raise RuntimeError("lost sight of it")

    folder.mkdir(parents=True)
    with lock_folder(folder):
        start = time.monotonic()
        found = swept(SimpleNamespace(launch=launch), tmp_path, "a")
        assert time.monotonic() - start < 10
    assert found["a"]["status"] == "running"
