"""Imported by the server of workers: what every run needs, and how it takes signals.

A signal that is sent to all processes of a sweep is for the workers and their parent. The server
outlasts it, since it tells the parent how each worker ended.
"""

import signal

from runner.signals import CODES

HANDLERS = {number: signal.getsignal(number) for number in CODES}
for _number in CODES:
    signal.signal(_number, signal.SIG_IGN)

import runner.run.attempt  # noqa: E402
import runner.sweep.worker  # noqa: E402, F401


def take_signals() -> None:
    """Have this worker take signals as if it had been started by itself."""
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)
