"""Tables and remarks for the terminal, laid out by rich: as wide as it is, plain text in a pipe."""

import io
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.ablation.decide import Verdict
from runner.ablation.verdicts import Findings
from runner.ablation.wording import is_share, with_unit
from runner.report import format as fmt
from runner.report import sentences
from runner.store.runs import Run
from runner.texts import printable, typeable

STYLES = {
    Verdict.HELPS: "green",
    Verdict.HURTS: "red",
    Verdict.BROKEN: "bright_red",
    Verdict.UNDECIDED: "yellow",
    Verdict.INACTIVE: "yellow",
}
"""The other verdicts keep the terminal's own colour."""

RULE = Box("    \n    \n----\n    \n    \n    \n    \n    \n", ascii=True)
"""Nothing but a line below the heads."""

WIDTH = 100  # columns, where there is no terminal
NARROWEST = 30  # columns that a cell may be broken to
NAME = 80  # characters of an effect's name
LISTED = 10  # failed runs, and notes


def lines(*parts: RenderableType) -> list[str]:
    """Lay out for the terminal; coloured if it is one, and NO_COLOR is not set."""
    sheet = io.StringIO()
    console = Console(
        file=sheet,
        force_terminal=sys.stdout.isatty(),
        width=columns(),
        height=1,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(*parts, sep="\n")
    return [line.rstrip() for line in sheet.getvalue().rstrip("\n").split("\n")]


def columns() -> int:
    """Give back how wide the terminal is; COLUMNS comes first."""
    return shutil.get_terminal_size((WIDTH, 1)).columns


def fitting(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    wide: Collection[int],
    droppable: Iterable[int],
) -> list[int]:
    """Choose the columns of a table that the terminal has room for.

    Args:
        heads: The head of each column.
        rows: The cells of each row; those beyond the heads do not count.
        wide: The columns that can be broken, down to `NARROWEST` each.
        droppable: Those that may be left out, the first one first.
    """
    kept = {
        column: max(map(cell_len, [head, *(row[column] for row in rows)]))
        for column, head in enumerate(heads)
    }
    kept |= {column: min(kept[column], NARROWEST) for column in wide}
    for column in droppable:
        if sum(kept.values()) + 2 * (len(kept) - 1) > columns():
            del kept[column]
    return list(kept)


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    wide: Collection[int],
    right: Collection[int] = (),
) -> Table:
    """Lay out a table.

    Args:
        heads: The head of each column.
        rows: The cells of each row.
        wide: The columns that are broken where there is no room; the others keep their cells whole.
        right: The columns that end at the same place.
    """
    heads = [typeable(head) for head in heads]
    rows = [[typeable(c) if isinstance(c, str) else c for c in row] for row in rows]
    drawn = Table(box=RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for number, head in enumerate(heads):
        cells = [head, *(str(row[number]) for row in rows)]
        drawn.add_column(
            Text(head),
            justify="right" if number in right else "left",
            overflow="fold",
            width=None if number in wide else max(map(cell_len, cells), default=0),
        )
    for row in rows:
        drawn.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return drawn


def verdicts(*several: Findings) -> Group:
    """Lay out the verdicts of ablations, with what it takes to read them.

    Args:
        several: One ablation, or several, which share a table.
    """
    named = len(several) > 1
    parts: list[RenderableType] = [line for f in several for line in _introduction(f)]
    rows = [_cells(f, row, named) for f in several for row in fmt.rows(f) if row.shown]
    if rows:
        heads = ["verdict", *(["ablation"] if named else []), "effect"]
        first = len(heads)
        heads += ["difference", "better", "time", "reason"]
        wide, right = (*range(1, first), first + 3), range(first, first + 3)
        parts += [Text(), table(heads, rows, wide, right)]
    remarks = [line for f in several for line in _remarks(f, named)]
    return Group(*parts, *([Text(), *remarks] if remarks else []))


def verdict_table(*several: Findings) -> list[str]:
    """Write the verdicts of ablations as lines for the terminal."""
    return lines(verdicts(*several))


def _cells(findings: Findings, row: fmt.Row, named: bool) -> list[str | Text]:
    verdict = Text(row.verdict.value, STYLES.get(row.verdict, ""))
    name = [_name(findings)] if named else []
    effect = printable(row.effect, NAME)
    return [verdict, *name, effect, row.plus_minus, row.better, row.time, row.reason]


def _name(findings: Findings) -> str:
    return printable(findings.plan.name, NAME)


def _introduction(findings: Findings) -> list[Text]:
    """Say which ablation it is, what a difference is, and how many runs are done."""
    question = findings.plan.question
    text = (
        f"{_name(findings)}: difference in {fmt.spaced(question.metric)}"
        + (" in points" if is_share(question.metric) else "")
        + f", + is better{'' if question.goal == 'maximize' else ' (lower)'}; "
        + f"below {with_unit(question.margin, question.metric)} it does not matter; "
        + f"± is its {100 * (1 - question.alpha):.3g} % interval"
    )
    progress = sentences.progress(findings)
    return [Text(text), *([Text(progress)] if progress else [])]


def _remarks(findings: Findings, named: bool) -> Iterator[Text]:
    """Say what was left out, what failed, and what else a reader must know."""
    found = []
    if (more := len(findings.effects) - fmt.SHOWN) > 0:
        found.append(f"These are the {fmt.SHOWN} largest effects; report.md has {more:,} more.")
    for calibration in findings.calibration:
        found.append(
            f"{calibration.seeds} seeds per side, {calibration.draws:,} simulated ablations: "
            f"{100 * calibration.false:.1f} % said HELPS or HURTS, which is false here; "
            f"{100 * calibration.negligible:.1f} % NEGLIGIBLE, which is true."
        )
    found += [*problem_lines(findings.runs.values()), *note_lines(sentences.notes(findings))]
    prefix = f"{_name(findings)}: " if named else ""
    yield from (Text(prefix + line) for line in found)


def problem_lines(runs: Iterable[Run]) -> list[str]:
    """Name the first runs that failed or are damaged, a line each, and count the others."""
    found = list(sentences.problems(runs))
    named = [f"{p.state} {p.run}: {printable(p.last, 160)}" for p in found[:LISTED]]
    if (more := len(found) - LISTED) > 0:
        named.append(f"... and {fmt.count(more, 'more run')} that failed or are damaged.")
    return named


def note_lines(notes: Sequence[str]) -> list[str]:
    """Write the first notes, a line each, and count the others."""
    written = [f"Note: {printable(note, 400)}" for note in notes[:LISTED]]
    if (more := len(notes) - LISTED) > 0:
        written.append(f"... and {fmt.count(more, 'more note')}.")
    return written
