"""Signals that ask to stop: obeyed at once, or in training at the next update's end.

SIGTERM, SIGUSR1 and SIGUSR2, as schedulers send them, end the process with 143, and Ctrl-C with
130. While training, the first of them is noted, and the run saves a checkpoint before it ends; a
second Ctrl-C ends it where it stands. A handler that was there before is called at the end of
ours; one that ignored a signal goes on to. In a process that was forked off, the signal does
what it would have done without us: a worker process never saves.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

CODES = {
    signal.SIGINT: 130,
    **{
        getattr(signal, name): 143
        for name in ("SIGTERM", "SIGUSR1", "SIGUSR2")
        if hasattr(signal, name)
    },
}
"""The signals and the exit codes."""


class Stopped(SystemExit):
    """The process was asked to stop, and what it had to save is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(CODES[signal.Signals(number)])
        self.number = number


class _Signals:
    """The state of this process: signals know no other."""

    def __init__(self) -> None:
        self.begin(0, {})

    def begin(self, process: int, before: dict[int, Any]) -> None:
        """Start anew, in a process, with the handlers that ours take the place of."""
        self.process, self.before = process, before
        self.deferring = self.stopping = False
        self.asked: int | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if os.getpid() != self.process:
            self._pass_on(number, frame)
        elif number == signal.SIGINT and not (self.deferring and self.asked is None):
            self.stopping = True
            raise KeyboardInterrupt
        elif self.stopping or self.asked is not None:
            return  # it is being obeyed: schedulers repeat themselves
        elif not self.deferring:
            self.stopping = True
            raise Stopped(number)
        else:
            self.asked = number
            if multiprocessing.parent_process() is None:  # else the sweep tells it, once for all
                more = " Ctrl-C again stops at once." if number == signal.SIGINT else ""
                with suppress(OSError):  # whoever read it may be gone, as `tee` is at Ctrl-C
                    # not print, which must not be entered twice
                    os.write(2, f"\nStopping when this update is done and saved.{more}\n".encode())

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Do in a forked process what was done before there was this handler."""
        before = self.before.get(number)
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


_signals = _Signals()


@contextmanager
def stoppable() -> Iterator[None]:
    """Obey the signals within. Does nothing inside another of its kind, or beside the main thread.

    Raises:
        Stopped: If a scheduler asks to stop.
        KeyboardInterrupt: At Ctrl-C.
    """
    nested = _signals.process == os.getpid()
    if nested or threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = {n: h for n in CODES if _is_ours_to_take(n, h := signal.getsignal(n))}
    _signals.begin(os.getpid(), taken)
    for number in taken:
        signal.signal(number, _signals.note)
    stopped: Stopped | None = None
    try:
        yield
    except Stopped as error:
        stopped = error
        raise
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
        _signals.begin(0, {})
        handler = taken.get(stopped.number) if stopped else None
        if stopped and callable(handler) and handler is not signal.default_int_handler:
            handler(stopped.number, None)


def _is_ours_to_take(number: int, handler: Any) -> bool:  # noqa: ANN401
    """Leave alone what is ignored, as under nohup, and what was set outside of Python.

    Submitit lets SIGTERM pass on purpose, since Slurm sends it before the signal at which submitit
    queues the job again.
    """
    submitit = number == signal.SIGTERM and _module(handler).startswith("submitit.")
    return handler is not None and handler is not signal.SIG_IGN and not submitit


def _module(handler: object) -> str:
    return getattr(handler, "__module__", None) or ""


@contextmanager
def defer_signals() -> Iterator[Callable[[], bool]]:
    """Put off stopping within; gives a function that tells whether it was asked for.

    Raises:
        Stopped: At its end, if it was asked for; or at its beginning, if that was asked for while
            something else failed.
    """
    raise_if_stopping()
    _signals.deferring = True
    try:
        yield lambda: _signals.asked is not None
    finally:
        _signals.deferring = False
    raise_if_stopping()


def raise_if_stopping() -> None:
    """Stop, if that was asked for.

    Raises:
        Stopped: If so.
    """
    if _signals.asked is not None:
        _signals.stopping = True
        raise Stopped(_signals.asked)
