"""Imported by the server of workers: what every run needs."""

from runner.garbage import importing_torch
from runner.sweep.server import ignore_signals

ignore_signals()

with importing_torch():
    import runner.run.attempt
    import runner.sweep.worker  # noqa: F401
