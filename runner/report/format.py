"""How numbers and effects are written: units, signs, and the rows of the verdict table."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from runner.ablation import wording
from runner.ablation.decide import Verdict
from runner.ablation.find import names_of
from runner.ablation.verdicts import Finding, Findings
from runner.ablation.wording import is_share
from runner.texts import printable

SHOWN = 40
"""How many effects are drawn, and listed where a list would grow long: the largest ones."""


def name_of(findings: Findings) -> str:
    """Give back what the folder of an ablation is called, which may have been moved."""
    return names_of([findings.root])[findings.root]


def scale(name: str) -> float:
    """Give back the factor by which a number is shown."""
    return 100.0 if is_share(name) else 1.0


def unit(name: str) -> str:
    """Name the unit of a difference."""
    return "percentage points" if is_share(name) else spaced(name)


def spaced(name: str) -> str:
    """Write `test/shift_consistency` as `test shift consistency`."""
    return printable(re.sub(r"[/_]+", " ", name))


def difference(value: float | None, name: str) -> str:
    """Write a difference with its sign, `+0.42`; `-` if there is none."""
    return "-" if value is None else wording.difference(value, name)


def size(value: float | None, name: str) -> str:
    """Write the size of a difference, without a sign; `-` if there is none."""
    return "-" if value is None else wording.difference(value, name, sign="")


def score(value: float, name: str) -> str:
    """Write a reported number: a share as `98.7 %`, any other with three digits."""
    share = is_share(name) or name.endswith("share")
    return f"{100 * value:.3g} %" if share else f"{value:.3g}"


def between(interval: tuple[float, float] | None, name: str) -> str:
    """Write an interval, `+0.11 to +0.73`; nothing if there is none, or it is infinite."""
    if interval is None or not all(map(math.isfinite, interval)):
        return ""
    return " to ".join(difference(end, name) for end in interval)


def ratio(value: float | None) -> str:
    """Write a ratio, `x1.22`; `-` if there is none."""
    return "-" if value is None else f"x{value:.2f}"


def count(number: int, noun: str) -> str:
    """Write `1 run` or `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
    """Both in short, `+0.42 ± 0.31`; an asymmetric interval is written in full."""
    better: str
    """`4 of 5`: the seeds with which it was better."""
    time: str
    memory: str
    smallest: str
    """The smallest effect that this many seeds could show."""
    shown: bool
    """Whether it is among the largest, where a list would grow long."""


def rows(findings: Findings) -> list[Row]:
    """Give back the row of each effect, in the order of the report."""
    metric = findings.plan.question.metric
    shown = {id(finding) for finding in largest(findings.effects)}
    return [_row(finding, metric, id(finding) in shown) for finding in ranked(findings)]


def _row(finding: Finding, metric: str, shown: bool) -> Row:
    return Row(
        effect=printable(finding.contrast.name),
        verdict=finding.verdict or Verdict.NONE,
        reason=printable(finding.reason),
        difference=difference(finding.mean, metric),
        between=between(finding.interval, metric),
        plus_minus=plus_minus(finding, metric),
        better=_better(finding),
        time=ratio(finding.time_ratio),
        memory=ratio(finding.memory_ratio),
        smallest=size(finding.smallest_effect, metric),
        shown=shown,
    )


def plus_minus(finding: Finding, metric: str) -> str:
    """Write the mean and its interval in one short cell; `-` if there is no mean."""
    mean = difference(finding.mean, metric)
    if finding.mean is None or not between(finding.interval, metric):
        return mean
    low, high = finding.interval or (0.0, 0.0)
    half = (high - low) / 2
    if abs((high + low) / 2 - finding.mean) > 0.01 * half:
        return f"{mean} ({between(finding.interval, metric)})"
    return f"{mean} ± {size(half, metric)}"


def _better(finding: Finding) -> str:
    """Write with how many of the seeds it was better, `4 of 5`; `-` if there is none yet."""
    differences = finding.differences.values()
    return f"{sum(d > 0 for d in differences)} of {len(differences)}" if differences else "-"


def ranked(findings: Findings) -> list[Finding]:
    """Order effects: the best first, those of one factor together, those without a mean last.

    The effects of one factor keep the plan's order, as values of a setting should. Where there are
    more effects than are drawn, each stands by its own mean. Steps stay as they were taken.
    """
    effects = findings.effects
    if findings.plan.question.design == "cumulative":
        return list(effects)
    best: dict[tuple[str, ...], float] = {}
    for finding in effects:
        group = finding.contrast.factors
        best[group] = max(best.get(group, -math.inf), _mean(finding))
    if len(effects) > SHOWN:
        return sorted(effects, key=_mean, reverse=True)
    order = sorted(best, key=lambda group: -best[group])
    return sorted(effects, key=lambda f: order.index(f.contrast.factors))


def largest(found: Sequence[Finding], most: int = SHOWN) -> list[Finding]:
    """Give back the findings of the largest differences, in the order in which they came."""
    if len(found) <= most:
        return list(found)
    order = sorted(range(len(found)), key=lambda i: -abs(found[i].mean or 0.0))
    return [found[i] for i in sorted(order[:most])]


def _mean(finding: Finding) -> float:
    return -math.inf if finding.mean is None else finding.mean
