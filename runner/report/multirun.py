"""A folder of runs without a plan: mean and spread of each setting, and no verdict."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.ablation.find import names_of
from runner.ablation.table import find_damage
from runner.report import as_json, html, markdown, sentences, text
from runner.report.curves import curves
from runner.report.format import SHOWN
from runner.store.parameters import (
    MACHINE,
    Settings,
    cell,
    differing,
    heading,
    parameters,
    short_headings,
)
from runner.store.runs import Run
from runner.texts import printable

if TYPE_CHECKING:
    import pandas as pd

VALIDATION, TEST = "validation/accuracy", "test/accuracy"
MEASURES = {
    VALIDATION: ("validation %", 100.0, 2),
    TEST: ("test %", 100.0, 2),
    "test/loss": ("test loss", 1.0, 4),
    "test/shift_consistency": ("consistency %", 100.0, 2),
    "seconds": ("seconds", 1.0, 1),
}
"""For each column its head, its scale and its decimals; a narrow terminal lacks the last ones."""

SPREAD = (
    "Mean ± sample standard deviation over the seeds that are done: the spread of single runs, no "
    "interval of the mean."
)
NO_VERDICTS = (
    "This is a plain sweep: it is listed, not judged. For verdicts (HELPS, HURTS) use an ablation: "
    "python -m runner ablation=one_at_a_time tricks=core"
)
MOST_COLUMNS = 4  # of settings; beyond, a row has its variant's name


@dataclass(frozen=True)
class Row:
    """The runs of one setting, which differ in their seeds."""

    name: str
    """The variant; of a variant with several settings also what sets this one apart."""
    label: str
    """The same in short: without what all variants have."""
    runs: Sequence[Run]
    settings: Settings
    """Of one of its runs; {} if none is known."""


@dataclass(frozen=True)
class Multirun:
    """Runs of a folder, without a plan."""

    root: Path
    runs: Sequence[Run]

    @cached_property
    def name(self) -> str:
        """What the folder is called."""
        return names_of([self.root])[self.root]

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
    def rows(self) -> list[Row]:
        """The settings: baseline, then the best."""
        means = self.summary[self.ranked_by, "mean"].fillna(float("-inf"))
        return sorted(self._rows, key=lambda row: (not _is_baseline(row), -means[row.name]))

    @cached_property
    def _rows(self) -> list[Row]:
        return _group(self.runs)

    @cached_property
    def summary(self) -> "pd.DataFrame":
        """`mean`, `std` and `count` of each measure by the rows' names, over the runs done."""
        from runner.frames import Found, run_frame  # pandas takes half a second

        pairs = [(row.name, run) for row in self._rows for run in row.runs]
        frame = run_frame(Found("", run, {}, {}) for _, run in pairs)
        numbers = frame.reindex(columns=list(MEASURES)).astype(float)
        done = numbers.where(frame["state"] == "done")
        return done.groupby([name for name, _ in pairs], sort=False).agg(["mean", "std", "count"])

    @property
    def ranked_by(self) -> str:
        """The measure that the best is chosen by: of the test set only if there is no other."""
        return VALIDATION if self.summary[VALIDATION, "count"].any() else TEST

    @cached_property
    def columns(self) -> list[str]:
        """The keys in which the rows differ, if they tell all rows apart; else none."""
        found = differing([row.settings for row in self.rows])
        texts = {(_place(row), *(cell(key, row.settings) for key in found)) for row in self.rows}
        known = all(row.settings for row in self.rows) and len(texts) == len(self.rows)
        return found if known and len(found) <= MOST_COLUMNS else []

    @cached_property
    def shared(self) -> list[str]:
        """The settings that every variant has in its name."""
        return _shared([row.name for row in self.rows])


def _group(runs: Sequence[Run]) -> list[Row]:
    """Group runs by variant and by setting, since a name that was given may hide several."""
    groups: dict[str, dict[str, tuple[dict[str, Any], list[Run]]]] = {}
    for run in runs:
        settings = parameters(run.config)
        compared = {key: value for key, value in settings.items() if key not in MACHINE}
        key = json.dumps(compared, sort_keys=True) if settings else ""
        groups.setdefault(run.variant, {}).setdefault(key, (settings, []))[1].append(run)
    found: list[tuple[str, str, Sequence[Run], Settings]] = []
    for variant, parts in groups.items():
        if len(parts) == 2 and "" in parts:  # of a run whose config cannot be read
            (_, lost), (settings, kept) = parts.pop(""), *parts.values()
            kept += lost
        keys = differing([settings for settings, _ in parts.values()])
        for settings, some in parts.values():
            told = [f"{heading(key)}={cell(key, settings)}" for key in keys if key in settings]
            apart = f" ({', '.join(told) or 'unknown settings'})" if len(parts) > 1 else ""
            found.append((variant, apart, some, settings))
    shared = _shared([variant for variant, *_ in found])
    return [
        Row(variant + apart, _without(variant, shared) + apart, some, settings)
        for variant, apart, some, settings in found
    ]


def _shared(names: Sequence[str]) -> list[str]:
    """Give back the settings that every one of several names has."""
    words = [name.rpartition("/")[2].split("+") for name in {*names}]
    first = words[0] if len(words) > 1 else []
    return [word for word in first if "=" in word and all(word in other[1:] for other in words)]


def _without(name: str, words: Sequence[str]) -> str:
    place, slash, last = name.rpartition("/")
    return place + slash + "+".join(word for word in last.split("+") if word not in words)


def _place(row: Row) -> str:
    """The folder above the variant's, where the runs of several are listed together."""
    return row.name.rpartition("/")[0]


def _is_baseline(row: Row) -> bool:
    return row.label.rpartition("/")[2] == "baseline"


def measures(multirun: Multirun) -> list[str]:
    """Give back what is listed: there may be no validation split."""
    return [m for m in MEASURES if m != VALIDATION or multirun.ranked_by == VALIDATION]


def numbers(multirun: Multirun, row: Row, measure: str) -> str:
    """Write a mean and its spread; one run has no spread."""
    _, scale, decimals = MEASURES[measure]
    mean, spread, count = multirun.summary.loc[row.name, measure]
    texts = [f"{scale * number:.{decimals}f}" for number in (mean, spread)]
    return " ± ".join(texts[: int(count)]) or "-"


def score_table(multirun: Multirun) -> list[list[str]]:
    """Give back the heads, and a row for each setting."""
    columns, shown, places = multirun.columns, measures(multirun), any(map(_place, multirun.rows))
    rows = []
    for row in multirun.rows:
        cells = [cell(key, row.settings) for key in columns]
        told = [*([printable(_place(row))] if places else []), *cells] if cells else []
        done = str(sum(run.result is not None for run in row.runs))
        scores = [numbers(multirun, row, measure) for measure in shown]
        rows.append([*(told or [printable(row.label)]), done, *scores, _remarks(row.runs)])
    named = [*(["name"] if places else []), *short_headings(columns)] if columns else ["variant"]
    return [[*named, "runs", *(MEASURES[measure][0] for measure in shown), ""], *rows]


def _remarks(runs: Sequence[Run]) -> str:
    """Say what failed, and which tricks changed nothing."""
    states = Counter(printable(run.state, 20) for run in runs if run.result is None)
    remarks = [f"{states[state]} {state}" for state in sorted(states)]
    idle: Counter[str] = Counter()
    for run in runs:
        names = (run.result or {}).get("inactive")
        idle.update(printable(name, 40) for name in (names if isinstance(names, list) else ()))
    remarks += [f"{name} inactive in {idle[name]}" for name in sorted(idle)]
    return ", ".join(remarks)


def called(multirun: Multirun, row: Row) -> str:
    """Write a setting in a sentence."""
    if not multirun.columns:
        return printable(row.label)
    names = short_headings(multirun.columns)
    cells = [cell(key, row.settings) for key in multirun.columns]
    told = [f"{name}={text}" for name, text in zip(names, cells, strict=True) if text]
    return ", ".join([*([printable(_place(row))] if _place(row) else []), *told])


def best(multirun: Multirun) -> str | None:
    """Say which setting is the best, and where it lies; None if there is nothing to choose from."""
    measure, rows = multirun.ranked_by, multirun.rows
    means = multirun.summary[measure, "mean"]
    known = [row for row in rows if means[row.name] == means[row.name]]
    if len(known) < 2:
        return None
    first = max(known, key=lambda row: means[row.name])
    ties = sum(means[row.name] == means[first.name] for row in known) - 1
    done = sum(run.result is not None for run in first.runs)
    over = f"{done} of {len(first.runs)} seeds" if done < len(first.runs) else f"{done} seeds"
    words = "validation" if measure == VALIDATION else "test"
    told = f"{numbers(multirun, first, measure)} %, {over if done != 1 else 'one seed'}"
    tested = f"; {numbers(multirun, first, TEST)} % on the test set" if measure != TEST else ""
    same = f" {ties} more {'has' if ties == 1 else 'have'} the same." if ties else ""
    where = sentences.path(first.runs[0].folder.parent)
    return (
        f"Best by {words} accuracy: {called(multirun, first)} ({told}{tested}), in {where}.{same}"
    )


def remarks(multirun: Multirun) -> Iterator[str]:
    """Say how to read the table."""
    if multirun.shared and len(multirun.rows) > 1:
        yield f"All: {printable(', '.join(multirun.shared))}."
    yield SPREAD
    if multirun.ranked_by == VALIDATION:
        yield "After the baseline, the best by validation accuracy come first."
    else:
        yield (
            "There is no validation accuracy, so the order is by test accuracy. A setting chosen "
            "by the test set looks better there than it is: choose with data.validation > 0."
        )
    seeds = {
        row.name: tuple(sorted(run.seed for run in row.runs if run.result is not None))
        for row in multirun.rows
    }
    if len({*seeds.values()} - {()}) > 1:
        yield "The rows are not means over the same seeds: some have more of them, or others."


def table(multirun: Multirun) -> list[str]:
    """Write the table for the terminal, and why there are no verdicts."""
    (*heads, _), *rows = score_table(multirun)
    names = len(heads) - len(measures(multirun)) - 1
    kept = text.fitting(heads, rows, range(names), droppable=range(len(heads) - 1, names + 2, -1))
    cells = [[row[column] for column in kept] for row in rows]
    right = range(names, len(kept))
    shown = text.table([heads[column] for column in kept], cells, range(names), right)
    hidden = [head for column, head in enumerate(heads) if column not in kept]
    pairs = zip(multirun.rows, rows, strict=True)
    notes = [f"{called(multirun, row)}: {remark}" for row, (*_, remark) in pairs if remark]
    said = [*text.problem_lines(multirun.runs), *text.note_lines([*notes, *multirun.warnings])]
    narrow = f"The terminal is too narrow for: {', '.join(hidden)}." if hidden else None
    last = [best(multirun), narrow, *remarks(multirun), NO_VERDICTS]
    return text.lines(shown, "", *said, *(line for line in last if line))


def page(multirun: Multirun) -> str:
    """Write the HTML page."""
    rows = multirun.rows
    drawn = {called(multirun, row): row.runs for row in rows[: SHOWN + 1]}
    more = f"The first {len(drawn)} variants are drawn." if len(rows) > len(drawn) else None
    first = called(multirun, rows[0])
    pictures = curves(drawn, first if _is_baseline(rows[0]) else "")
    notes = [line for line in (best(multirun),) if line]
    return html.render(
        title=printable(multirun.name),
        sentence=" ".join(remarks(multirun)),
        scores=score_table(multirun),
        folders=[
            [called(multirun, row), sentences.path(row.runs[0].folder.parent)] for row in rows
        ],
        warnings=[*notes, *multirun.warnings[:SHOWN], NO_VERDICTS],
        curves=[picture.svg() for picture in pictures],
        curves_more=more,
        **html.problem_list(multirun.runs),
        environment=html.environment_table(multirun.runs),
        commands=sentences.commands(multirun.root, None, multirun.runs[0]),
    )


def markdown_page(multirun: Multirun) -> str:
    """Write the Markdown."""
    heads, *body = score_table(multirun)
    told = [*remarks(multirun), NO_VERDICTS, best(multirun)]
    lines = [f"## {markdown.escape(multirun.name)}"]
    for line in told:
        lines += ["", markdown.begin(line)] if line else []
    lines += ["", *markdown.table([head or "remarks" for head in heads], body)]
    lines += markdown.remarks(multirun.runs, multirun.warnings)
    return "\n".join(lines) + "\n"


def content(multirun: Multirun) -> dict[str, Any]:
    """Give back the content of report.json."""
    table = multirun.summary.rename(columns={"std": "spread", "count": "runs"})
    variants = {
        row.name: {measure: table.loc[row.name, measure].to_dict() for measure in MEASURES}
        for row in multirun.rows
    }
    return {
        "kind": "multirun",
        "note": NO_VERDICTS,
        "ranked_by": multirun.ranked_by,
        "warnings": multirun.warnings,
        "variants": as_json.plain(variants),
        "settings": as_json.plain({row.name: row.settings for row in multirun.rows}),
        "runs": as_json.run_list(multirun.root, multirun.runs),
    }
