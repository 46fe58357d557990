"""The launcher `submitit_slurm`: shares of the runs as jobs of Slurm.

Submitit writes the job script, and queues a job again at the signal that Slurm sends before it ends
one. Which jobs there are is asked of `squeue`, which answers also where Slurm keeps no accounts;
submitit would ask `sacct`, and complain there every few seconds.
"""

import math
import re
import shutil
import signal
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from getpass import getuser
from typing import Any

import submitit

from runner.errors import UserError, did_you_mean
from runner.signals import Stopped
from runner.sweep.cluster import Job, NoAnswer
from runner.sweep.submitit_jobs import SubmititLauncher, Task
from runner.sweep.where import cores_of_a_job, in_a_job

PREEMPTED = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
"""At this signal submitit queues its job again."""

STOP = signal.SIGUSR1 if PREEMPTED != signal.SIGUSR1 else signal.SIGUSR2
"""At this one the job ends for good."""

USUAL = ("None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Cleaning")
"""Why a job waits, where it is not worth a line."""

HOPELESS = (
    *("BadConstraints", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit"),
    *("DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS", "JobHeldAdmin"),
    "launch_failed_requeued_held",
)
"""Why a job waits that will not begin, as long as nobody changes it."""

MOST = 500
"""How many jobs `scancel` is given at a time."""

OLDEST = 20, 2
"""The first version of Slurm whose commands know all that is asked of them."""


@dataclass(frozen=True)
class SlurmTask(Task):
    """What submitit calls in a job of Slurm."""

    def __call__(self) -> str | None:
        """Do the share; at SIGTERM queue the job again, where Slurm has not ended it.

        That is so where another job is to have the node: Slurm tells by SIGTERM, and kills later.
        """
        try:
            return super().__call__()
        except Stopped as stopped:
            if stopped.number == signal.SIGTERM and _is_running(submitit.JobEnvironment().job_id):
                signal.raise_signal(PREEMPTED)
            raise


class SlurmLauncher(SubmititLauncher):
    """See `SLURM` in runner/cli/plugins.py for its settings."""

    cluster = "slurm"
    task_of = SlurmTask
    lasting = True

    def check(self) -> None:
        """Refuse what Slurm would refuse, or leave in the queue for ever."""
        super().check()
        delay, minutes = self.more["signal_delay_s"], self.more["timeout_min"]
        if delay >= 60 * minutes:
            raise UserError(
                f"hydra.launcher.signal_delay_s must be less than timeout_min={minutes}, so that a "
                f"job has time to do something, got {delay} seconds."
            )
        _check_commands()
        try:
            _check_version()
            _check_partition(self.more["partition"], minutes, cores_of_a_job(self.more))
        except NoAnswer as error:
            raise UserError(f"Slurm does not answer here: {error}.") from None

    def usual_share(self, runs: int) -> int:
        """So many that all jobs may be there at once; as many as a job does at a time, at least."""
        jobs = min(int(self.more["array_parallelism"]), self.longest_array())
        settings = {**self.more, "workers": self.limits.workers, "per_card": self.limits.per_card}
        least = in_a_job(settings, str(self.config.get("device")))
        return max(math.ceil(runs / jobs), min(runs, least))

    def longest_array(self) -> int:
        """How many jobs an array may have."""
        match = None
        with suppress(NoAnswer):
            match = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
        return max(1, int(match[1])) if match else 1000

    def parameters(self) -> dict[str, Any]:
        """Give back the settings for submitit; a job may be queued again, and has all its cores."""
        given = super().parameters()
        cores = given.get("cpus_per_task")
        more = {"requeue": True, **(given.get("slurm_additional_parameters") or {})}
        # srun of Slurm 22.05 and later does not take it from sbatch
        arguments = [f"--cpus-per-task={cores}"] if cores else []
        return {**given, "slurm_additional_parameters": more, "slurm_srun_args": arguments}

    def look(self, jobs: Collection[str]) -> Mapping[str, Job]:
        """Ask which jobs there are; those that can never begin do not count."""
        found: dict[str, Job] = {}
        for line in _ask("squeue", "-u", getuser(), "-r", "-h", "-o", "%i|%T|%r").splitlines():
            job, state, reason = line.strip().split("|", 2)
            waits = state == "PENDING"
            hopeless = waits and reason.strip("()").replace(" ", "_") in HOPELESS
            if job in jobs and not hopeless:
                note = reason.strip("()") if waits and reason not in USUAL else ""
                found[job] = Job(waits, f"in the queue ({note})" if note else "")
        return found

    def why(self, job: str) -> str:
        """Ask what Slurm still knows of a job."""
        try:
            found = dict(re.findall(r"(\S+?)=(\S+)", _ask("scontrol", "show", "job", "-o", job)))
        except NoAnswer:  # it forgets them after MinJobAge
            found = {}
        state, reason = found.get("JobState", ""), found.get("Reason", "None")
        words = f" as {state}" if state else ""
        if state == "PENDING":
            return f"Job {job} of Slurm cannot begin: {reason}."
        words += f" ({reason})" if reason not in ("None", state) else ""
        words += f" on {found['NodeList']}" if found.get("NodeList", "(null)") != "(null)" else ""
        return f"Job {job} of Slurm ended{words} before the run did.{self.log(job)}"

    def stop(self, jobs: Collection[str]) -> None:
        """Cancel the jobs that wait, and have the others save and end."""
        _scancel(jobs, "--state=PENDING")
        _scancel(jobs, f"--signal={STOP.name.removeprefix('SIG')}")

    def cancel(self, jobs: Collection[str]) -> None:
        """Cancel the jobs."""
        _scancel(jobs)


def _ask(*command: str) -> str:
    """Give back what a command of Slurm prints.

    Raises:
        NoAnswer: If it fails, or takes longer than a minute.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except subprocess.CalledProcessError as error:
        said = " ".join((error.stderr or error.stdout).replace("*", "").split())
        words = re.sub(rf"^{command[0]}: (error: )?", "", said)
        raise NoAnswer(f"{command[0]} says: {words}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswer(f"{command[0]}: {error}") from None
    return done.stdout


def _scancel(jobs: Collection[str], *options: str) -> None:
    """Cancel or signal jobs; of those that have ended it complains, which is of no interest."""
    for at in range(0, len(jobs), MOST):  # without a name it would take all of the user's jobs
        some = list(jobs)[at : at + MOST]
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["scancel", *options, *some], capture_output=True, timeout=60, check=False
            )


def _is_running(job: str) -> bool:
    """Whether Slurm has a job for running; it is not, once it was cancelled or queued again."""
    try:
        return _ask("squeue", "-h", "-r", "-j", job, "-o", "%T").strip() == "RUNNING"
    except NoAnswer:
        return False


def _check_commands() -> None:
    """Refuse to go on without Slurm."""
    if missing := [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]:
        raise UserError(
            f"hydra/launcher=submitit_slurm needs Slurm, but there is no {missing[0]} here. Give "
            "the command on a login node of the cluster, or drop it for hydra/launcher=local."
        )


def _check_version() -> None:
    """Refuse a Slurm that is too old, or down."""
    said = _ask("sbatch", "--version")
    match = re.search(r"(\d+)\.(\d+)", said)
    if match and (int(match[1]), int(match[2])) < OLDEST:
        raise UserError(
            f"Slurm must be {'{}.{:02d}'.format(*OLDEST)} or later, got {said.strip()}."
        )
    _ask("scontrol", "ping")


def _check_partition(name: str | None, minutes: float, cores: int) -> None:
    """Refuse a partition that there is not, that is down, or that gives less than is asked for."""
    lines = _ask("sinfo", "-e", "-h", "-o", "%P|%a|%l|%c").split()
    rows = [line.split("|") for line in lines]
    known = sorted({row[0].strip("*") for row in rows})
    usual = next((row[0].strip("*") for row in rows if row[0].endswith("*")), "")
    for each in (name or usual).split(","):
        found = [row for row in rows if row[0].strip("*") == each]
        if not found:
            what = f"={each} is none of this cluster" if each else " must be given here"
            near = did_you_mean(each, known)
            raise UserError(f"hydra.launcher.partition{what}.{near} There are: {', '.join(known)}.")
        if found[0][1] != "up":
            raise UserError(
                f"hydra.launcher.partition={each} takes no jobs now: it is {found[0][1]}."
            )
        most_cores = max(int(row[3].strip("+")) for row in found)
        limits = {
            "timeout_min": (minutes, _minutes(found[0][2]), "the limit of"),
            "cpus_per_task": (cores, most_cores, "the cores of a node in"),
        }
        for key, (given, most, what) in limits.items():
            if given > most:
                where = f"{what} partition {each}"
                raise UserError(f"hydra.launcher.{key} must be <= {most:g}, {where}, got {given}.")


def _minutes(limit: str) -> float:
    """Read a limit of time as Slurm writes it.

    >>> _minutes("30:00"), _minutes("1-02:00:00"), _minutes("infinite")
    (30.0, 1560.0, inf)
    """
    days, _, rest = limit.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts):
        return float("inf")
    hours, minutes, seconds = ([0, 0, 0] + [int(part) for part in parts])[-3:]
    return 1440 * int(days or 0) + 60 * hours + minutes + seconds / 60
