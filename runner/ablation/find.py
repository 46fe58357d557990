"""Find what is below a folder: ablations, by their plans, and runs that belong to none."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from runner.ablation.plan import PLAN
from runner.store.runs import RESULT, STATUS, Run, read_run


def find_ablations(folder: Path) -> Iterator[Path]:
    """Find the folders with a plan, this one or some below it."""
    for place, below, names in os.walk(folder):
        below.sort()
        if PLAN in (*names, *below):  # a folder of this name is reported as a damaged plan
            below.clear()
            yield Path(place)


def find_loose_runs(folder: Path) -> Iterator[Run]:
    """Find the runs that belong to no ablation."""
    for place, below, names in os.walk(folder):
        below.sort()
        if PLAN in (*names, *below):
            below.clear()
        elif _is_run(names, below):
            path = Path(place)
            variant = os.path.relpath(path.parent, folder)
            yield read_run(path, path.parent.name if variant in (".", "..") else variant)


def find_folders(folder: Path) -> Iterator[Path]:
    """Find the folders of all runs, of ablations too."""
    for place, below, names in os.walk(folder):
        below.sort()
        if _is_run(names, below):
            yield Path(place)


def _is_run(names: Iterable[str], below: Iterable[str]) -> bool:
    return not {STATUS, RESULT}.isdisjoint((*names, *below))
