"""The local launcher: runs side by side on this machine, in warm worker processes.

A slot is a share of the cores (and on CUDA a card) with one worker process of its own, forked from
a server that imports torch once for all. A run that raises, calls sys.exit, is killed or hangs ends
alone: what became of it is recorded in its status.json, and the slot gets a new worker.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle  # Hydra's state holds functions within functions
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from runner.errors import UserError
from runner.run.status import conclude
from runner.signals import announce_stop, stoppable
from runner.store.runs import read_status
from runner.sweep import server
from runner.sweep.slots import slots, visible_cards
from runner.sweep.waiting import Queue
from runner.sweep.worker import Worker, cause_of_death
from runner.texts import same_command, say

GRACE = 20.0  # seconds to save in when all are stopped; schedulers kill after 30


class Job(NamedTuple):
    """A run that is being done."""

    number: int
    worker: Worker
    before: dict[str, Any]
    """Its status before this attempt."""


class LocalLauncher(Launcher):
    """Hydra's launcher of that name; see `LOCAL` in runner/cli/plugins.py for its settings."""

    def __init__(
        self, workers: int | str, per_card: int, timeout: float | None, prepare: Callable[[], None]
    ) -> None:
        if timeout is not None and (not isinstance(timeout, int | float) or timeout <= 0):
            raise UserError(f"hydra.launcher.timeout must be null or > 0 (seconds), got {timeout}.")
        self.workers, self.per_card, self.timeout = workers, per_card, timeout
        self.prepare = prepare
        self.show: Callable[[str], None] = self._say

    def _say(self, text: str) -> None:
        """Print what a run printed, and how many have ended."""
        say(f"[{self.ended}/{len(self.configs)}] {text.rstrip()}")

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands to a launcher before it is used."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Do the jobs, in order as slots become free; give back what became of each.

        Ctrl-C, or a scheduler's signal, stops every run after its update, with a checkpoint; a
        second Ctrl-C ends them at once.
        """
        with stoppable():
            numbered = enumerate(job_overrides, initial_job_idx)
            self.configs = [self._compose(list(overrides), n) for n, overrides in numbered]
            self.ended = 0
            return self._launch()

    def _launch(self) -> Sequence[JobReturn]:
        cards = visible_cards(str(self.config.get("device", "auto")))
        shares = slots(self.workers, self.per_card, len(self.configs), cards)
        workers = [Worker(slot, self.prepare) for slot in shares]
        waiting = Queue([str(config.get("variant")) for config in self.configs], len(workers))
        running: dict[Future[Any], Job] = {}
        ends: dict[int, JobReturn] = {}
        over = False

        def begin(worker: Worker) -> None:
            if (number := waiting.take()) is not None:
                content = self.context, self.configs[number], self.task, Singleton.get_state()
                job = Job(number, worker, read_status(self._folder(number)))
                running[worker.begin(cloudpickle.dumps(content), self.timeout)] = job

        try:
            server.start()
            for worker in workers:
                begin(worker)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
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
                for worker in workers:
                    worker.stop(at_once=not over)
                for job in running.values():  # after Ctrl-C, or an error of our own
                    conclude(self._folder(job.number), "stopped", before=job.before)
        return [ends[number] for number in range(len(self.configs))]

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        return config

    def _folder(self, number: int) -> Path:
        sweep = self.configs[number].hydra.sweep
        return Path(str(sweep.dir), str(sweep.subdir))

    def _end(self, job: Job, future: "Future[Any]") -> JobReturn:
        """Give back what became of a run, and record it where the run itself could not."""
        self.ended += 1
        config = self.configs[job.number]
        overrides = list(config.hydra.overrides.task)
        end = JobReturn(overrides=overrides, cfg=config, status=JobStatus.FAILED)
        printed, replaces = "", ["running"]
        again = bool(config.get("again"))
        try:
            cause, value, printed = future.result()
            if printed:
                self.show(printed)
            if cause is None:
                end.status, end.return_value = JobStatus.COMPLETED, value
                return end
        except TimeoutError:
            cause = "timeout"
            value = UserError(
                f"It took longer than hydra.launcher.timeout={self.timeout} seconds, and was "
                f"ended. Raise the limit, and give {same_command(again)} to go on."
            )
            job.worker.stop()
            replaces.append("stopped")  # the worker was told to stop, not why
        except Exception as error:  # the worker is gone, or could not even begin
            text, cause = cause_of_death(error, again)
            value = UserError(text)
            job.worker.stop()
        folder = self._folder(job.number)
        conclude(folder, "failed", str(value), job.before, replaces, cause)
        if not isinstance(value, UserError) or not printed:
            self.show(f"{folder}  failed: {str(value).strip().splitlines()[-1]}\n")
        end.return_value = value
        return end


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Have the runs save a checkpoint each, all at the same time; kill those that do not."""
    try:
        for process in processes:
            process.terminate()
        if any(process.is_alive() for process in processes):
            announce_stop(ctrl_c=True)
        deadline = time.monotonic() + GRACE
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
