"""Doing composed runs side by side on this machine, in warm worker processes.

A slot is a share of the cores (and on CUDA a card) with one worker process of its own, forked from
a server that imports torch once for all. A run that raises, calls sys.exit, is killed or hangs ends
alone: what became of it is recorded in its status.json, and the slot gets a new worker.
"""

import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import cloudpickle  # callbacks may be defined in a script
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction

from runner.errors import UserError
from runner.run.status import conclude
from runner.signals import announce_stop
from runner.store.runs import read_status
from runner.sweep import server
from runner.sweep.composed import Composed
from runner.sweep.hydra_state import HydraState
from runner.sweep.slots import refuse_counts, slots, visible_cards
from runner.sweep.waiting import Queue
from runner.sweep.worker import Worker, cause_of_death
from runner.texts import same_command

GRACE = 20.0  # seconds to save in when all are stopped; schedulers kill after 30


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the runs of a machine may take; `LOCAL` in runner/cli/plugins.py documents the keys."""

    workers: int | str
    per_card: int
    timeout: float | None
    cores: int | None = None
    """Those that a scheduler gave; None for all of this machine."""

    def __post_init__(self) -> None:
        refuse_counts(self.workers, self.per_card)
        timeout = self.timeout
        if timeout is not None and (not isinstance(timeout, int | float) or timeout <= 0):
            raise UserError(f"hydra.launcher.timeout must be null or > 0 (seconds), got {timeout}.")


class Job(NamedTuple):
    """A run that is being done."""

    number: int
    worker: Worker
    before: dict[str, Any]
    """Its status before this attempt."""


class SideBySide:
    """Does runs that are composed.

    Args:
        runs: The composed runs.
        task: What does one of them.
        context: Hydra's; its callbacks alone are used.
        limits: What they may take.
        prepare: Makes our plugins known in a worker process, before its first run.
        show: Called with the lines of each run that has ended, and the number of those.
    """

    def __init__(
        self,
        runs: Sequence[Composed],
        task: TaskFunction,
        context: HydraContext,
        limits: Limits,
        prepare: Callable[[], None],
        show: Callable[[str, int], None],
    ) -> None:
        self.runs, self.task, self.limits, self.show = runs, task, limits, show
        # the loader would be pickled with every run
        self.context = dataclasses.replace(context, config_loader=None)  # type: ignore[arg-type]
        self.prepare = prepare
        self.ended = 0

    def do(self) -> list[JobReturn]:
        """Do the runs, in order as slots become free; give back what became of each.

        If it is interrupted, as by Ctrl-C, every run stops after its update, with a checkpoint.
        """
        cards = visible_cards(self.runs[0].device)
        workers, per_card = self.limits.workers, self.limits.per_card
        shares = slots(workers, per_card, len(self.runs), cards, self.limits.cores)
        state = HydraState.of(self.prepare)
        crew = [Worker(slot, state) for slot in shares]
        waiting = Queue([run.variant for run in self.runs], len(crew))
        running: dict[Future[Any], Job] = {}
        ends: dict[int, JobReturn] = {}
        over = False

        def begin(worker: Worker) -> None:
            if (number := waiting.take()) is not None:
                run = self.runs[number]
                content = self.context, run, self.task
                job = Job(number, worker, read_status(run.folder))
                running[worker.begin(cloudpickle.dumps(content), self.limits.timeout)] = job

        try:
            server.start()
            for worker in crew:
                begin(worker)
            while running:
                # Ray interrupts without a signal: it is heard between two waits
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    worker = job.worker
                    if isinstance(future.exception(), BrokenProcessPool) and not worker.retried:
                        worker.stop()  # it died while it had nothing to do; the run never began
                        worker.retried = True
                        waiting.put_back(job.number)
                    else:
                        waiting.learn(job.number)
                        ends[job.number] = self._end(job, future)
                    begin(worker)
            over = True
        finally:
            try:
                if not over:
                    _stop(multiprocessing.active_children())
            finally:
                for worker in crew:
                    worker.stop(at_once=not over)
                for job in running.values():  # after Ctrl-C, or an error of our own
                    conclude(self.runs[job.number].folder, "stopped", before=job.before)
        return [ends[number] for number in range(len(self.runs))]

    def _end(self, job: Job, future: "Future[Any]") -> JobReturn:
        """Give back what became of a run, and record it where the run itself could not."""
        self.ended += 1
        run = self.runs[job.number]
        end = JobReturn(overrides=run.overrides, status=JobStatus.FAILED)
        printed, replaces = "", ["running"]
        try:
            cause, value, printed = future.result()
            if printed:
                self.show(printed, self.ended)
            if cause is None:
                end.status, end.return_value = JobStatus.COMPLETED, value
                return end
        except TimeoutError:
            cause = "timeout"
            value = UserError(
                f"It took longer than hydra.launcher.timeout={self.limits.timeout} seconds, and "
                f"was ended. Raise the limit, and give {same_command(run.again)} to go on."
            )
            job.worker.stop()
            replaces.append("stopped")  # the worker was told to stop, not why
        except Exception as error:  # the worker is gone, or could not even begin
            text, cause = cause_of_death(error, run.again)
            value = UserError(text)
            job.worker.stop()
        conclude(run.folder, "failed", str(value), job.before, replaces, cause)
        if not isinstance(value, UserError) or not printed:
            last = str(value).strip().splitlines()[-1]
            self.show(f"{run.folder}  failed: {last}\n", self.ended)
        end.return_value = value
        return end


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Have the runs save a checkpoint each, all at the same time; kill those that do not."""
    try:
        deadline, announced = time.monotonic() + GRACE, False
        while time.monotonic() < deadline:
            for process in processes:  # again and again: one that just saves ignores it
                process.terminate()
            left = [process.sentinel for process in processes if process.is_alive()]
            if left and not announced:
                announce_stop(ctrl_c=True)
                announced = True
            if not left:
                break
            connection.wait(left, timeout=1.0)
    finally:
        for process in processes:
            process.kill()
