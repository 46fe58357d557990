"""The local launcher: runs side by side on this machine, in warm worker processes.

A slot is a share of the cores (and on CUDA a card) with one worker process of its own, in which
torch is imported once. A run that raises, calls sys.exit, is killed or hangs ends alone: what
became of it is recorded in its status.json, and the slot gets a new worker.
"""

import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import wait as wait_for_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cloudpickle  # Hydra's state holds functions within functions
import torch
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from pebble import ProcessPool

from runner.errors import UserError
from runner.run.status import conclude
from runner.signals import Stopped, stoppable


@dataclass(frozen=True)
class Slot:
    """What one run at a time may use."""

    cores: tuple[int, ...]
    card: str | None = None
    """Its CUDA device, as CUDA_VISIBLE_DEVICES names it; None on a CPU."""


def slots(workers: int | str, per_card: int, runs: int, cards: Sequence[str]) -> list[Slot]:
    """Divide the machine among the runs.

    Args:
        workers: Runs at once, or `auto`: as many as there are cores, or on CUDA cards times
            `per_card`; never more than there are runs.
        per_card: Runs at once on a card.
        runs: How many there are to do.
        cards: The CUDA devices to use; none for the CPU.

    Raises:
        UserError: If a number is not one.
    """
    for key, value in (("workers", workers), ("per_card", per_card)):
        free = key == "workers" and value == "auto"
        if not free and (not isinstance(value, int) or value < 1):
            raise UserError(f"hydra.launcher.{key} must be a whole number >= 1, got {value}.")
    cores = available_cores()
    count = (len(cards) * per_card or len(cores)) if workers == "auto" else int(workers)
    count = max(1, min(count, runs))
    share = max(1, len(cores) // count)
    return [
        Slot(
            tuple(cores[(i * share + n) % len(cores)] for n in range(share)),
            cards[i % len(cards)] if cards else None,
        )
        for i in range(count)
    ]


def available_cores() -> list[int]:
    """Give back the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class LocalLauncher(Launcher):
    """Hydra's launcher of that name; see `LOCAL` in runner/cli/plugins.py for its settings."""

    def __init__(
        self,
        workers: int | str,
        per_card: int,
        timeout: float | None,
        prepare: Callable[[], None],
    ) -> None:
        if timeout is not None and (not isinstance(timeout, int | float) or timeout <= 0):
            raise UserError(f"hydra.launcher.timeout must be null or > 0 (seconds), got {timeout}.")
        self.workers, self.per_card, self.timeout = workers, per_card, timeout
        self.prepare = prepare
        self.show: Callable[[str], None] = lambda text: print(text, end="", flush=True)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands to a launcher before it is used."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Do the jobs, in order as slots become free; give back what became of each.

        Ctrl-C, or a scheduler's signal, stops every run after its update, to go on from there;
        a second Ctrl-C ends them where they stand.
        """
        with stoppable():
            return self._launch(job_overrides, initial_job_idx)

    def _launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        jobs = [
            self._compose(list(overrides), initial_job_idx + number)
            for number, overrides in enumerate(job_overrides)
        ]
        cards = visible_cards(str(self.config.get("device", "auto")))
        workers = [_Worker(slot) for slot in slots(self.workers, self.per_card, len(jobs), cards)]
        waiting = deque(range(len(jobs)))
        running: dict[Future[Any], tuple[int, _Worker, float]] = {}
        ends: dict[int, JobReturn] = {}
        over = False

        def begin(worker: _Worker) -> None:
            if waiting:
                number = waiting.popleft()
                job = self.context, jobs[number], self.task, Singleton.get_state()
                future = worker.begin(self.prepare, cloudpickle.dumps(job), self.timeout)
                running[future] = number, worker, time.time()

        try:
            # a worker that is killed leaves semaphores, which Python then complains of at its end
            sys.warnoptions.append("ignore:resource_tracker")
            for worker in workers:
                begin(worker)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number, worker, since = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool) and not worker.retried:
                        worker.stop()  # it died while it had nothing to do; the run never began
                        worker.retried = True
                        waiting.appendleft(number)
                    else:
                        ends[number] = self._end(jobs[number], future, worker, since)
                    begin(worker)
            over = True
        finally:
            try:
                if not over:
                    _ask_to_stop(multiprocessing.active_children())
            finally:
                for worker in workers:
                    worker.stop(at_once=not over)
                for number, _, since in running.values():  # after Ctrl-C, or an error of our own
                    _conclude(jobs[number], "stopped", None, since)
        return [ends[number] for number in range(len(jobs))]

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _end(
        self, job: DictConfig, future: "Future[Any]", worker: "_Worker", since: float
    ) -> JobReturn:
        """Tell what became of a run, and record it where the run itself could not."""
        end = JobReturn(overrides=list(job.hydra.overrides.task), status=JobStatus.FAILED)
        printed, ours = "", ["running"]
        try:
            succeeded, value, printed = future.result()
            if printed:
                self.show(printed)
            if succeeded:
                end.status, end.return_value = JobStatus.COMPLETED, value
                return end
        except TimeoutError:
            value = UserError(
                f"It took longer than hydra.launcher.timeout={self.timeout} seconds, and was "
                "ended. Raise that, and give the same command to go on with it."
            )
            worker.stop()
            ours.append("stopped")  # the worker was told to stop, not why
        except Exception as error:  # the worker is gone, or could not even begin
            value = UserError(_obituary(error))
            worker.stop()
        folder = _conclude(job, "failed", str(value), since, ours)
        if not isinstance(value, UserError) or not printed:
            self.show(f"{folder}  failed: {str(value).strip().splitlines()[-1]}\n")
        end.return_value = value
        return end


class _Worker:
    """The process of a slot; a new one is started when it is needed."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.pool: Any = None
        self.retried = False

    def begin(
        self, prepare: Callable[[], None], payload: bytes, timeout: float | None
    ) -> "Future[Any]":

        if self.pool is not None and not self.pool.active:
            self.stop()  # its process died while it had nothing to do
        if self.pool is None:
            self.pool = ProcessPool(1, context=multiprocessing.get_context("spawn"))
            self.pool.schedule(_warm_up, (self.slot,))  # not on the first run's time
        future: Future[Any] = self.pool.schedule(
            _work, (prepare, payload, self.slot), timeout=timeout
        )
        return future

    def stop(self, at_once: bool = True) -> None:
        """End the process, whatever it does, or when it has nothing more to do."""
        if self.pool is not None:
            (self.pool.stop if at_once else self.pool.close)()
            self.pool.join()
            self.pool = None


TOLD_TO_STOP = "It was told to stop. Give the same command to go on with it."
GRACE = 20.0  # seconds; schedulers kill after 30


def _ask_to_stop(processes: Sequence[BaseProcess]) -> None:
    """Have the runs save a checkpoint each, all at the same time; those that do not are killed."""
    try:
        for process in processes:
            process.terminate()
        if any(process.is_alive() for process in processes):
            with suppress(OSError):
                os.write(2, b"\nStopping when each run's update is done and saved.")
                os.write(2, b" Ctrl-C again stops at once; the same command goes on.\n")
        deadline = time.monotonic() + GRACE
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()


def _warm_up(slot: Slot) -> None:
    """Make a new worker ready; to get here it has imported torch and all."""
    _settle(slot)


@lru_cache
def _settle(slot: Slot) -> None:
    """Tell a process what it may use and whom it dies with, once."""
    if slot.card is not None:  # before CUDA starts
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.card
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, slot.cores)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _work(prepare: Callable[[], None], payload: bytes, slot: Slot) -> tuple[bool, Any, str]:
    """Do one job, in the worker: whether it succeeded, its value or its error, what it printed."""
    _settle(slot)  # Pebble may have put a new process in the place of one that died warming up
    prepare()
    context, config, task, state = pickle.loads(payload)  # from our own parent, through a pipe
    setup_globals()
    Singleton.set_state(state)
    prepare()  # the state brought its own list of plugins
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            end = run_job(
                task_function=task,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                hydra_context=context,
            )
    except Stopped:
        return False, UserError(TOLD_TO_STOP), printed.getvalue()
    except BaseException as error:  # sys.exit and the like, which Hydra lets through
        return False, RuntimeError(_told(error)), printed.getvalue()
    value = end._return_value
    if end.status is JobStatus.FAILED:
        value = value if isinstance(value, UserError) else RuntimeError(_told(value))
    return end.status is JobStatus.COMPLETED, value, printed.getvalue()


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).strip()


def _die_with_parent() -> None:
    """A sweep that is killed leaves no run behind that would hold its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_process([parent.sentinel])
        os._exit(1)


def _obituary(error: Exception) -> str:
    """Write why a worker process ended, from Pebble's error."""
    code = getattr(error, "exitcode", None)
    if code == signal.SIGTERM:  # how Pebble's workers end when they are told to
        return TOLD_TO_STOP
    if isinstance(code, int) and code < 0:
        name = signal.Signals(-code).name
        more = " Was there enough memory?" if name == "SIGKILL" else ""
        return f"Its process was ended by {name}.{more} Give the same command to go on with it."
    if isinstance(code, int):
        return f"Its process ended with code {code}, and without a word."
    return _told(error)


def _conclude(
    job: DictConfig,
    status: str,
    error: str | None,
    since: float,
    ours: Sequence[str] = ("running",),
) -> Path:
    """Record a run's end where it could not do so itself; give back its folder."""
    sweep, subdir = (str(OmegaConf.select(job, f"hydra.sweep.{k}")) for k in ("dir", "subdir"))
    conclude(Path(sweep) / subdir, status, error, since, ours)
    return Path(sweep) / subdir


def visible_cards(device: str) -> list[str]:
    """Name the CUDA devices that the runs are to be spread over: all, for `auto` and `cuda`."""
    if device not in ("auto", "cuda"):
        return []
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    chosen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (chosen or [str(number) for number in range(count)])[:count]
