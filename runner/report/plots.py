"""The pictures of an ablation: the effects with every seed, and their gain against their cost."""

import statistics
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from runner.ablation.decide import Verdict
from runner.ablation.verdicts import Finding, Findings
from runner.report import format as fmt
from runner.report.drawing import Colors, Picture
from runner.report.format import largest, ranked
from runner.texts import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {
    Verdict.HELPS: ("^", "helps"),
    Verdict.HURTS: ("v", "hurts"),
    Verdict.NEGLIGIBLE: ("s", "negligible"),
    Verdict.UNDECIDED: ("o", "undecided"),
    Verdict.INACTIVE: ("d", "inactive"),
    Verdict.BROKEN: ("X", "broken"),
    Verdict.NONE: ("o", "none"),
}
"""For each verdict its shape and its colour, so that neither is needed alone."""

ROW = 0.5  # inches that an effect takes
LABELLED = 14  # points of a scatter that can have their names beside them
FARTHEST = 4  # lines that a name may be off its point


def forest(findings: Findings) -> Picture | None:
    """Draw each effect: every seed's difference, the mean, its interval; None if none has any."""
    metric = findings.plan.question.metric
    effects = [f for f in largest(ranked(findings)) if f.differences or f.interval]
    if not effects:
        return None
    scale = fmt.scale(metric)
    limit = _limit(effects, findings.plan.question.margin) * scale

    def paint(figure: "Figure", colors: Colors) -> None:
        axis = figure.subplots()
        margin = findings.plan.question.margin * scale
        axis.axvspan(-margin, margin, color=colors["band"], linewidth=0)
        axis.axvline(0, color=colors["zero"], linewidth=1)
        for row, finding in enumerate(effects):
            _effect(axis, colors, row, finding, (scale, limit))
            _label(axis, row, finding, metric)
        axis.set_xlim(-limit * 1.05, limit * 1.05)
        axis.set_ylim(len(effects) - 0.4, -0.75)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"worse  ←  difference, {fmt.unit(metric)}  →  better")

    title = f"Difference in {fmt.spaced(metric)} of each effect, every seed and the interval"
    return Picture(title, "forest", 0.55 + ROW * len(effects), paint)


def _limit(effects: Sequence[Finding], margin: float) -> float:
    """Find how far the axis reaches: to the farthest, but for those far beyond all the others."""
    reaches = sorted(_reach(finding) for finding in effects)
    usual = max(statistics.median(reaches), margin)
    return max(1.3 * margin, *(reach for reach in reaches if reach <= 10 * usual)) or 1e-9


def _reach(finding: Finding) -> float:
    ends = [*finding.differences.values(), *(finding.interval or ())]
    return max((abs(end) for end in ends if isfinite(end)), default=0.0)


def _effect(
    axis: "Axes", colors: Colors, row: int, finding: Finding, reach: tuple[float, float]
) -> None:
    """Draw an effect; what lies beyond the axis is an arrow at its edge."""
    scale, limit = reach
    shape, name = MARKERS[finding.verdict or Verdict.NONE]
    line = row + 0.14
    seeds = [d * scale for d in finding.differences.values()]
    inside = [d for d in seeds if abs(d) <= limit]
    muted, below = colors["muted"], line + 0.16
    axis.plot(inside, [below] * len(inside), "o", ms=3, color=muted, alpha=0.65, mew=0)
    for sign, arrow in ((-1, "<"), (1, ">")):
        if any(sign * d > limit for d in seeds):
            axis.plot([sign * limit], [below], arrow, markersize=4, color=muted)
    if finding.interval is not None:
        low, high = (min(max(end * scale, -limit), limit) for end in finding.interval)
        axis.plot([low, high], [line, line], color=colors[name], linewidth=1.8)
    if finding.mean is not None and abs(finding.mean * scale) <= limit:
        axis.plot([finding.mean * scale], [line], shape, markersize=6.5, color=colors[name])


def _label(axis: "Axes", row: int, finding: Finding, metric: str) -> None:
    """Write an effect's name and its verdict above its interval, from edge to edge."""
    verdict = finding.verdict or Verdict.NONE
    across = axis.get_yaxis_transform()
    few = f" ({finding.seeds} seeds)" if finding.few else ""
    text = f"{fmt.difference(finding.mean, metric)}  {verdict.value}{few}"
    name = printable(finding.contrast.name, 44)
    for x, words, side in ((0.0, name, "left"), (1.0, text, "right")):
        axis.text(x, row - 0.3, words, ha=side, va="center", fontsize=8.5, transform=across)


def costs(findings: Findings) -> Picture | None:
    """Draw each effect's gain against its time; None if no time is known."""
    metric = findings.plan.question.metric
    known = (f for f in largest(ranked(findings)) if f.mean is not None)
    effects = [f for f in known if f.time_ratio is not None]
    if not effects:
        return None
    scale = fmt.scale(metric)
    margin = findings.plan.question.margin * scale
    limit = _limit(effects, findings.plan.question.margin) * scale

    def paint(figure: "Figure", colors: Colors) -> None:
        axis = figure.subplots()
        axis.axhspan(-margin, margin, color=colors["band"], linewidth=0)
        axis.axhline(0, color=colors["zero"], linewidth=1)
        axis.axvline(1, color=colors["zero"], linewidth=1)
        points = [
            (f.time_ratio or 1.0, max(-limit, min(limit, (f.mean or 0.0) * scale))) for f in effects
        ]
        for (x, y), finding in zip(points, effects, strict=True):
            shape, name = MARKERS[finding.verdict or Verdict.NONE]
            axis.plot([x], [y], shape, markersize=6.5, color=colors[name])
        xs, ys = [0.98, 1.05, *(x for x, _ in points)], [0.0, *(y for _, y in points)]
        axis.set_xlim(*_padded(min(xs), max(xs), 0.12))
        axis.set_ylim(*_padded(min([*ys, -margin]), max([*ys, margin]), 0.1))
        axis.set_xlabel("training time, as a multiple of that without it")
        axis.set_ylabel(f"difference, {fmt.unit(metric)}")
        _name_points(axis, colors, points, effects)

    return Picture("The gain of each effect against its cost in time", "costs", 3.6, paint)


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    gap = share * (high - low) or 0.1
    return low - gap, high + gap


def _name_points(
    axis: "Axes", colors: Colors, points: Sequence[tuple[float, float]], effects: Sequence[Finding]
) -> None:
    """Write names beside points, on the side with more room, and none over another."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    named = {id(finding) for finding in largest(effects, LABELLED)}
    pairs = zip(points, effects, strict=True)
    chosen = sorted((p for p in pairs if id(p[1]) in named), key=lambda p: -p[0][1])
    line = 0.055 * (high - low)
    heights = _apart([y for (_, y), _ in chosen], line, low, high)
    for ((x, y), finding), height in zip(chosen, heights, strict=True):
        if abs(height - y) > FARTHEST * line:
            continue
        before = x > (left + right) / 2
        gap = (-0.03 if before else 0.03) * (right - left)
        if height != y:
            axis.plot([x, x + 0.8 * gap], [y, height], color=colors["zero"], linewidth=0.6)
        name, side = printable(finding.contrast.name, 30), "right" if before else "left"
        axis.text(x + gap, height, name, ha=side, va="center", fontsize=8)


def _apart(heights: Sequence[float], line: float, low: float, high: float) -> list[float]:
    """Move falling heights so that they are a line apart, and none below the lowest line."""
    placed: list[float] = []
    for height in heights:
        placed.append(min([height, high - line / 2, *(placed[-1:] and [placed[-1] - line])]))
    floor = low + line / 2
    for index in reversed(range(len(placed))):
        placed[index] = max(placed[index], floor)
        floor = placed[index] + line
    return placed
