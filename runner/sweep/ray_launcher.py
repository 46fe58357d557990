"""The launcher `ray`: shares of the runs as tasks of Ray, on this machine or on a cluster.

A task whose worker or machine dies is sent again, and does what is left of its share. Ray could do
that itself, but would not stop where the runs are what takes the memory.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from runner.errors import UserError
from runner.run.fingerprint import VARIABLES
from runner.sweep.cluster import ClusterLauncher, Job
from runner.sweep.numbers import require_positive, require_whole
from runner.sweep.ray_cluster import check_machines, check_version, connect, machines
from runner.sweep.share import Share
from runner.sweep.side_by_side import Limits
from runner.sweep.where import in_a_job
from runner.texts import in_one_line, say

LOST = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
)
"""What ends a task through no fault of its own."""

NOWHERE = 300.0  # seconds for which no machine of the cluster may be large enough
PACE = 10.0  # seconds between two looks at the machines
ROUNDS = 4  # shares for each job that there may be at a time: a long one at the end delays less


@dataclass
class Sent:
    """A share that was sent."""

    share: Share
    task: Any
    tries: int = 1
    over: bool = False
    is_stopping: bool = False
    complaint: str | None = None
    why: str = ""


class RayLauncher(ClusterLauncher):
    """See `RAY` in runner/cli/plugins.py for its settings."""

    def __init__(
        self,
        address: str | None,
        cpus_per_job: int,
        gpus_per_job: int,
        resources: Mapping[str, Any],
        max_retries: int,
        runs_per_job: int | str,
        workers: int | str,
        per_card: int,
        timeout: float | None,
        prepare: Callable[[], None],
    ) -> None:
        super().__init__(runs_per_job, Limits(workers, per_card, timeout, cpus_per_job), prepare)
        self.address, self.max_retries = address, max_retries
        self.cores, self.cards = cpus_per_job, gpus_per_job
        self.resources: dict[str, Any] = {**resources} if resources else {}
        self.jobs: dict[str, Sent] = {}
        self.looked, self.seen = 0.0, 0.0  # at the machines; one that is large enough

    def check(self) -> None:
        """Refuse another Ray, no cluster, and jobs for which no machine is large enough."""
        super().check()
        require_whole("cpus_per_job", self.cores, 1)
        require_whole("gpus_per_job", self.cards, 0)
        require_whole("max_retries", self.max_retries, 0)
        for key, value in self.resources.items():
            require_positive(f"resources.{key}", value)
        check_version()
        connect(self.address)
        if not self._places():
            most = {
                key: int(max((node["Resources"].get(key, 0) for node in machines()), default=0))
                for key in self._needs()
            }
            needs = ", ".join(f"{key} {value}" for key, value in self._needs().items())
            there = ", ".join(f"{key} {value}" for key, value in most.items())
            raise UserError(
                f"No machine of the Ray cluster has what a job needs: {needs}. The most that one "
                f"has: {there}."
            )

    def usual_share(self, runs: int) -> int:
        """So many that each place of the cluster gets a few; at least what a job does at a time."""
        settings = {
            "cpus_per_job": self.cores,
            "gpus_per_job": self.cards,
            "workers": self.limits.workers,
            "per_card": self.limits.per_card,
        }
        least = in_a_job(settings, str(self.config.get("device")))
        return min(runs, max(least, math.ceil(runs / (ROUNDS * max(1, self._places())))))

    def send(self, shares: Sequence[Share]) -> list[str]:
        """Send the shares, when every machine has seen the folder of the command."""
        settled = self.task, self.context, Path(shares[0].mark), self.limits, self.prepare
        check_machines(Share.make([], *settled))
        self.seen = time.monotonic()
        names = [f"share-{number}" for number in range(1, len(shares) + 1)]
        for name, share in zip(names, shares, strict=True):
            self.jobs[name] = Sent(share, self._begin(share))
        return names

    def look(self, jobs: Collection[str]) -> Mapping[str, Job]:
        """Look which tasks are done; those that were lost are sent again."""
        going = {self.jobs[job].task: job for job in jobs if not self.jobs[job].over}
        for task in ray.wait(list(going), num_returns=len(going), timeout=0)[0] if going else ():
            self._end(going[task])
        left = [job for job in jobs if not self.jobs[job].over]
        note = ""
        if left and time.monotonic() - self.looked > PACE:
            self.looked = time.monotonic()
            if self._places():
                self.seen = self.looked
        if (missing := time.monotonic() - self.seen) > PACE:
            note = "no machine of the Ray cluster is large enough now"
        if missing > NOWHERE:
            for job in left:
                self.jobs[job].why = f"For {NOWHERE / 60:.0f} minutes {note.replace(' now', '')}."
            return {}
        return {job: Job(note=note) for job in left}

    def complaint(self, job: str) -> str | None:
        """What the task gave back."""
        return self.jobs[job].complaint

    def why(self, job: str) -> str:
        """Say how the task was lost."""
        return self.jobs[job].why or "The task of Ray ended before the run did."

    def stop(self, jobs: Collection[str]) -> None:
        """Cancel the tasks: Ray interrupts those that run, as Ctrl-C would."""
        for job in jobs:
            self.jobs[job].is_stopping = True
            ray.cancel(self.jobs[job].task, force=False)

    def cancel(self, jobs: Collection[str]) -> None:
        """Kill the workers of the tasks; the runs end with them."""
        for sent in map(self.jobs.__getitem__, jobs):
            sent.is_stopping = True
            if not sent.over:
                with suppress(ray.exceptions.RayError):
                    ray.cancel(sent.task, force=True)

    def _begin(self, share: Share) -> Any:  # noqa: ANN401
        """Send a share to where there is room for it."""
        settings = {"num_cpus": self.cores, "num_gpus": self.cards, "resources": self.resources}
        carried = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("BISCUITS_") or VARIABLES.match(name)
        }
        if not self.cards:
            carried["CUDA_VISIBLE_DEVICES"] = ""
        return ray.remote(max_retries=0, **settings)(_do).remote(share, carried)

    def _end(self, job: str) -> None:
        """Take what became of a task; send it again, if it was lost."""
        sent = self.jobs[job]
        sent.over = True
        try:
            sent.complaint = ray.get(sent.task)
        except ray.exceptions.TaskCancelledError:
            pass
        except LOST as error:
            what = type(error).__name__
            sent.why = f"Its task was lost {sent.tries} times in Ray, at last to a {what}."
            if not sent.is_stopping and sent.tries <= self.max_retries:
                say(f"{job} of Ray was lost ({what}), and is sent again")
                sent.tries, sent.over = sent.tries + 1, False
                sent.task = self._begin(sent.share)
        except ray.exceptions.RayError as error:  # our own, or of what is missing there
            if not sent.is_stopping:
                sent.complaint = f"A task of Ray failed: {in_one_line(error)}"

    def _needs(self) -> dict[str, float]:
        """What a job takes of its machine, by Ray's names."""
        cards = {"GPU": self.cards} if self.cards else {}
        return {"CPU": self.cores, **cards, **self.resources}

    def _places(self) -> int:
        """Count the jobs that the machines of the cluster could do at a time."""
        return sum(
            min(int(node["Resources"].get(key, 0) // value) for key, value in self._needs().items())
            for node in machines()
        )


def _do(share: Share, variables: Mapping[str, str]) -> str | None:
    """Do a share, in a worker process of Ray."""
    # Ray adds the folder of the command's module, whose names are not meant to be imported alone
    own = str(Path(__file__).parent.parent)
    sys.path[:] = [place for place in sys.path if place != own]
    os.environ.update(variables)
    return share()
