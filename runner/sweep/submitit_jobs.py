"""Shares of the runs as jobs of submitit, and the launcher `submitit_local`, of this machine."""

import io
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from submitit.core.utils import FailedJobError

from runner.errors import UserError
from runner.sweep import sent
from runner.sweep.cluster import ClusterLauncher, Job
from runner.sweep.numbers import require_positive, require_whole
from runner.sweep.share import Share
from runner.sweep.side_by_side import Limits
from runner.sweep.where import cores_of_a_job
from runner.texts import listed

PLAIN = (
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes"),
    *("name", "stderr_to_stdout"),
)
"""The settings that submitit has for every cluster; it wants the others as `slurm_...`."""


LEAST = {
    **{"timeout_min": 1, "array_parallelism": 1, "signal_delay_s": 0, "max_num_timeout": 0},
    **{"cpus_per_task": 1, "cpus_per_gpu": 1, "gpus_per_node": 0, "gpus_per_task": 0},
}
"""The settings that are whole numbers, and the least of each; of a core or a card also null."""


class RunsFailed(Exception):
    """Runs of a job failed; the others were done."""


@dataclass(frozen=True)
class Task:
    """What submitit calls in a job; it is queued again with what it was begun with."""

    share: Share

    def __call__(self) -> str | None:
        """Do the share.

        Raises:
            RunsFailed: If some of its runs failed, so that the scheduler tells of it too.
        """
        complaint = self.share()
        if failed := self.share.failed():
            raise RunsFailed(f"{len(failed)} of {len(self.share.folders)} runs: {listed(failed)}")
        return complaint

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Give back what submitit is to call when the job begins again."""
        return submitit.helpers.DelayedSubmission(self)


class SubmititLauncher(ClusterLauncher):
    """What both have in common.

    Args:
        runs_per_job: How many runs a job does.
        workers: How many of them at a time.
        per_card: On CUDA: how many at a time on each card.
        timeout: The seconds a run may take.
        submitit_folder: Where submitit keeps its files; None for the cache folder.
        prepare: Called in each process before it does anything.
        more: The settings of submitit.
    """

    cluster = ""
    task_of: type[Task] = Task

    def __init__(
        self,
        runs_per_job: int | str,
        workers: int | str,
        per_card: int,
        timeout: float | None,
        submitit_folder: str | None,
        prepare: Callable[[], None],
        **more: Any,  # noqa: ANN401
    ) -> None:
        self.submitit_folder = submitit_folder
        self.more: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in more.items()
        }
        _refuse_numbers(self.more)
        limits = Limits(workers, per_card, timeout, self.cores())
        super().__init__(runs_per_job, limits, prepare)
        self.jobs: dict[str, submitit.Job[Any]] = {}
        self.own: list[Path] = []

    def cores(self) -> int | None:
        """How many cores a job has; None for all of its machine."""
        return cores_of_a_job(self.more)

    def check(self) -> None:
        """Refuse what no run of a sweep is."""
        super().check()
        for key in ("nodes", "tasks_per_node"):
            if self.more[key] != 1:
                raise UserError(
                    f"hydra.launcher.{key} must be 1, since a run is done in one process, got "
                    f"{self.more[key]}."
                )

    def send(self, shares: Sequence[Share]) -> list[str]:
        """Submit the shares, as one array or several."""
        own = sent.folder() / "submitit" / uuid.uuid4().hex[:8]
        folder = self.submitit_folder or str(own)
        self.own.append(own)
        kept = {"slurm_max_num_timeout": self.more.get("max_num_timeout")}
        executor = submitit.AutoExecutor(
            folder, self.cluster, **(kept if self.cluster == "slurm" else {})
        )
        executor.update_parameters(**self.parameters())
        jobs: list[submitit.Job[Any]] = []
        try:
            most = self.longest_array()
            for at in range(0, len(shares), most):
                part = shares[at : at + most]
                with redirect_stderr(io.StringIO()):  # sbatch's words are in the error too
                    jobs += executor.submit_array([self.task_of(share) for share in part])
        except BaseException as error:
            self.cancel([job.job_id for job in jobs])
            if not isinstance(error, FailedJobError):
                raise
            words = " ".join(str(error).replace("sbatch: error:", "").split())
            raise UserError(f"Slurm refuses the jobs: {words}.") from None
        self.jobs |= {job.job_id: job for job in jobs}
        return [job.job_id for job in jobs]

    def _launch(self) -> Sequence[JobReturn]:
        ends = super()._launch()
        if all(end.status is JobStatus.COMPLETED for end in ends):  # else the logs are of use
            for folder in self.own:
                shutil.rmtree(folder, ignore_errors=True)
        return ends

    def longest_array(self) -> int:
        """How many jobs may be submitted at once."""
        return 10**9

    def parameters(self) -> dict[str, Any]:
        """Give back the settings as submitit wants them."""
        given = {key: value for key, value in self.more.items() if key != "max_num_timeout"}
        return {k if k in PLAIN else f"{self.cluster}_{k}": v for k, v in given.items()}

    def complaint(self, job: str) -> str | None:
        """Read what the job gave back; nothing if it was cut short."""
        if (known := self.jobs.get(job)) and known.paths.result_pickle.exists():
            with suppress(Exception):
                found = known.result()
                return found if isinstance(found, str) else None
        return None

    def log(self, job: str) -> str:
        """Say where the log of a job is, or that there is none."""
        if job not in self.jobs:
            return ""
        log = self.jobs[job].paths.stderr
        if log.exists():
            return f" Its log is {log}."
        return (
            f" It wrote no log to {log.parent}: does its node see that folder? Another one is set "
            "by hydra.launcher.submitit_folder."
        )


class SubmititLocalLauncher(SubmititLauncher):
    """The same jobs as processes of this machine."""

    cluster = "local"

    def cores(self) -> int | None:
        """All of this machine, where nothing is given."""
        return self.more.get("cpus_per_task")

    def usual_share(self, runs: int) -> int:
        """One job for all, since it does as many at a time as this machine can."""
        return runs

    def send(self, shares: Sequence[Share]) -> list[str]:
        """Start the jobs so that Ctrl-C, which reaches all that a terminal began, is left to us."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return super().send(shares)
        finally:
            signal.signal(signal.SIGINT, before)

    def look(self, jobs: Collection[str]) -> Mapping[str, Job]:
        """Look at their processes."""
        return {job: Job() for job in jobs if not self.jobs[job].done()}

    def why(self, job: str) -> str:
        """Say that its process is gone."""
        return f"Process {job} of submitit ended before the run did.{self.log(job)}"

    def stop(self, jobs: Collection[str]) -> None:
        """Tell them; submitit passes it on."""
        self._tell(jobs, signal.SIGTERM)

    def cancel(self, jobs: Collection[str]) -> None:
        """Kill them, and what they started; the workers end with it."""
        for job in self.look(jobs):
            with suppress(OSError):
                children = Path(f"/proc/{job}/task/{job}/children").read_text().split()
                self._tell([job, *children], signal.SIGKILL)

    def _tell(self, processes: Collection[str], number: int) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(int(process), number)


def _refuse_numbers(settings: Mapping[str, Any]) -> None:
    """Refuse settings that are no number, or too small a one.

    Raises:
        UserError: If one is not.
    """
    for key, least in LEAST.items():
        others = [None] if key.startswith(("cpus", "gpus")) else []
        require_whole(key, settings.get(key, least), least, others)
    if settings.get("mem_gb") is not None:
        require_positive("mem_gb", settings["mem_gb"])
