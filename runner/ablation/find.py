"""Find what is below a folder: ablations, by their plans, and runs that belong to none."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from runner.ablation.plan import PLAN
from runner.names import OUTPUTS
from runner.store.opening import Damaged
from runner.store.packed import ARCHIVE, packed_runs
from runner.store.runs import RESULT, STATUS, Run, read_run


def find_ablations(folder: Path) -> Iterator[Path]:
    """Find the folders with a plan, this one or some below it, also one within another."""
    for place, below, names in os.walk(folder):
        below.sort()
        if PLAN in (*names, *below):  # a folder of this name is reported as a damaged plan
            yield Path(place)


def find_loose_runs(folder: Path) -> Iterator[Run]:
    """Find the runs that belong to no ablation."""
    roots = {*find_ablations(folder)}
    for path in find_folders(folder):
        if path.parent.parent not in roots:
            variant = os.path.relpath(path.parent, folder)
            yield read_run(path, path.parent.name if variant in (".", "..") else variant)


def find_own_runs(root: Path) -> Iterator[Run]:
    """Find the runs of an ablation's folder, also those of variants that are not in its plan."""
    for path in find_folders(root):
        if path.parent.parent == root:
            yield read_run(path, path.parent.name)


def find_folders(folder: Path) -> Iterator[Path]:
    """Find the folders of all runs, of ablations too; of packed ones, where they would be.

    A damaged archive takes the place of its runs, so that it is named among them.
    """
    for place, below, names in os.walk(folder):
        below.sort()
        if not {STATUS, RESULT}.isdisjoint((*names, *below)):
            yield Path(place)
        if ARCHIVE in names:
            yield from _with_packed(Path(place), below)
            below.clear()


def _with_packed(variant: Path, below: Sequence[str]) -> Iterator[Path]:
    """Find the runs of a variant of which some are packed, in their order."""
    try:
        packed = {*packed_runs(variant)}
    except Damaged:
        yield variant / ARCHIVE
        packed = set()
    for name in sorted({*below, *packed}):
        if name in packed:
            yield variant / name
        elif not (variant / name).is_symlink():
            yield from find_folders(variant / name)


def names_of(folders: Iterable[Path]) -> dict[Path, str]:
    """Name folders of runs: by what lies below `outputs`, or else by their own names alone.

    Of several, those that would have the same name have more of their paths in it.
    """
    known = {folder: folder.resolve().parts for folder in folders}
    taken = {folder: _below_outputs(parts) for folder, parts in known.items()}
    while True:
        names = {folder: "/".join(known[folder][-n:]) for folder, n in taken.items()}
        counts = Counter(names.values())
        clashes = [f for f in names if counts[names[f]] > 1 and taken[f] < len(known[f])]
        if not clashes:
            return names
        for folder in clashes:
            taken[folder] += 1


def _below_outputs(parts: Sequence[str]) -> int:
    """Count the parts below `outputs`, at least one."""
    return max(1, [*reversed(parts)].index(OUTPUTS)) if OUTPUTS in parts else 1
