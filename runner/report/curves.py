"""The learning curves: of each variant the mean over its seeds, in a band from least to most."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.report import format as fmt
from runner.report.drawing import Colors, Picture
from runner.store.runs import Run, evaluations, number
from runner.texts import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = {"train/loss": "training loss", "validation/accuracy": "validation accuracy, %"}

TOGETHER = 6  # variants in one picture, beside the reference

Points = Mapping[float, Sequence[float]]
"""For each epoch the numbers of the seeds."""

STYLES = (
    ("c1", "-", "o"),
    ("c2", "--", "s"),
    ("c3", "-.", "^"),
    ("c4", (0, (1, 1)), "D"),
    ("c5", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("c6", (0, (6, 2)), "X"),
)


def curves(
    groups: Mapping[str, Sequence[Run]], reference: str, setting: str = "", place: int = 0
) -> list[Picture]:
    """Draw the curves, a few variants in each picture and the reference, if it has runs, in all.

    Args:
        groups: The runs of each variant.
        reference: The variant that the others are seen against.
        setting: Where they are, if there are several settings.
        place: Its number among them.

    Returns:
        The pictures of the training loss, then those of the accuracy; none without evaluations.
    """
    figures = []
    for measure, title in MEASURES.items():
        title = f"{title}, {printable(setting, 60)}" if setting else title
        points = {name: _points(runs, measure) for name, runs in groups.items()}
        points = {name: found for name, found in points.items() if found}
        others = [name for name in points if name != reference]
        pictures = -(-len(others) // TOGETHER) or bool(points)
        limits = _limits(points.values(), measure)
        for index in range(pictures):
            part = f"{title} ({index + 1} of {pictures}, same axes)" if pictures > 1 else title
            size = -(-len(others) // pictures)
            shown = (reference, *others[index * size : (index + 1) * size])
            some = {name: points[name] for name in shown if name in points}
            key = f"curves-{measure.partition('/')[0]}-{index}" + (f"-{place}" if place else "")
            figures.append(_picture(some, reference, part, key, limits))
    return figures


def _points(runs: Iterable[Run], measure: str) -> Points:
    """Gather a number of the evaluations over the seeds, by epoch.

    Of the seeds that are done, if any is, at the epochs that all of them have: a mean over other
    seeds at each epoch would be the curve of none.
    """
    runs = list(runs)
    done = [run for run in runs if run.state == "done"]
    curves: list[dict[float, float]] = []
    for run in done or runs:
        found = ((number(e.get("epoch")), number(e.get(measure))) for e in evaluations(run))
        curve = {e: v * fmt.scale(measure) for e, v in found if e is not None and v is not None}
        curves += [curve] if curve else []
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    return {epoch: [curve[epoch] for curve in curves] for epoch in shared}


class Limits(NamedTuple):
    """The axes that all pictures of a measure share."""

    low: float
    high: float
    powers: bool
    """Whether in powers of ten."""
    last: float
    """The last epoch."""


def _limits(points: Iterable[Points], measure: str) -> Limits:
    """Find the axes that all pictures share."""
    pairs = [(e, value) for found in points for e, seeds in found.items() for value in seeds]
    if not pairs:
        return Limits(0.0, 1.0, False, 1.0)
    last = max(epoch for epoch, _ in pairs)
    if measure == "validation/accuracy":  # the steep beginning would flatten all the rest
        pairs = [pair for pair in pairs if pair[0] > 0.25 * last] or pairs
    low, high = min(v for _, v in pairs), max(v for _, v in pairs)
    if measure == "train/loss" and 0 < low < high / 3:
        return Limits(low / 1.2, high * 1.2, True, last)
    gap = 0.04 * (high - low) or 0.5
    return Limits(low - gap, high + gap, False, last)


def _picture(
    points: Mapping[str, Points],
    reference: str,
    title: str,
    key: str,
    limits: Limits,
) -> Picture:
    def paint(figure: "Figure", colors: Colors) -> None:
        from matplotlib.ticker import LogLocator, MaxNLocator

        axis = figure.subplots()
        if limits.powers:
            axis.set_yscale("log", subs=[])
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_ylim(limits.low, limits.high)
        axis.set_xlim(0, max(2.0, limits.last * 1.03))
        styles = cycle(STYLES)
        for name, found in points.items():
            _curve(axis, colors, name, found, None if name == reference else next(styles))
        axis.set_xlabel("epoch")
        axis.set_title(title, fontsize=9, loc="left")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside lower left", fontsize=8, handlelength=3.2)

    return Picture(f"Learning curves: {title}", key, 2.5 + 0.17 * len(points), paint)


def _curve(
    axis: "Axes", colors: Colors, name: str, points: Points, style: tuple[str, Any, str] | None
) -> None:
    """Draw one variant; the reference is wider, in the colour of text."""
    color, dashes, marker = style or ("reference", "-", "")
    epochs = list(points)
    axis.plot(
        epochs,
        [statistics.fmean(seeds) for seeds in points.values()],
        color=colors[color],
        linestyle=dashes,
        linewidth=1.4 if style else 2.2,
        marker=marker or ("." if len(epochs) == 1 else None),
        markersize=3.5,
        markevery=max(1, len(epochs) // 8),
        label=printable(name, 56).lstrip("_"),  # which would leave it out of the legend
    )
    low, high = ([pick(seeds) for seeds in points.values()] for pick in (min, max))
    axis.fill_between(epochs, low, high, color=colors[color], alpha=0.13, linewidth=0)
