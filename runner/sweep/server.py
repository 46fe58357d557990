"""The process that the workers of this machine are forked from: it imports, once, what runs need.

It is started before the plan of a sweep is made, and imports on another core meanwhile. Where there
is none, as on macOS, each worker imports for itself.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Any

from runner.signals import CODES

IMPORTED = "runner.sweep.imported"
SERVER = "BISCUITS_SERVER"
VARIABLES = {SERVER: "1", "OPENBLAS_NUM_THREADS": "1"}
"""Those of the server: what it is, and that it has one thread, for more must not be forked."""


def context() -> BaseContext:
    """Give back how workers are started."""
    return multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


@lru_cache
def start() -> None:
    """Start the server, once; it imports what `runner/sweep/imported.py` does."""
    if sys.platform != "linux":
        return
    # a worker that is killed leaves semaphores, which Python then complains of at its end
    sys.warnoptions.append("ignore:resource_tracker")
    multiprocessing.set_forkserver_preload([IMPORTED])
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(VARIABLES)
    try:
        with _ignored(signal.SIGUSR1, signal.SIGUSR2):
            forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    atexit.register(_end, os.getpid())


@contextmanager
def _ignored(*numbers: int) -> Iterator[None]:
    """Have what is started within ignore signals, which a scheduler sends to all processes.

    Python's resource tracker would die of them. The workers are told by SIGTERM, by their parent.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_handlers: dict[int, Any] = {}


def ignore_signals() -> None:
    """Have the server outlast what is sent to all: it tells their parent how the workers end.

    Another process that imports what it imports is left as it is.
    """
    if os.environ.pop(SERVER, None) is None:
        return
    for number in CODES:
        _handlers[number] = signal.signal(number, signal.SIG_IGN)


def take_signals() -> None:
    """Have a worker take signals as if it had been started by itself."""
    for number, handler in _handlers.items():
        signal.signal(number, handler)


def _end(owner: int) -> None:
    """End it at once: it may still be importing, and would hold the terminal until it is done."""
    if os.getpid() != owner:  # a process that was forked from ours
        return
    server = getattr(forkserver, "_forkserver", None)
    if isinstance(pid := getattr(server, "_forkserver_pid", None), int):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
