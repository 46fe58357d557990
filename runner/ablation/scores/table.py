"""Scores made elsewhere: the runs of a table laid out over variants and seeds."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runner.ablation.plan import Plan
from runner.ablation.scores.cells import Score
from runner.ablation.statistics import FEWEST_SEEDS
from runner.ablation.table import Table
from runner.errors import UserError
from runner.store.runs import Run
from runner.texts import listed, printable


def without_repeats(rows: Sequence[Score], notes: list[str]) -> list[Score]:
    """Drop rows that are there twice.

    Raises:
        UserError: If a run has two scores.
    """
    kept: dict[tuple[str, str], Score] = {}
    repeated = 0
    for row in rows:
        if row.seed is None:
            continue
        first = kept.setdefault((row.variant, row.seed), row)
        if first is row:
            continue
        if (first.state, str(first.value)) != (row.state, str(row.value)):
            raise UserError(
                f"{row.place}: {printable(row.variant, 60)} with seed {printable(row.seed, 20)} is "
                f"there already, in {first.place}, with another score. Keep one row a run; if "
                "these are several runs, give each a seed of its own, or take --seed none."
            )
        repeated += 1
    if repeated:
        rows_are = "One row is" if repeated == 1 else f"{repeated} rows are"
        notes.append(f"{rows_are} there twice, and count{'s' * (repeated == 1)} once.")
    return list(kept.values()) if kept else list(rows)


def is_paired(groups: Mapping[str, Sequence[Score]], baseline: str, others: Sequence[str]) -> bool:
    """Whether every variant with runs enough shares three seeds, and half its runs, with it."""
    if any(row.seed is None for rows in groups.values() for row in rows):
        return False
    own = {row.seed for row in groups[baseline]}
    for name in others:
        seeds = {row.seed for row in groups[name]}
        fewest = max(FEWEST_SEEDS, max(len(seeds), len(own)) / 2)
        if min(len(seeds), len(own)) >= FEWEST_SEEDS and len(seeds & own) < fewest:
            return False
    return True


def seed_numbers(rows: Sequence[Score]) -> dict[str, int]:
    """Give each seed a number, in the order of the rows: its own if all are numbers."""
    texts = list(dict.fromkeys(str(row.seed) for row in rows))
    whole = all(re.fullmatch(r"\d{1,18}", text) for text in texts)
    numbers = [int(text) for text in texts] if whole else list(range(len(texts)))
    if len({*numbers}) < len(texts):  # such as 1 and 01
        numbers = list(range(len(texts)))
    return dict(zip(texts, numbers, strict=True))


def lay_out(
    root: Path, plan: Plan, groups: Mapping[str, Sequence[Score]], seeds: Mapping[str, int]
) -> Table:
    """Lay the runs out over variants and seeds; without seeds in the order of each variant."""
    shape = len(plan.variants), len(plan.seeds)
    places = {seed: column for column, seed in enumerate(plan.seeds)}
    states: NDArray[np.str_] = np.full(shape, "", dtype="<U16")
    scores, nothing = np.full(shape, np.nan), np.full(shape, np.nan)
    failed, absent = np.zeros(shape, bool), np.ones(shape, bool)
    runs = {}
    for row, variant in enumerate(plan.variants):
        for index, each in enumerate(groups[variant]):
            seed = seeds[str(each.seed)] if seeds else plan.seeds[index]
            at = row, places[seed]
            states[at], scores[at], absent[at] = _state(each), each.value, False
            failed[at] = each.state in ("failed", "diverged")
            runs[variant, seed] = _run(root, each, plan.question.metric, seed if seeds else None)
    rows = {variant: row for row, variant in enumerate(plan.variants)}
    return Table(runs, rows, states, failed, scores, nothing, nothing, (), absent)


def _state(row: Score) -> str:
    return "failed" if row.state == "killed" else row.state


def _run(root: Path, row: Score, metric: str, seed: int | None) -> Run:
    """Make a run of a row; nothing is read from its folder, which does not exist."""
    name = row.place if seed is None else f"seed={seed}"
    status = {"status": _state(row), "error": f"{row.place}: {row.word}"}
    if row.state == "killed":
        status["cause"] = "killed"
    result = {metric: row.value} if row.state == "done" else None
    folder = root.joinpath(row.variant, name)
    return Run(folder, row.variant, name.partition("=")[2], status, result, None, elsewhere=True)


def left_out(plan: Plan, table: Table) -> list[str]:
    """Say which runs count for nothing, since their seeds are on one side alone."""
    own, others = ~table.absent[0], ~table.absent[1:]
    alone = others & ~own
    names = list(plan.variants)
    lines = []
    if alone.any():
        listing = [
            f"{names[row + 1]} with {_numbers(plan, alone[row])}"
            for row in np.flatnonzero(alone.any(1)).tolist()
        ]
        lines.append(f"Left out, as {names[0]} lacks these seeds: {listed(listing, 5)}.")
    missing = own & ~others
    if missing.any():
        listing = [
            f"{names[row + 1]} lacks {_numbers(plan, missing[row])}"
            for row in np.flatnonzero(missing.any(1)).tolist()
        ]
        lines.append(f"Compared on the seeds that both have: {listed(listing, 5)}.")
    return [printable(line, 600) for line in lines]


def _numbers(plan: Plan, which: NDArray[np.bool_]) -> str:
    seeds = [str(seed) for seed, yes in zip(plan.seeds, which, strict=True) if yes]
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds, 10)}"


def suspicions(groups: Mapping[str, Sequence[Score]], baseline: str) -> list[str]:
    """Say what looks as if a seed or a change were not used, or units were mixed."""
    known = {
        name: {row.seed or (name, index): row.value for index, row in enumerate(rows) if row.done}
        for name, rows in groups.items()
    }
    lines = []
    if same := [n for n, s in known.items() if len(s) >= FEWEST_SEEDS and len({*s.values()}) == 1]:
        lines.append(f"All runs have the same score in {listed(same, 5)}: is the seed used there?")
    own = known.pop(baseline)
    common = {name: scores.keys() & own.keys() for name, scores in known.items()}
    if equal := [
        name
        for name, seeds in common.items()
        if len(seeds) >= FEWEST_SEEDS and all(known[name][seed] == own[seed] for seed in seeds)
    ]:
        lines.append(
            f"With every seed the score is that of {baseline} in {listed(equal, 5)}: was the "
            "change switched on there?"
        )
    return [printable(line, 400) for line in lines]


def unlikely_units(rows: Sequence[Score], margin: float) -> list[str]:
    """Say that a margin, or some scores, seem to be in another unit than the others."""
    known = [row for row in rows if row.done]
    low, high = min(known, key=lambda row: row.value), max(known, key=lambda row: row.value)
    if 0 < 4 * (high.value - low.value) < margin:
        return [
            f"The margin, {margin:g}, is far more than any two scores differ: they go from "
            f"{low.value:g} to {high.value:g}. Is it in their unit?"
        ]
    if 0 < low.value <= 1 < 20 < high.value <= 100:
        return [
            f"The scores go from {low.value:g} ({low.place}) to {high.value:g} ({high.place}). If "
            "some are shares and some percent, write all of them alike."
        ]
    return []
