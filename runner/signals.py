"""Signals that ask to stop: obeyed at once, or in training at the end of the update.

SIGTERM, SIGUSR1 and SIGUSR2, as schedulers send them, end the process with 143, and Ctrl-C with
130. In training the first of them is noted, and the run saves a checkpoint before it ends; a
second Ctrl-C ends it at once. A handler that was installed before ours is called after it; a
signal that was ignored stays ignored. A forked process handles signals as if ours were not
there: a worker process never saves.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, NoReturn

from runner.torchrun import own_rank

CODES: dict[int, int] = {
    signal.SIGINT: 130,
    **dict.fromkeys((signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2), 143),
}
"""The signals and the exit codes."""


class Stopped(SystemExit):
    """The process was asked to stop, and has saved what it had to save."""

    def __init__(self, number: int) -> None:
        super().__init__(CODES[signal.Signals(number)])
        self.number = number


class _Signals:
    """The state of this process: a handler of signals has no other place for it."""

    def __init__(self) -> None:
        self.reset(0, {})

    def reset(self, process: int, previous: dict[int, Any]) -> None:
        """Start with nothing requested, in a process, with the handlers that ours replace."""
        self.process, self.previous = process, previous
        self.deferring = self.stopping = False
        self.requested: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if os.getpid() != self.process:
            self._pass_on(number, frame)
        elif number == signal.SIGINT and not (self.deferring and self.requested is None):
            self.stopping = True
            raise KeyboardInterrupt
        elif self.stopping or self.requested is not None:
            return  # it is being obeyed: schedulers repeat themselves
        elif not self.deferring:
            self.stopping = True
            raise Stopped(number)
        else:
            self.requested = number
            # a sweep announces it for its workers, and the first rank for the others
            if multiprocessing.parent_process() is None and own_rank() == 0:
                announce_stop(ctrl_c=number == signal.SIGINT)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Do in a forked process what was done before there was this handler."""
        previous = self.previous.get(number)
        if callable(previous):
            previous(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


_signals = _Signals()


def announce_stop(ctrl_c: bool) -> None:
    """Say that the process is about to stop; a handler of signals may call it."""
    more = " Ctrl-C again stops at once." if ctrl_c else ""
    with suppress(OSError):  # the reader may be gone, as `tee` is at Ctrl-C
        # not print, which must not be entered twice
        os.write(2, f"\nStopping when the current update is done and saved.{more}\n".encode())


@contextmanager
def stoppable() -> Iterator[None]:
    """Obey the signals within. Does nothing when nested, or outside the main thread.

    Raises:
        Stopped: If a scheduler asks to stop.
        KeyboardInterrupt: At Ctrl-C.
    """
    nested = _signals.process == os.getpid()
    if nested or threading.current_thread() is not threading.main_thread():
        yield
        return
    found: dict[int, Any] = {number: signal.getsignal(number) for number in CODES}
    # what is ignored, as under nohup, and what was set outside of Python is left alone
    replaced = {n: h for n, h in found.items() if h not in (None, signal.SIG_IGN)}
    _signals.reset(os.getpid(), replaced)
    for number in replaced:
        signal.signal(number, _signals.handle)
    stopped: Stopped | None = None
    try:
        yield
    except Stopped as error:
        stopped = error
        raise
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
        _signals.reset(0, {})
        handler = replaced.get(stopped.number) if stopped else None
        if stopped and callable(handler) and handler is not signal.default_int_handler:
            handler(stopped.number, None)


@contextmanager
def defer_signals() -> Iterator[Callable[[], bool]]:
    """Stop within only where `raise_if_stopping` is called; gives `stop_requested`.

    Raises:
        Stopped: At its end, if a stop was requested; or at its beginning, if that happened while
            something else failed.
    """
    raise_if_stopping()
    _signals.deferring = True
    try:
        yield stop_requested
    finally:
        _signals.deferring = False
    raise_if_stopping()


def stop_requested() -> bool:
    """Whether a deferred signal asks to stop."""
    return _signals.requested is not None


def signal_to_stop() -> int:
    """Give back the deferred signal that asks to stop; 0 if none does."""
    return _signals.requested or 0


def raise_stop(number: int) -> NoReturn:
    """Stop as a signal asks, which this process or another one of its run got.

    Raises:
        Stopped: Always.
    """
    _signals.stopping = True
    raise Stopped(number)


def raise_if_stopping() -> None:
    """Stop, if that was requested.

    Raises:
        Stopped: If so.
    """
    if _signals.requested is not None:
        raise_stop(_signals.requested)


@lru_cache
def die_with_parent() -> None:
    """Have this worker of a sweep end when its parent is killed: it would keep its run locked."""
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_watch, args=(parent.sentinel, os.getppid()), daemon=True).start()


def _watch(sentinel: int | None, parent: int) -> None:
    if sentinel is not None:
        wait([sentinel])
    while sentinel is None and os.getppid() == parent:  # a worker of joblib
        time.sleep(1)
    os._exit(1)
