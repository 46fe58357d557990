"""The command `python -m runner.report DIR [DIR ...]`: what the runs below these folders came to.

A table of mean and spread over the seeds of each variant, and a picture of their curves; from the
files alone, also while a sweep still runs. Nothing found there is executed.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.files import read_json
from runner.log import read_metrics

MEASURES = {
    "test/accuracy": ("test accuracy %", 100.0, 2),
    "test/loss": ("test loss", 1.0, 4),
    "test/shift_consistency": ("consistency %", 100.0, 2),
}
"""For each column its heading, its scale and its decimals."""

CURVES = {"train/loss": "training loss", "validation/accuracy": "validation accuracy"}


@dataclass(frozen=True)
class Run:
    """The files of one run."""

    folder: Path
    variant: str
    seed: str
    status: dict[str, Any]
    result: dict[str, Any] | None
    metrics: list[dict[str, Any]]


def find_runs(folder: Path) -> Iterator[Run]:
    """Find the runs in a folder, by their status files."""
    for path in sorted(folder.rglob("status.json")):
        place = path.parent
        variant = os.path.relpath(place.parent, folder)
        yield Run(
            place,
            place.parent.name if variant in (".", "..") else variant,
            place.name.partition("=")[2],
            read_json(path) or {},
            read_json(place / "result.json"),
            read_metrics(place),
        )


def table(runs: Iterable[Run]) -> list[str]:
    """Write the table, a line for each variant: the baseline first, the others as they score."""
    rows = [_row(variant, group) for variant, group in _by_variant(runs).items()]
    heads = ["variant", "runs", *(head for head, _, _ in MEASURES.values()), "seconds", ""]
    return aligned([heads, *rows], left=(0, len(heads) - 1))


def aligned(rows: Sequence[Sequence[str]], left: Container[int]) -> list[str]:
    """Write rows of cells as lines in columns, the first row as a heading.

    Args:
        rows: The cells of each row.
        left: The columns that begin, and do not end, at the same place.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _row(variant: str, runs: Sequence[Run]) -> list[str]:
    done = [run.result for run in runs if run.result]
    cells = [variant, str(len(done))]
    for key, (_, scale, decimals) in MEASURES.items():
        cells.append(_mean_and_spread([scale * result[key] for result in done], decimals))
    seconds = [run.status.get("seconds", 0.0) for run in runs if run.result]
    return [*cells, _mean_and_spread(seconds, 1), _remarks(runs)]


def _mean_and_spread(values: Sequence[float], decimals: int) -> str:
    """Write the mean and the sample standard deviation, which takes two values."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{decimals}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{decimals}f}"


def _remarks(runs: Sequence[Run]) -> str:
    """Say what went wrong, and which tricks changed nothing."""
    states = [run.status.get("status", "?") for run in runs if not run.result]
    words = [f"{states.count(state)} {state}" for state in sorted(set(states))]
    idle = [name for run in runs if run.result for name in run.result["inactive"]]
    words += [f"{name} inactive in {idle.count(name)}" for name in sorted(set(idle))]
    return ", ".join(words)


def _by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)

    def rank(variant: str) -> tuple[bool, float]:
        scores = [run.result["test/accuracy"] for run in groups[variant] if run.result]
        return not _is_baseline(variant), -statistics.mean(scores or [0.0])

    return {variant: groups[variant] for variant in sorted(groups, key=rank)}


def _is_baseline(variant: str) -> bool:
    return variant.rpartition("/")[2].startswith("baseline")


def draw(runs: Iterable[Run], file: Path) -> None:
    """Draw the curves of the variants: the mean over the seeds, and a band from least to most."""
    from matplotlib.figure import Figure

    groups = _by_variant(runs)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(CURVES))
    for axis, (key, title) in zip(axes, CURVES.items(), strict=True):
        colors = iter([f"C{number}" for number in range(10)] * len(groups))
        for variant, group in groups.items():
            color = "black" if _is_baseline(variant) else next(colors)
            points = _points(group, key)
            if not points:
                continue
            epochs = sorted(points)
            axis.plot(
                epochs,
                [statistics.mean(points[e]) for e in epochs],
                color=color,
                label=variant,
                marker=".",
            )
            low, high = ([pick(points[e]) for e in epochs] for pick in (min, max))
            axis.fill_between(epochs, low, high, color=color, alpha=0.12, linewidth=0)
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", frameon=False)
    figure.savefig(file, dpi=120)


def _points(runs: Iterable[Run], key: str) -> dict[int, list[float]]:
    """Gather a number of the evaluations over the seeds, by epoch."""
    points: dict[int, list[float]] = {}
    for run in runs:
        for line in run.metrics:
            if line.get(key) is not None:
                points.setdefault(line["epoch"], []).append(line[key])
    return points


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of each folder, and draw its curves into it."""
    parser = argparse.ArgumentParser(prog="python -m runner.report", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="outputs/NAME, or a part"
    )
    for folder in parser.parse_args(arguments).folders:
        runs = list(find_runs(folder))
        if not runs:
            sys.exit(f"{folder} must hold runs, got none. Give a folder that a run wrote into.")
        print("\n".join(["", str(folder), *table(runs)]))
        draw(runs, folder / "curves.png")
        print(f"\nThe curves: {folder / 'curves.png'}")
        print(f"To compare them in TensorBoard: tensorboard --logdir {folder}")


if __name__ == "__main__":
    main()
