"""The tables below the verdicts: interactions, shares, what the tricks reported, p-values."""

import statistics
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from runner.ablation.plan import Plan
from runner.ablation.sampling import Noise
from runner.ablation.tuning import measure_of
from runner.ablation.verdicts import Finding, Findings
from runner.ablation.wording import with_unit
from runner.report import format as fmt
from runner.report.format import largest, plus_minus, ranked
from runner.store.runs import number
from runner.texts import printable

Table = list[list[str]]
"""Rows of cells, the first one the heading."""

MATRIX = 12  # levels that a matrix holds; beyond, a list


def matrix(findings: Findings) -> dict[str, Any] | None:
    """Lay out the interactions of pairs; None if there are others, or too many levels.

    Returns:
        The `heads` of the columns; of each of the `rows` its head and its cells, with each pair
        once, below the diagonal.
    """
    found = {f.contrast.name: f for f in findings.interactions}
    levels = [level for f in findings.plan.judged for level in f.levels[1:]]
    if not found or not 2 <= len(levels) <= MATRIX:
        return None  # of very many levels the pairs would fill the memory
    pairs = {f"{upper} x {lower}" for upper, lower in combinations(levels, 2)}
    if not found.keys() <= pairs:
        return None
    most = max(abs(f.mean or 0.0) for f in found.values())
    grid = []
    for row, lower in enumerate(levels[1:], 1):
        cells = [_cell(findings, found.get(f"{upper} x {lower}"), most) for upper in levels[:row]]
        grid.append((printable(lower, 40), cells + [None] * (len(levels) - 1 - row)))
    return {"heads": [printable(level, 40) for level in levels[:-1]], "rows": grid}


def _cell(findings: Findings, finding: Finding | None, most: float) -> dict[str, Any] | None:
    if finding is None or finding.mean is None:
        return None
    question = findings.plan.question
    return {
        "mean": fmt.difference(finding.mean, question.metric),
        "between": fmt.between(finding.interval, question.metric),
        "sign": "plus" if finding.mean > 0 else "minus",
        "strength": round(0.45 * abs(finding.mean) / most, 2) if most else 0.0,  # of the colour
        "real": finding.adjusted is not None and finding.adjusted <= question.alpha,
    }


def interactions(findings: Findings) -> Table:
    """List the interactions; of many the largest."""
    metric = findings.plan.question.metric
    rows = [
        [printable(f.contrast.name), plus_minus(f, metric), printable(f.reason)]
        for f in largest(findings.interactions)
    ]
    heads = ["Interaction", f"Difference, {fmt.unit(metric)}", "In words"]
    return [heads, *rows] if rows else []


def shares(findings: Findings) -> Table:
    """List the approximate Shapley values, their sum, and the gain of all tricks together."""
    if not findings.shares:
        return []
    metric = findings.plan.question.metric
    rows = []
    for setting in findings.plan.settings():
        found = [f for f in findings.shares if f.contrast.setting == setting]
        rows += [[printable(f.contrast.name), plus_minus(f, metric)] for f in found]
        means = [f.mean for f in found if f.mean is not None]
        where = f", {printable(setting)}" if setting else ""
        if len(means) == len(found):
            rows.append([f"Sum of the shares{where}", fmt.difference(sum(means), metric)])
        gain = fmt.difference(together(findings, setting), metric)
        rows.append([f"All together, measured{where}", gain])
    return [["Trick", f"Share, {fmt.unit(metric)}"], *rows]


def together(findings: Findings, setting: str = "") -> float | None:
    """Give the gain of all tricks together over none, as the mean over the seeds."""
    question, factors = findings.plan.question, findings.plan.judged
    ends = [tuple(f.levels[0] for f in factors), tuple(f.levels[-1] for f in factors)]
    variants = findings.plan.settings()[setting]
    names = {findings.plan.variants[name][: len(factors)]: name for name in variants}
    if not all(end in names for end in ends):
        return None
    differences = []
    counted = [{*f.differences} for f in findings.shares if f.contrast.setting == setting]
    for seed in set.intersection(*counted) if counted else findings.plan.seeds:
        runs = [findings.runs.get((names[end], seed)) for end in ends]
        scores = [number((run.result or {}).get(question.metric)) for run in runs if run]
        known = [score for score in scores if score is not None]
        if len(known) == 2:
            differences.append(known[1] - known[0])
    sign = 1.0 if question.goal == "maximize" else -1.0
    return sign * statistics.fmean(differences) if differences else None


def tuning(plan: Plan) -> Table:
    """List what was chosen for each variant, and how close the next setting came."""
    metric, goal = measure_of(plan.question.metric, plan.question.goal)
    rows = []
    for arm in plan.variants if plan.tuned else ():
        if (tuned := plan.tuned.get(arm)) is None:
            rows.append([printable(arm), "-", "nothing to choose", "-", "0"])
            continue
        best, trials = tuned.best, f"{tuned.trials}"
        if lost := sum(each.lost for each in tuned.tried):
            trials += f", {lost} failed"
        score = "-" if best.mean is None else fmt.score(best.mean, metric)
        rows.append([printable(arm), score, _written(best.values), "-", trials])
        if (other := tuned.runner_up(goal)) and best.mean is not None and other.mean is not None:
            away = with_unit(abs(best.mean - other.mean), metric)
            changed = {k: v for k, v in other.values.items() if best.values.get(k) != v}
            apart = "as good" if best.mean == other.mean else f"{away} worse"
            rows[-1][3] = f"{_written(changed)} ({apart})"
    heads = ["Tuned", fmt.spaced(metric), "Chosen", "Next best", "Trials"]
    return [heads, *rows] if rows else []


def _written(values: Mapping[str, Any]) -> str:
    return printable(", ".join(f"{k.removeprefix('tricks.')}={v}" for k, v in values.items()))


def trick_metrics(findings: Findings) -> Table:
    """List what the tricks reported, in words."""
    return [
        [
            printable(finding.contrast.name),
            "; ".join(
                f"{printable(fmt.spaced(name), 60)} {fmt.score(value, name)}"
                for name, value in [*finding.trick_metrics.items()][:20]
            ),
        ]
        for finding in largest(ranked(findings))
        if finding.trick_metrics
    ]


def calibration(findings: Findings) -> Table:
    """List how often a verdict was false where nothing differs."""
    rows = [
        [str(c.seeds), f"{c.draws:,}", f"{100 * c.false:.1f} %", f"{100 * c.negligible:.1f} %"]
        for c in findings.calibration
    ]
    allowed = f"{100 * findings.plan.question.alpha:.3g} %"
    heads = ["Seeds per side", "Simulated ablations", f"HELPS or HURTS, false (allowed: {allowed})"]
    return [[*heads, "NEGLIGIBLE, true"], *rows] if rows else []


def figures_behind(findings: Findings) -> Table:
    """List the statistics behind the verdicts, and the difference with each seed."""
    metric = findings.plan.question.metric
    rows = [
        [
            printable(f.contrast.name),
            _p(f.p_value),
            _p(f.adjusted),
            fmt.between(f.samples_interval, metric) or "-",
            _share(f.noise),
            "-" if f.correlation is None else f"{f.correlation:.2f}",
            ", ".join(
                f"{s}: {fmt.difference(d, metric)}" for s, d in [*f.differences.items()][:50]
            ),
        ]
        for f in largest(ranked(findings))
        if f.differences
    ]
    heads = ["Effect", "p", "Adjusted p", "Interval over seeds and samples"]
    heads += ["Noise of the test set", "Correlation"]
    return [[*heads, "Difference with each seed"], *rows] if rows else []


def hashes(findings: Findings) -> Table:
    """List the hash of each run's config; nothing if there are more than 200 runs."""
    return [
        [printable(f"{run.variant}/{run.folder.name}"), printable(known, 40)]
        for run in findings.runs.values()
        if (known := run.machine.get("config")) and len(findings.runs) <= 200
    ]


def _share(noise: Noise | None) -> str:
    if noise is None:
        return "-"
    low, high = (100 * end for end in noise.interval)
    return f"{100 * noise.share:.0f} % ({low:.0f} to {high:.0f} %)"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
