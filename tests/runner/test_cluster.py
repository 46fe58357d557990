"""What the launchers of clusters have in common; a real Slurm and Ray are in tests/cluster/."""

import os
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from runner.cli import plugins
from runner.cli.hydra_internals import Loader
from runner.cli.task import register
from runner.errors import UserError
from runner.sweep import cluster as cluster_module
from runner.sweep import sent
from runner.sweep import slots as slots_module
from runner.sweep.cluster import ClusterLauncher, Job, NoAnswer
from runner.sweep.composed import Composed
from runner.sweep.side_by_side import Limits
from runner.sweep.slots import Slot, slots
from runner.sweep.slurm import SlurmLauncher
from tests.builders import read_status, write_status
from tests.conftest import ROOT


class Engine(ClusterLauncher):
    """A scheduler whose jobs do what a test says."""

    lasting = True

    def __init__(self, runs_per_job=1):
        super().__init__(runs_per_job, Limits(1, 1, None), lambda: None)
        self.config, self.task, self.context = None, None, SimpleNamespace(callbacks=None)
        self.alive, self.sent, self.cancelled, self.stopped = {}, [], [], []
        self.told, self.complaints = [], {}
        self.show = self.told.append
        self.looks = 0

    def _send(self, numbers, mark, record):
        """Send nothing: what a share does is not looked at here."""
        del mark
        jobs = {f"7_{at}": [number] for at, number in enumerate(numbers)}
        folders = [str(run.folder) for run in self.runs]
        sent.keep(record, {j: {folders[n]: self.before[n] for n in ns} for j, ns in jobs.items()})
        self.sent += jobs
        return jobs

    def look(self, jobs):
        self.looks += 1
        return {job: self.alive[job] for job in jobs if job in self.alive}

    def complaint(self, job):
        return self.complaints.get(job)

    def why(self, job):
        return f"Job {job} is gone."

    def stop(self, jobs):
        self.stopped += jobs

    def cancel(self, jobs):
        self.cancelled += jobs


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BISCUITS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cluster_module, "GRACE", 0.0)
    monkeypatch.setattr(cluster_module.time, "sleep", lambda _: None)


def engine(*variants, **more):
    found = Engine()
    found.runs = [
        Composed.of(
            OmegaConf.create(
                {
                    **{"variant": variant, "seed": 0, "again": False, **more},
                    "hydra": {
                        "sweep": {"dir": "outputs/a", "subdir": f"{variant}/seed=0"},
                        "overrides": {"task": [f"variant={variant}"]},
                    },
                }
            )
        )
        for variant in variants
    ]
    return found


def folder(tmp_path, variant):
    return tmp_path / "outputs" / "a" / variant / "seed=0"


def test_the_runs_of_a_job_that_is_gone_have_failed_and_others_are_as_they_say(tmp_path):
    given = engine("a", "b", "c")
    write_status(folder(tmp_path, "b"), "stopped", attempts=1)

    def look(jobs):
        given.looks += 1
        if given.looks == 2:
            write_status(folder(tmp_path, "a"), "diverged", attempts=1, error="not finite")
            write_status(folder(tmp_path, "c"), "running", attempts=1)
        return {job: Job() for job in jobs} if given.looks == 1 else {}

    given.look = look
    ends = given._launch()
    assert [end.status for end in ends] == 3 * [JobStatus.FAILED]
    found = {v: read_status(folder(tmp_path, v)) for v in "abc"}
    assert found["a"]["error"] == "not finite"
    for variant, job in (("b", "7_1"), ("c", "7_2")):
        assert found[variant]["status"] == "failed"
        assert found[variant]["cause"] == "killed"
        assert found[variant]["error"] == f"Job {job} is gone. Give the same command to go on."
    assert given.cancelled == ["7_1", "7_2"]
    assert len(given.told) == 3
    assert not list((tmp_path / "cache" / "jobs").glob("*"))
    assert not list((tmp_path / "outputs").glob(".*"))


def test_what_a_machine_complains_of_ends_the_sweep_and_its_jobs():
    given = engine("a", "b")
    given.complaints = {"7_0": "node1 does not see this folder."}
    with pytest.raises(UserError, match="node1 does not see"):
        given._launch()
    assert given.cancelled == ["7_0", "7_1"]


def test_a_scheduler_that_never_answers_is_asked_for_a_while_alone(monkeypatch):
    given = engine("a")

    def look(_):
        raise NoAnswer("it is down")

    given.look = look
    monkeypatch.setattr(cluster_module, "SILENCE", 0.0)
    with pytest.raises(UserError, match="has not answered for 0 minutes: it is down"):
        given._launch()
    assert not given.cancelled


def test_at_ctrl_c_all_jobs_are_told_to_stop_and_what_still_runs_counts_as_stopped(tmp_path):
    given = engine("a", "b")
    write_status(folder(tmp_path, "b"), "done", attempts=1)

    def look(jobs):
        if given.stopped:
            return {}
        write_status(folder(tmp_path, "a"), "running", attempts=1)
        raise KeyboardInterrupt(jobs)

    given.look = look
    with pytest.raises(KeyboardInterrupt):
        given._launch()
    assert given.stopped == ["7_0", "7_1"]
    assert read_status(folder(tmp_path, "a"))["status"] == "stopped"
    assert read_status(folder(tmp_path, "b"))["status"] == "done"


def test_jobs_of_a_command_that_was_killed_are_waited_for_and_not_sent_again(tmp_path):
    record = sent.new_record()
    runs = {f"outputs/a/{v}/seed=0": {} for v in "ab"}
    sent.keep(record, {"5_0": runs, "5_1": {"outputs/a/other/seed=0": {}}})
    write_status(folder(tmp_path, "a"), "failed", attempts=1, error="in that job")

    def begin(*variants, **more):
        given = engine(*variants, **more)
        given.alive = {"5_0": Job()}
        plain = given.look

        def look(jobs):
            found = plain(jobs)
            if given.looks > 1:
                given.alive.clear()
            return found

        given.look = look
        return given

    with pytest.raises(UserError, match="An earlier command's jobs still do these runs: job 5_0"):
        begin("a", again=True)._launch()
    given = begin("a", "b", "c")
    ends = given._launch()
    assert given.sent == ["7_0"]  # of c alone
    assert str(ends[0]._return_value) == "in that job"
    assert [read_status(folder(tmp_path, v))["cause"] for v in "bc"] == ["killed", "killed"]
    assert not record.exists()


def test_why_jobs_wait_is_said_once(capsys):
    given = engine("a", "b")
    waits = {
        "7_0": Job(True, "in the queue (NodeDown)"),
        "7_1": Job(True, "in the queue (NodeDown)"),
    }
    given.alive = dict(waits)
    plain = given.look

    def look(jobs):
        if given.looks == 3:
            given.alive.clear()
        return plain(jobs)

    given.look = look
    given._launch()
    assert capsys.readouterr().out.count("2 jobs (7_0, 7_1): in the queue (NodeDown)") == 1


@pytest.mark.parametrize("value", [0, "all", 1.5])
def test_a_number_of_runs_that_is_none_is_refused(value):
    with pytest.raises(UserError, match="runs_per_job must be auto or a whole number >= 1"):
        Engine(value).check()


def test_cores_that_a_scheduler_counts_but_does_not_confine_are_not_pinned(monkeypatch):
    monkeypatch.setattr(slots_module, "available_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(slots_module, "usable_cores", lambda: 4)
    assert slots("auto", 1, 9, [], given=2) == 2 * [Slot((0, 1, 2, 3))]
    assert slots("auto", 1, 9, [], given=4) == [Slot((core,)) for core in range(4)]
    assert slots(1, 1, 9, [], given=1) == [Slot((0, 1, 2, 3))]


@pytest.mark.parametrize("name", ["SlurmLauncher", "SubmititLocalLauncher"])
def test_a_package_that_is_missing_is_one_line(name, monkeypatch):
    monkeypatch.setattr(plugins, "find_spec", lambda _: None)
    stand_in = vars(__import__("hydra_plugins.biscuits").biscuits)[name]
    with pytest.raises(
        UserError, match=r"needs submitit, .* pip install 'biscuits-bench\[slurm\]'"
    ):
        stand_in()


def test_the_config_to_copy_is_one_that_slurm_takes():
    node = Loader([ROOT / "examples/cluster/conf"]).compose(["hydra/launcher=gpu"]).hydra.launcher
    settings = {key: value for key, value in node.items() if key != "_target_"}
    launcher = SlurmLauncher(**settings, prepare=register)
    launcher.config = OmegaConf.create({"device": "cuda"})
    launcher.longest_array = lambda: 1001
    assert (launcher.limits.cores, launcher.usual_share(10), launcher.usual_share(100)) == (8, 1, 4)
    given = launcher.parameters()
    assert (given["timeout_min"], given["slurm_partition"]) == (240, "gpu")
    assert given["slurm_srun_args"] == ["--cpus-per-task=8"]
    assert given["slurm_additional_parameters"] == {"requeue": True}


def test_jobs_sent_from_another_folder_are_not_ours(tmp_path, monkeypatch):
    record = sent.new_record()
    sent.keep(record, {"5_0": {"outputs/a/a/seed=0": {}}})
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert sent.living(lambda jobs: jobs) == {}
    assert record.exists()
    monkeypatch.chdir(tmp_path)
    assert list(sent.living(lambda jobs: jobs)) == ["5_0"]
    assert os.path.exists(record)
