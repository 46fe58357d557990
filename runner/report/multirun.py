"""A folder of runs without a plan: mean and spread of each setting, and no verdict."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.ablation.find import names_of
from runner.ablation.table import find_damage
from runner.report import as_json, html, markdown, sentences, text, where
from runner.report.curves import curves
from runner.report.folds import over_folds
from runner.report.format import SHOWN, count
from runner.report.rows import Row, group, shared_words
from runner.report.where import Where
from runner.store.parameters import cell, differing, short_headings
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
        """The settings, those of a sweep together: baseline, then the best.

        Runs that failed before their config was written are listed with why, and have no row.
        """
        means = self.summary[self.ranked_by, "mean"].fillna(float("-inf"))
        known = [row for row in self._rows if row.settings] or self._rows
        return sorted(known, key=lambda r: (r.place, not r.is_baseline, -means[r.name]))

    @cached_property
    def _rows(self) -> list[Row]:
        return group(self.runs)

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
    def columns(self) -> dict[str, str]:
        """The keys in which the rows differ, with their heads; none if two rows look alike."""
        found = differing([row.settings for row in self.rows])
        texts = {(row.place, *(cell(key, row.settings) for key in found)) for row in self.rows}
        known = all(row.settings for row in self.rows) and len(texts) == len(self.rows)
        kept = found if known and len(found) <= MOST_COLUMNS else []
        return dict(zip(kept, short_headings(kept), strict=True))

    @cached_property
    def shared(self) -> dict[str, list[str]]:
        """For each sweep the settings that all its variants have in their names."""
        return shared_words(run.variant for run in self.runs)


def measures(multirun: Multirun) -> list[str]:
    """Give back what is listed: there may be no validation split."""
    return [m for m in MEASURES if m != VALIDATION or multirun.ranked_by == VALIDATION]


def numbers(multirun: Multirun, row: Row, measure: str) -> str:
    """Write a mean and its spread; one run has no spread."""
    _, scale, decimals = MEASURES[measure]
    mean, spread, known = multirun.summary.loc[row.name, measure]
    texts = [f"{scale * number:.{decimals}f}" for number in (mean, spread)]
    return " ± ".join(texts[: int(known)]) or "-"


def score_table(multirun: Multirun) -> list[list[str]]:
    """Give back the heads, and a row for each setting."""
    columns, shown = multirun.columns, measures(multirun)
    places = any(row.place for row in multirun.rows)
    rows = []
    for row in multirun.rows:
        names = [printable(row.label)]
        if columns:
            names = [printable(row.place)] * places + [cell(key, row.settings) for key in columns]
        done = str(sum(run.result is not None for run in row.runs))
        scores = [numbers(multirun, row, measure) for measure in shown]
        rows.append([*names, done, *scores, _remarks(row.runs)])
    heads = ["name"] * places + [*columns.values()] if columns else ["variant"]
    return [[*heads, "runs", *(MEASURES[measure][0] for measure in shown), ""], *rows]


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


def called(multirun: Multirun, row: Row) -> str:
    """Write a setting in a sentence."""
    if not multirun.columns:
        return printable(row.label)
    cells = ((head, cell(key, row.settings)) for key, head in multirun.columns.items())
    named = [f"{head}={text}" for head, text in cells if text]
    return ", ".join([printable(row.place), *named] if row.place else named)


def best(multirun: Multirun) -> list[str]:
    """Say of each sweep which setting is the best, and where it lies; of folds their mean."""
    if folds := over_folds(multirun.rows, multirun.summary[TEST, "mean"].to_dict()):
        return folds
    places = dict.fromkeys(row.place for row in multirun.rows)
    found = (_best(multirun, [row for row in multirun.rows if row.place == p]) for p in places)
    return [line for line in found if line]


def _best(multirun: Multirun, rows: Sequence[Row]) -> str | None:
    measure, means = multirun.ranked_by, multirun.summary[multirun.ranked_by, "mean"]
    known = [row for row in rows if means[row.name] == means[row.name]]
    if len(known) < 2:
        return None
    first = max(known, key=lambda row: means[row.name])
    ties = sum(means[row.name] == means[first.name] for row in known) - 1
    done = sum(run.result is not None for run in first.runs)
    seeds = f"{done} of {len(first.runs)} seeds" if done < len(first.runs) else count(done, "seed")
    tested = f"; {numbers(multirun, first, TEST)} % on the test set" if measure != TEST else ""
    same = f" {ties} more {'has' if ties == 1 else 'have'} the same." if ties else ""
    return (
        f"Best by {measure.partition('/')[0]} accuracy: {called(multirun, first)} "
        f"({numbers(multirun, first, measure)} %, {seeds}{tested}), in "
        f"{sentences.path(first.runs[0].folder.parent)}.{same}"
    )


def remarks(multirun: Multirun) -> Iterator[str]:
    """Say how to read the table."""
    for place, words in multirun.shared.items():
        if words:
            which = f"All of {place}" if place else "All"
            yield printable(f"{which}: {', '.join(words)}.")
    if len(multirun.runs) > 1:
        yield SPREAD
    if len(multirun.rows) < 2:
        return
    if multirun.ranked_by == VALIDATION:
        yield "After the baseline, the best by validation accuracy come first."
    else:
        yield (
            "There is no validation accuracy, so the order is by test accuracy. A setting chosen "
            "by the test set looks better there than it is: choose with data.validation > 0."
        )
    seeds: dict[str, set[tuple[str, ...]]] = {}
    for row in multirun.rows:
        if done := tuple(sorted(run.seed for run in row.runs if run.result is not None)):
            seeds.setdefault(row.place, set()).add(done)
    if any(len(several) > 1 for several in seeds.values()):
        yield "Some rows are means over other seeds than others: compare those with care."


def no_verdicts(multirun: Multirun) -> list[str]:
    """Say that a sweep is not judged; of a single run nobody thinks so."""
    return [NO_VERDICTS] if len(multirun.runs) > 1 else []


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
    below = [*text.problem_lines(multirun.runs), *text.note_lines([*notes, *multirun.warnings])]
    narrow = f"The terminal is too narrow for: {', '.join(hidden)}." if hidden else None
    last = [*best(multirun), narrow, *remarks(multirun), *no_verdicts(multirun)]
    if len(multirun.runs) == 1 and (errs := [*where.terminal_lines(where_it_errs(multirun))]):
        below += [*errs, ""]
    return text.lines(shown, "", *below, *(line for line in last if line))


def where_it_errs(multirun: Multirun) -> Where:
    """Read the answers of the first rows."""
    return where.of_groups({called(multirun, row): row.runs for row in multirun.rows})


def page(multirun: Multirun, errs: Where | None = None) -> str:
    """Write the HTML page."""
    rows = multirun.rows
    drawn = {called(multirun, row): row.runs for row in rows[: SHOWN + 1]}
    more = f"The first {len(drawn)} variants are drawn." if len(rows) > len(drawn) else None
    first = called(multirun, rows[0])
    pictures = curves(drawn, first if rows[0].is_baseline else "")
    return html.render(
        title=printable(multirun.name),
        sentence=" ".join(remarks(multirun)),
        scores=score_table(multirun),
        folders=[
            [called(multirun, row), sentences.path(row.runs[0].folder.parent)] for row in rows
        ],
        warnings=[*best(multirun), *multirun.warnings[:SHOWN], *no_verdicts(multirun)],
        curves=[picture.svg() for picture in pictures],
        curves_more=more,
        **html.errs(errs),
        **html.problem_list(multirun.runs),
        environment=html.environment_table(multirun.runs),
        commands=html.commands(multirun.root, None, multirun.runs),
    )


def markdown_page(multirun: Multirun, errs: Where | None = None) -> str:
    """Write the Markdown."""
    heads, *body = score_table(multirun)
    lines = [f"## {markdown.escape(multirun.name)}"]
    for line in (*best(multirun), *remarks(multirun), *no_verdicts(multirun)):
        lines += ["", markdown.begin(line)]
    lines += ["", *markdown.table([head or "remarks" for head in heads], body)]
    lines += markdown.where_it_errs(errs)
    lines += markdown.remarks(multirun.runs, multirun.warnings)
    return "\n".join(lines) + "\n"


def content(multirun: Multirun, errs: Where | None = None) -> dict[str, Any]:
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
        "per_class": where.per_class(errs) if errs else {},
        "settings": as_json.plain({row.name: row.settings for row in multirun.rows}),
        "runs": as_json.run_list(multirun.root, multirun.runs),
    }
