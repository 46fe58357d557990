"""A folder of runs without a plan: mean and spread of each variant, and no verdict."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.ablation.table import find_damage
from runner.report import html, markdown, plain, story, words
from runner.report.curves import curves
from runner.report.rows import SHOWN
from runner.report.text import aligned, note_lines, problem_lines, wrapped
from runner.store.runs import Run

MEASURES = {
    "test/accuracy": ("test accuracy %", 100.0, 2),
    "test/loss": ("test loss", 1.0, 4),
    "test/shift_consistency": ("consistency %", 100.0, 2),
}
"""For each column its heading, its scale and its decimals."""

NO_VERDICTS = (
    "There are no verdicts, for there is no plan: nothing says which variant is the baseline, and "
    "which difference matters. An ablation settles both before its first run, as in "
    "python -m runner ablation=one_at_a_time tricks=core"
)


@dataclass(frozen=True)
class Multirun:
    """Runs of a folder, without a plan."""

    root: Path
    runs: Sequence[Run]

    @cached_property
    def warnings(self) -> list[str]:
        """A line for each damaged file that the run's state does not tell of."""
        return [
            words.printable(f"{run.variant}/{run.folder.name}: {damage}")
            for run in self.runs
            if run.state != "damaged"
            for damage in find_damage(run)
            if damage != run.damage
        ]


def score_table(runs: Iterable[Run]) -> list[list[str]]:
    """Give back the table, a row for each variant: the baseline first, then by score."""
    rows = [_row(variant, group) for variant, group in by_variant(runs).items()]
    heads = ["variant", "runs", *(head for head, _, _ in MEASURES.values()), "seconds", ""]
    return [heads, *rows]


def table(multirun: Multirun) -> list[str]:
    """Write the table for the terminal, and why there are no verdicts."""
    cells = score_table(multirun.runs)
    lines = aligned(cells, left=(0, len(cells[0]) - 1))
    told = [*problem_lines(multirun.runs), *note_lines(multirun.warnings)]
    return [*lines, "", *wrapped([*told, NO_VERDICTS])]


def _row(variant: str, runs: Sequence[Run]) -> list[str]:
    done = [run.result for run in runs if run.result is not None]
    cells = [words.printable(variant), str(len(done))]
    for key, (_, scale, decimals) in MEASURES.items():
        cells.append(_mean_and_spread((result.get(key) for result in done), scale, decimals))
    seconds = (run.status.get("seconds") for run in runs if run.result is not None)
    return [*cells, _mean_and_spread(seconds, 1.0, 1), _remarks(runs)]


def _mean_and_spread(read: Iterable[object], scale: float, decimals: int) -> str:
    """Write the mean and the sample standard deviation, which takes two values."""
    values = [scale * value for value in map(words.number, read) if value is not None]
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{decimals}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{decimals}f}"


def _remarks(runs: Sequence[Run]) -> str:
    """Say what went wrong, and which tricks changed nothing."""
    states = [words.shorten(run.state, 20) for run in runs if run.result is None]
    told = [f"{states.count(state)} {state}" for state in sorted(set(states))]
    idle: list[str] = []
    for run in runs:
        named = (run.result or {}).get("inactive")
        idle += [words.shorten(str(name), 40) for name in named] if isinstance(named, list) else []
    told += [f"{name} inactive in {idle.count(name)}" for name in sorted(set(idle))]
    return ", ".join(told)


def by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group runs by their variant: the baseline first, then the best."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)

    def rank(variant: str) -> tuple[bool, float]:
        read = (words.number((run.result or {}).get("test/accuracy")) for run in groups[variant])
        scores = [score for score in read if score is not None]
        return not _is_baseline(variant), -statistics.fmean(scores or [0.0])

    return {variant: groups[variant] for variant in sorted(groups, key=rank)}


def _is_baseline(variant: str) -> bool:
    return variant.rpartition("/")[2].startswith("baseline")


def page(multirun: Multirun) -> str:
    """Write the HTML page."""
    groups = by_variant(multirun.runs)
    first = next(iter(groups))
    shown = dict(list(groups.items())[: SHOWN + 1])
    more = f" Drawn are the first {len(shown)} variants." if len(groups) > len(shown) else ""
    return html.render(
        title=html.report_folder(multirun.root),
        sentence="Mean and sample standard deviation over the seeds of each variant.",
        scores=score_table(multirun.runs),
        warnings=[*multirun.warnings[:SHOWN], NO_VERDICTS],
        curves=curves(shown, first if _is_baseline(first) else ""),
        curves_note=html.CURVES_NOTE + more,
        **html.problem_list(multirun.runs),
        fingerprints=html.fingerprint_table(multirun.runs),
        commands=story.commands(multirun.root, None, multirun.runs[0]),
    )


def markdown_page(multirun: Multirun) -> str:
    """Write the Markdown."""
    heads, *body = score_table(multirun.runs)
    lines = [f"## {markdown.escape(html.report_folder(multirun.root))}", "", NO_VERDICTS, ""]
    lines += markdown.table([head or "remarks" for head in heads], body)
    lines += markdown.remarks(multirun.runs, multirun.warnings)
    return "\n".join(lines) + "\n"


def content(multirun: Multirun) -> dict[str, Any]:
    """Give back the content of report.json."""
    groups = by_variant(multirun.runs)
    variants = {
        name: {key: _statistics(group, key) for key in MEASURES} for name, group in groups.items()
    }
    return {
        "kind": "multirun",
        "note": NO_VERDICTS,
        "warnings": multirun.warnings,
        "variants": variants,
        "runs": plain.run_list(multirun.root, multirun.runs),
    }


def _statistics(runs: Sequence[Run], key: str) -> dict[str, float | int | None]:
    read = (words.number((run.result or {}).get(key)) for run in runs)
    values = [value for value in read if value is not None]
    return {
        "runs": len(values),
        "mean": statistics.fmean(values) if values else None,
        "spread": statistics.stdev(values) if len(values) > 1 else None,
    }
