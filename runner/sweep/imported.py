"""Imported by the server of workers: what every run needs."""

from runner.sweep.server import ignore_signals

ignore_signals()

import runner.run.attempt  # noqa: E402
import runner.sweep.worker  # noqa: E402, F401
