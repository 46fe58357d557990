"""The staircase of tricks that are added one after the other: the score after each step."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.ablation.decide import Verdict
from runner.ablation.designs import BASELINE, TOGETHER
from runner.ablation.verdicts import Finding, Findings
from runner.ablation.wording import is_share
from runner.report import format as fmt
from runner.report.drawing import Colors, Picture
from runner.report.format import SHOWN
from runner.report.plots import MARKERS, ROW
from runner.store.runs import number
from runner.texts import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 6.0
"""Scores so many times as far off as is usual are arrows at the edge."""


@dataclass(frozen=True)
class Step:
    """A row of the picture, in the unit that is shown."""

    label: str
    scores: Sequence[float]
    """After the step, of each seed."""
    before: float | None = None
    """The mean score that the step began at; None for the baseline."""
    interval: Sequence[float] = ()
    """That of the difference, moved to where the mean score is."""
    finding: Finding | None = None

    @property
    def mean(self) -> float:
        """The mean score after the step."""
        return statistics.fmean(self.scores)


def staircases(findings: Findings) -> list[Picture]:
    """Draw the staircase of each setting; none of another design, or before any run is done."""
    if findings.plan.question.design != "cumulative":
        return []
    settings = dict.fromkeys(finding.contrast.setting for finding in findings.effects)
    drawn = (_staircase(findings, place, name) for place, name in enumerate(settings))
    return [picture for picture in drawn if picture]


def _staircase(findings: Findings, place: int, setting: str) -> Picture | None:
    steps = _steps(findings, setting)
    if not 2 <= len(steps) <= SHOWN:
        return None
    question = findings.plan.question
    falls, margin = question.goal == "minimize", question.margin * fmt.scale(question.metric)
    low, high = _limits(steps, margin)

    def paint(figure: "Figure", colors: Colors) -> None:
        axis = figure.subplots()
        for row, step in enumerate(steps):
            _draw(axis, colors, row, step, (low, high), margin, falls)
            _label(axis, row, step, question.metric)
        ends = (high, low) if falls else (low, high)
        axis.set_xlim(*ends)
        axis.set_ylim(len(steps) - 0.4, -0.75)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.grid(axis="y", visible=False)
        unit = ", %" if is_share(question.metric) else ""
        axis.set_xlabel(f"worse  ←  {fmt.spaced(question.metric)}{unit}  →  better")
        if setting:
            axis.set_title(printable(setting, 60), fontsize=9, loc="left")

    where = f", {printable(setting, 60)}" if setting else ""
    title = f"The {fmt.spaced(question.metric)} after each step, every seed and the interval{where}"
    return Picture(title, f"staircase-{place}", 0.75 + ROW * len(steps), paint)


def _steps(findings: Findings, setting: str) -> list[Step]:
    """List the baseline, each step, and all together; without those of which no run is done."""
    metric = findings.plan.question.metric
    scores: dict[str, list[float]] = {}
    for (variant, _), run in findings.runs.items():
        if (score := number((run.result or {}).get(metric))) is not None:
            scores.setdefault(variant, []).append(score * fmt.scale(metric))
    steps: list[Step] = []
    for finding in findings.effects:
        if finding.contrast.setting != setting:
            continue
        first, second = (n for n, _ in sorted(finding.contrast.weights.items(), key=lambda w: w[1]))
        if not steps and first in scores:
            steps.append(Step(BASELINE, scores[first]))
        if first in scores and second in scores:
            effect = finding.contrast.effect
            label = effect if effect == TOGETHER else f"+ {effect}"
            before, after = (statistics.fmean(scores[name]) for name in (first, second))
            unit = fmt.scale(metric) * (1 if findings.plan.question.goal == "maximize" else -1)
            off = [unit * (end - (finding.mean or 0.0)) for end in finding.interval or ()]
            interval = [after + end for end in off]
            steps.append(Step(label, scores[second], before, interval, finding))
    return steps


def _limits(steps: Sequence[Step], margin: float) -> tuple[float, float]:
    """Find the ends of the axis: the farthest scores, but for those far beyond all the others."""
    scores = [score for step in steps for score in step.scores]
    centre = statistics.median(scores)
    usual = max(statistics.median(abs(score - centre) for score in scores), margin)
    ends = [*scores, *(end for step in steps for end in step.interval)]
    kept = [end for end in ends if abs(end - centre) <= FAR * usual]
    kept += [step.mean for step in steps]
    low, high = min(kept) - margin / 2, max(kept) + margin / 2
    gap = 0.04 * (high - low) or 0.5
    return low - gap, high + gap


def _draw(
    axis: "Axes",
    colors: Colors,
    row: int,
    step: Step,
    ends: tuple[float, float],
    margin: float,
    falls: bool,
) -> None:
    """Draw a step from the mean before it; its interval is that of the difference, moved there."""
    line, below = row + 0.1, row + 0.32
    muted, (low, high) = colors["muted"], ends
    inside = [score for score in step.scores if low <= score <= high]
    axis.plot(inside, [below] * len(inside), "o", ms=3, color=muted, alpha=0.65, mew=0)
    for end, arrow, beyond in (
        (low, ">" if falls else "<", any(score < low for score in step.scores)),
        (high, "<" if falls else ">", any(score > high for score in step.scores)),
    ):
        if beyond:
            axis.plot([end], [below], arrow, markersize=4, color=muted, clip_on=False)
    if step.finding is None or step.before is None:
        axis.plot([step.mean], [line], "o", markersize=6.5, color=colors["reference"])
        return
    shape, name = MARKERS[step.finding.verdict or Verdict.NONE]
    color = colors[name]
    band = step.before - margin, step.before + margin
    axis.fill_betweenx([row - 0.12, row + 0.42], *band, color=colors["band"], linewidth=0)
    if step.label == TOGETHER:
        axis.axhline(row - 0.5, color=colors["zero"], linewidth=0.6)
    start, dashes = (0.1, ":") if step.label == TOGETHER else (row - 0.9, "-")
    axis.plot([step.before] * 2, [start, row + 0.42], dashes, color=colors["zero"], linewidth=1)
    way = [step.before, step.mean]
    axis.plot(way, [line, line], color=color, linewidth=5, alpha=0.3, solid_capstyle="butt")
    reach = [min(max(end, low), high) for end in step.interval]
    axis.plot(reach, [line] * len(reach), color=color, linewidth=1.8)
    axis.plot([step.mean], [line], shape, markersize=6.5, color=color)


def _label(axis: "Axes", row: int, step: Step, metric: str) -> None:
    """Write a step's name, and on the right the score after it, its difference and its verdict."""
    across = axis.get_yaxis_transform()
    words = f"{step.mean:.2f}" if is_share(metric) else f"{step.mean:.4g}"
    if step.finding is not None:
        few = f" ({step.finding.seeds} seeds)" if step.finding.few else ""
        verdict = step.finding.verdict or Verdict.NONE
        words += f"  ({fmt.difference(step.finding.mean, metric)})  {verdict.value}{few}"
    for x, text, side in ((0.0, printable(step.label, 34), "left"), (1.0, words, "right")):
        axis.text(x, row - 0.3, text, ha=side, va="center", fontsize=8.5, transform=across)
