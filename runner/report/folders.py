"""What lies below a folder: ablations, by their plans, and runs that belong to none."""

import os
from collections.abc import Iterator
from pathlib import Path

from runner.ablation.plan import PLAN
from runner.runs import STATUS, Run, read_run


def find_ablations(folder: Path) -> Iterator[Path]:
    """Find the folders with a plan, this one or some below it."""
    for place, below, names in os.walk(folder):
        below.sort()
        if PLAN in names:
            below.clear()
            yield Path(place)


def find_loose_runs(folder: Path) -> Iterator[Run]:
    """Find the runs that belong to no ablation."""
    for place, below, names in os.walk(folder):
        below.sort()
        if PLAN in names:
            below.clear()
        elif STATUS in names:
            path = Path(place)
            variant = os.path.relpath(path.parent, folder)
            yield read_run(path, path.parent.name if variant in (".", "..") else variant)
