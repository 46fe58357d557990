"""A worker of the local launcher: a process that keeps to its slot and does one job after another.

It is forked from a server that has imported torch, and ends with the process of the sweep.
"""

import io
import os
import pickle
import signal
import traceback
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from functools import lru_cache
from typing import Any

from hydra.core.utils import JobStatus, run_job
from pebble import ProcessPool

from runner.errors import UserError, cause_of
from runner.signals import Stopped, die_with_parent
from runner.sweep import server
from runner.sweep.hydra_state import HydraState
from runner.sweep.slots import Slot
from runner.terminal import show_as_text
from runner.texts import in_one_line, same_command

STOPPED = "Stopped from outside. Give {} to go on."


class Worker:
    """The process of a slot; a new one is started when it is needed.

    Args:
        slot: What it may use.
        state: What Hydra has to know in the process.
    """

    def __init__(self, slot: Slot, state: HydraState) -> None:
        self.slot, self.state = slot, state
        self.pool: Any = None
        self.retried = False

    def begin(self, job: bytes, timeout: float | None) -> "Future[Any]":
        """Begin a job, pickled: its context, composed run and task."""
        if self.pool is not None and not self.pool.active:
            self.stop()  # its process died while it had nothing to do
        if self.pool is None:
            self.pool = ProcessPool(1, context=server.context())
            self.pool.schedule(_settle, (self.slot,))
        arguments = (self.state, job, self.slot)
        return self.pool.schedule(_do, arguments, timeout=timeout)  # type: ignore[no-any-return]

    def stop(self, at_once: bool = True) -> None:
        """End the process: at once, or when its job is done."""
        if self.pool is not None:
            (self.pool.stop if at_once else self.pool.close)()
            self.pool.join()
            self.pool = None


def cause_of_death(error: Exception, again: bool) -> tuple[str, str]:
    """Write why a worker process ended, from Pebble's error; give back its cause too."""
    code = getattr(error, "exitcode", None)
    if code == signal.SIGTERM:  # how Pebble's workers end when they are told to
        return STOPPED.format(same_command(again)), "killed"
    if isinstance(code, int) and code < 0:
        name = signal.Signals(-code).name
        guess = " (out of memory?)" if name == "SIGKILL" else ""
        text = f"The worker process was killed by {name}{guess}."
        return f"{text} Give {same_command(again)} to go on.", "killed"
    if isinstance(code, int):
        return f"The worker process ended with code {code} without reporting.", "killed"
    if isinstance(error, BrokenProcessPool):  # it could not even begin
        guard = 'A script that calls main() does so below `if __name__ == "__main__":`.'
        return f"The worker process could not be started: {in_one_line(error)}. {guard}", "killed"
    return _trace(error), cause_of(error)


@lru_cache
def _settle(slot: Slot) -> None:
    """Confine the process to its slot and tie it to its parent, once."""
    server.take_signals()
    if slot.card is not None:  # before CUDA starts
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.card
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, slot.cores)
    die_with_parent()


def _do(state: HydraState, job: bytes, slot: Slot) -> tuple[str | None, Any, str]:
    """Do one job, in the worker: why it failed, its value or its error, and what it printed."""
    _settle(slot)  # Pebble may have put a new process in the place of one that died warming up
    state.take()
    show_as_text()
    context, run, task = pickle.loads(job)  # from our own parent, through a pipe
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            end = run_job(task, run.config(), "hydra.sweep.dir", "hydra.sweep.subdir", context)
    except Stopped:
        return "killed", UserError(STOPPED.format(same_command(run.again))), printed.getvalue()
    except BaseException as error:  # sys.exit and the like, which Hydra lets through
        return cause_of(error), RuntimeError(_trace(error)), printed.getvalue()
    value, cause = end._return_value, None
    if end.status is JobStatus.FAILED:
        cause = cause_of(value)
        value = value if isinstance(value, UserError) else RuntimeError(_trace(value))
    return cause, value, printed.getvalue()


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).strip()
