"""A folder of runs without a plan: mean and spread of each variant, and no verdict."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.ablation.table import find_damage
from runner.report import as_json, html, markdown, sentences, text
from runner.report.curves import curves
from runner.report.format import SHOWN
from runner.store.runs import Run
from runner.texts import printable

if TYPE_CHECKING:
    import pandas as pd

MEASURES = {
    "test/accuracy": ("accuracy %", 100.0, 2),
    "test/loss": ("loss", 1.0, 4),
    "test/shift_consistency": ("consistency %", 100.0, 2),
    "seconds": ("seconds", 1.0, 1),
}
"""For each column its head, its scale and its decimals."""

SPREAD = "Mean ± sample standard deviation over the seeds of each variant, on the test set."
NO_VERDICTS = (
    "This is a plain sweep: it is listed, not judged. For verdicts (HELPS, HURTS) use an ablation: "
    "python -m runner ablation=one_at_a_time tricks=core"
)


@dataclass(frozen=True)
class Multirun:
    """Runs of a folder, without a plan."""

    root: Path
    runs: Sequence[Run]

    @cached_property
    def warnings(self) -> list[str]:
        """A line for each damaged file that does not show in its run's state."""
        return [
            printable(f"{run.variant}/{run.folder.name}: {damage}")
            for run in self.runs
            if run.state != "damaged"
            for damage in find_damage(run)
            if damage != run.damage
        ]

    @cached_property
    def summary(self) -> "pd.DataFrame":
        """`mean`, `std` and `count` of each measure by variant: baseline, then the best."""
        from runner.frames import run_frame  # pandas takes half a second

        frame = run_frame(("", run, {}) for run in self.runs)
        numbers = frame.reindex(columns=list(MEASURES)).astype(float)
        done = numbers.where(frame["state"] == "done")
        table = done.groupby(frame["variant"], sort=False).agg(["mean", "std", "count"])
        means = table["test/accuracy", "mean"].fillna(0.0)
        return table.loc[sorted(table.index, key=lambda v: (not _is_baseline(v), -means[v]))]

    @cached_property
    def groups(self) -> dict[str, list[Run]]:
        """The runs of each variant, in the order of `summary`."""
        groups: dict[str, list[Run]] = {variant: [] for variant in self.summary.index}
        for run in self.runs:
            groups[run.variant].append(run)
        return groups


def _is_baseline(variant: str) -> bool:
    return variant.rpartition("/")[2].startswith("baseline")


def score_table(multirun: Multirun) -> list[list[str]]:
    """Give back the heads, and a row for each variant."""
    rows = []
    for variant, runs in multirun.groups.items():
        cells = [printable(variant), str(sum(run.result is not None for run in runs))]
        for measure, (_, scale, decimals) in MEASURES.items():
            mean, spread, count = multirun.summary.loc[variant, measure]
            texts = [f"{scale * number:.{decimals}f}" for number in (mean, spread)]
            cells.append(" ± ".join(texts[: int(count)]) or "-")  # one run has no spread
        rows.append([*cells, _remarks(runs)])
    return [["variant", "runs", *(head for head, _, _ in MEASURES.values()), ""], *rows]


def _remarks(runs: Sequence[Run]) -> str:
    """Say what failed, and which tricks report that they changed nothing."""
    states = Counter(printable(run.state, 20) for run in runs if run.result is None)
    remarks = [f"{states[state]} {state}" for state in sorted(states)]
    idle: Counter[str] = Counter()
    for run in runs:
        names = (run.result or {}).get("inactive")
        idle.update(printable(name, 40) for name in (names if isinstance(names, list) else ()))
    remarks += [f"{name} by its own count inactive in {idle[name]}" for name in sorted(idle)]
    return ", ".join(remarks)


def table(multirun: Multirun) -> list[str]:
    """Write the table for the terminal, and why there are no verdicts."""
    (*heads, _), *rows = score_table(multirun)
    numbers = [row[:-1] for row in rows]
    shown = text.table(heads, numbers, wide=(0,), right=range(1, len(heads)))
    remarks = [f"{variant}: {remark}" for variant, *_, remark in rows if remark]
    notes = text.note_lines([*remarks, *multirun.warnings])
    return text.lines(shown, "", *text.problem_lines(multirun.runs), *notes, SPREAD, NO_VERDICTS)


def page(multirun: Multirun) -> str:
    """Write the HTML page."""
    groups = multirun.groups
    first = next(iter(groups))
    shown = dict(list(groups.items())[: SHOWN + 1])
    more = f"The first {len(shown)} variants are drawn." if len(groups) > len(shown) else None
    drawn = curves(shown, first if _is_baseline(first) else "")
    return html.render(
        title=printable(multirun.root.resolve().name),
        sentence=SPREAD,
        scores=score_table(multirun),
        warnings=[*multirun.warnings[:SHOWN], NO_VERDICTS],
        curves=[picture.svg() for picture in drawn],
        curves_more=more,
        **html.problem_list(multirun.runs),
        environment=html.environment_table(multirun.runs),
        commands=sentences.commands(multirun.root, None, multirun.runs[0]),
    )


def markdown_page(multirun: Multirun) -> str:
    """Write the Markdown."""
    heads, *body = score_table(multirun)
    title = markdown.escape(multirun.root.resolve().name)
    lines = [f"## {title}", "", SPREAD, "", NO_VERDICTS, ""]
    lines += markdown.table([head or "remarks" for head in heads], body)
    lines += markdown.remarks(multirun.runs, multirun.warnings)
    return "\n".join(lines) + "\n"


def content(multirun: Multirun) -> dict[str, Any]:
    """Give back the content of report.json."""
    table = multirun.summary.rename(columns={"std": "spread", "count": "runs"})
    variants = {
        variant: {measure: table.loc[variant, measure].to_dict() for measure in MEASURES}
        for variant in table.index
    }
    return {
        "kind": "multirun",
        "note": NO_VERDICTS,
        "warnings": multirun.warnings,
        "variants": as_json.plain(variants),
        "runs": as_json.run_list(multirun.root, multirun.runs),
    }
