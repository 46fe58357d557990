"""The tables below the verdicts: interactions, shares, what each trick did, the figures behind."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from runner.ablation.verdicts import Finding, Findings
from runner.report import words
from runner.report.rows import largest, plus_minus, ranked
from runner.store.runs import Run

Table = list[list[str]]
"""Rows of cells, the first one the heading."""

MATRIX = 12  # levels that a matrix holds; beyond, a list


@dataclass(frozen=True)
class Cell:
    """An interaction in the matrix."""

    mean: str
    between: str
    sign: str
    """`plus` or `minus`, whose colour it has."""
    strength: float
    """From 0 to 1, how much of the colour."""
    real: bool
    """Whether it is more than chance."""


@dataclass(frozen=True)
class Matrix:
    """Interactions of pairs, each once, below the diagonal."""

    heads: list[str]
    rows: list[tuple[str, list[Cell | None]]]


def matrix(findings: Findings) -> Matrix | None:
    """Lay the interactions of pairs out; None if they are of more factors, or too many."""
    found = {f.contrast.name: f for f in findings.interactions}
    levels = [(f.name, level) for f in findings.plan.factors for level in f.levels[1:]]
    if not found or not 2 <= len(levels) <= MATRIX:
        return None
    if any(len(f.contrast.factors) != 2 for f in findings.interactions):
        return None
    most = max((abs(f.mean or 0.0) for f in found.values()), default=0.0)
    grid = []
    for row, (_, lower) in enumerate(levels[1:], 1):
        cells = [
            _cell(findings, found.get(f"{upper} x {lower}"), most) for _, upper in levels[:row]
        ]
        padding: list[Cell | None] = [None] * (len(levels) - 1 - len(cells))
        grid.append((words.shorten(lower, 40), cells + padding))
    return Matrix([words.shorten(level, 40) for _, level in levels[:-1]], grid)


def _cell(findings: Findings, finding: Finding | None, most: float) -> Cell | None:
    if finding is None or finding.mean is None:
        return None
    metric = findings.plan.question.metric
    return Cell(
        mean=words.difference(finding.mean, metric),
        between=words.between(finding.interval, metric),
        sign="plus" if finding.mean > 0 else "minus",
        strength=round(0.45 * abs(finding.mean) / most, 2) if most else 0.0,
        real=is_real(finding, findings.plan.question.alpha),
    )


def is_real(finding: Finding, alpha: float) -> bool:
    """Tell whether an interaction is more than chance, looked at together with the others."""
    return finding.adjusted is not None and finding.adjusted <= alpha


def interactions(findings: Findings) -> Table:
    """List the interactions; of many the largest."""
    metric = findings.plan.question.metric
    rows = [
        [
            words.printable(f.contrast.name),
            plus_minus(f, metric),
            words.printable(f.reason),
        ]
        for f in largest(findings.interactions)
    ]
    heads = ["Interaction", f"Difference, {words.unit(metric)}", "In words"]
    return [heads, *rows] if rows else []


def shares(findings: Findings) -> Table:
    """List the approximate Shapley values, their sum, and what everything together gains."""
    if not findings.shares:
        return []
    metric = findings.plan.question.metric
    rows = [[words.printable(f.contrast.name), plus_minus(f, metric)] for f in findings.shares]
    means = [f.mean for f in findings.shares if f.mean is not None]
    if len(means) == len(findings.shares):
        rows.append(["Sum of the shares", words.difference(sum(means), metric)])
    gain = words.difference(together(findings), metric)
    heads = ["Trick", f"Share, {words.unit(metric)}"]
    return [heads, *rows, ["All together, measured", gain]]


def together(findings: Findings) -> float | None:
    """Give back what everything together gains over nothing, the mean over the seeds."""
    question, factors = findings.plan.question, findings.plan.factors
    ends = [tuple(f.levels[0] for f in factors), tuple(f.levels[-1] for f in factors)]
    names = {levels: name for name, levels in findings.plan.variants.items()}
    if not all(end in names for end in ends):
        return None
    differences = []
    for seed in findings.plan.seeds:
        runs = [findings.runs.get((names[end], seed)) for end in ends]
        scores = [words.number((run.result or {}).get(question.metric)) for run in runs if run]
        known = [score for score in scores if score is not None]
        if len(known) == 2:
            differences.append(known[1] - known[0])
    sign = 1.0 if question.goal == "maximize" else -1.0
    return sign * statistics.fmean(differences) if differences else None


def did(findings: Findings) -> Table:
    """List what the tricks reported, in words."""
    return [
        [
            words.printable(finding.contrast.name),
            "; ".join(_said(name, value) for name, value in [*finding.did.items()][:20]),
        ]
        for finding in largest(ranked(findings.effects))
        if finding.did
    ]


def _said(name: str, value: float) -> str:
    return f"{words.shorten(words.spaced(name), 60)} {words.score(value, name)}"


def calibration(findings: Findings) -> Table:
    """List how often verdicts came out that cannot be true."""
    rows = [
        [
            str(c.seeds),
            f"{c.draws:,}",
            f"{100 * c.false:.1f} %",
            f"{100 * c.negligible:.1f} %",
        ]
        for c in findings.calibration
    ]
    accepted = f"{100 * findings.plan.question.alpha:.3g} %"
    heads = ["Seeds a side", "Made-up ablations", f"HELPS or HURTS, false: {accepted} accepted"]
    return [[*heads, "NEGLIGIBLE, true"], *rows] if rows else []


def figures_behind(findings: Findings) -> Table:
    """List the statistics of the effects, and each seed's difference."""
    metric = findings.plan.question.metric
    rows = [
        [
            words.printable(f.contrast.name),
            _p(f.p_value),
            _p(f.adjusted),
            words.between(f.samples_interval, metric) or "-",
            "-" if f.correlation is None else f"{f.correlation:.2f}",
            _by_seed(f, metric),
        ]
        for f in largest(ranked(findings.effects))
        if f.differences
    ]
    heads = ["Effect", "p", "Adjusted", "Interval, new test samples too", "Correlation"]
    return [[*heads, "Difference under seed"], *rows] if rows else []


def _by_seed(finding: Finding, metric: str) -> str:
    shown = list(finding.differences.items())[:50]
    return ", ".join(f"{seed}: {words.difference(value, metric)}" for seed, value in shown)


def hashes(findings: Findings, most: int) -> Table:
    """List the hash of each run's config; nothing if there are many."""
    runs: Iterable[Run] = findings.runs.values() if len(findings.runs) <= most else ()
    return [
        [words.printable(f"{run.variant}/{run.folder.name}"), words.shorten(str(known), 40)]
        for run in runs
        if (known := run.machine.get("config"))
    ]


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
