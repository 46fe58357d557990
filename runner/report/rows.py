"""The rows of the verdict table, which the terminal, Markdown and HTML share."""

from collections.abc import Sequence
from dataclasses import dataclass

from runner.ablation.verdicts import Finding, Findings, Verdict
from runner.report import words

SHOWN = 40
"""How many effects are drawn, and listed where a list would grow long: the largest ones."""


@dataclass(frozen=True)
class Row:
    """An effect in words."""

    effect: str
    verdict: Verdict
    reason: str
    difference: str
    """`+0.42`, in the unit of the report."""
    between: str
    """`+0.11 to +0.73`; empty if there is no interval."""
    plus_minus: str
    """Both in short, `+0.42 ± 0.31`; an interval that is not even on both sides as it is."""
    better: str
    """`4 of 5`: the seeds under which it was better."""
    time: str
    memory: str
    smallest: str
    """The smallest effect that this many seeds could show."""


def rows(findings: Findings) -> list[Row]:
    """Give back the row of each effect, in the order of the report."""
    metric = findings.plan.question.metric
    return [_row(finding, metric) for finding in ranked(findings.effects)]


def shown_rows(findings: Findings) -> tuple[list[Row], list[Row]]:
    """Give back the rows of the largest effects, and those of all others."""
    kept = {id(finding) for finding in largest(findings.effects)}
    shown: list[Row] = []
    others: list[Row] = []
    for finding, row in zip(ranked(findings.effects), rows(findings), strict=True):
        (shown if id(finding) in kept else others).append(row)
    return shown, others


def _row(finding: Finding, metric: str) -> Row:
    return Row(
        effect=words.printable(finding.contrast.name),
        verdict=finding.verdict or Verdict.NONE,
        reason=words.printable(finding.reason),
        difference=words.difference(finding.mean, metric),
        between=words.between(finding.interval, metric),
        plus_minus=plus_minus(finding, metric),
        better=better(finding),
        time=words.ratio(finding.time_ratio),
        memory=words.ratio(finding.memory_ratio),
        smallest=words.size(finding.smallest_effect, metric),
    )


def plus_minus(finding: Finding, metric: str) -> str:
    """Write the mean and its interval in one short cell; `-` if there is no mean."""
    mean = words.difference(finding.mean, metric)
    if finding.mean is None or not words.between(finding.interval, metric):
        return mean
    low, high = finding.interval or (0.0, 0.0)
    half = (high - low) / 2
    if abs((high + low) / 2 - finding.mean) > 0.01 * half:
        return f"{mean} ({words.between(finding.interval, metric)})"
    return f"{mean} ± {words.size(half, metric)}"


def better(finding: Finding) -> str:
    """Write under how many of the seeds it was better, `4 of 5`; `-` if there is none yet."""
    differences = finding.differences.values()
    return f"{sum(d > 0 for d in differences)} of {len(differences)}" if differences else "-"


def ranked(effects: Sequence[Finding]) -> list[Finding]:
    """Order effects: the best first, those of one factor together, those without a mean last.

    Of a factor the order is the plan's, so that the values of a setting stay in theirs. Where
    there are more than are drawn, nobody looks for neighbours: each stands by its own mean.
    """
    best: dict[tuple[str, ...], float] = {}
    for finding in effects:
        group = finding.contrast.factors
        best[group] = max(best.get(group, -float("inf")), _mean(finding))
    if len(effects) > SHOWN:
        return sorted(effects, key=_mean, reverse=True)
    groups = list(best)
    return sorted(
        effects,
        key=lambda f: (-best[f.contrast.factors], groups.index(f.contrast.factors)),
    )


def largest(found: Sequence[Finding], most: int = SHOWN) -> list[Finding]:
    """Give back the findings of the largest differences, in the order in which they came."""
    if len(found) <= most:
        return list(found)
    order = sorted(range(len(found)), key=lambda i: -abs(found[i].mean or 0.0))
    return [found[i] for i in sorted(order[:most])]


def _mean(finding: Finding) -> float:
    return -float("inf") if finding.mean is None else finding.mean
