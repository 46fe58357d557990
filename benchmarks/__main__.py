"""What Biscuits takes, beside its goals; `make bench` runs it.

python -m benchmarks                 # all of it; under fifteen minutes on two quiet cores
python -m benchmarks start step      # some of it
"""

import os
import platform
import sys
import time
from importlib import import_module

import torch

from runner.run.fingerprint import processor

ALL = ("start", "step", "input", "sweep", "busy", "report", "done")


def main() -> None:
    """Print a line for each goal.

    Raises:
        SystemExit: With how many were missed, if some were.
    """
    names, begun, missed = sys.argv[1:] or ALL, time.perf_counter(), 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{processor()}, {cores} cores, {torch.backends.cpu.get_cpu_capability()}; "
        f"Python {platform.python_version()}, torch {torch.__version__}",
        flush=True,
    )
    for name in names:
        for row in import_module(f"benchmarks.{name}").rows():
            print(row.text(), flush=True)
            missed += not row.is_met
    print(f"{(time.perf_counter() - begun) / 60:.0f} minutes")
    if missed:
        sys.exit(f"{missed} missed")


if __name__ == "__main__":
    main()
