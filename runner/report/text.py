"""Tables and remarks for the terminal, laid out by rich: as wide as it is, plain text in a pipe."""

import io
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.ablation import wording
from runner.ablation.decide import Verdict
from runner.ablation.find import names_of
from runner.ablation.plan import Plan
from runner.ablation.verdicts import Findings
from runner.ablation.wording import EQUAL, is_share, with_unit
from runner.report import across, problems, sentences, tables
from runner.report import format as fmt
from runner.report.noise import noise_in_words
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
WORD = 16  # columns of a word that is not broken
NARROWEST = 30  # columns that a cell may be broken to
NAME = 80  # characters of an effect's name
LISTED = 10  # failed runs, notes, and rows of the tables below the verdicts


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
    kept: Collection[int] | None = None,
) -> Table:
    """Lay out a table.

    Args:
        heads: The head of each column.
        rows: The cells of each row.
        wide: The columns that are broken where there is no room; the others keep their cells whole.
        right: The columns that end at the same place.
        kept: The columns that are laid out, if not all.
    """
    kept = range(len(heads)) if kept is None else kept
    heads = [typeable(head) for head in heads]
    rows = [[typeable(c) if isinstance(c, str) else c for c in row] for row in rows]
    drawn = Table(box=RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    widths, words = _widths(heads, rows, wide)
    needed = _needed(widths, words, kept)
    for n in kept:
        drawn.add_column(
            Text(heads[n]),
            justify="right" if n in right else "left",
            overflow="fold",
            width=None if n in wide else widths[n],
            min_width=words.get(n) if needed <= columns() else None,
        )
    for row in rows:
        drawn.add_row(*(Text(c) if isinstance(c := row[n], str) else c for n in kept))
    return drawn


def _widths(
    heads: Sequence[str], rows: Sequence[Sequence[str | Text]], wide: Collection[int]
) -> tuple[list[int], dict[int, int]]:
    """Measure the cells of each column, and the words of those that can be broken."""
    by_column = [[head, *(str(row[n]) for row in rows)] for n, head in enumerate(heads)]
    words = {
        n: min(WORD, max(cell_len(word) for cell in by_column[n] for word in [*cell.split(), ""]))
        for n in wide
    }
    return [max(map(cell_len, cells)) for cells in by_column], words


def _needed(widths: Sequence[int], words: Mapping[int, int], kept: Collection[int]) -> int:
    """Give the room that some columns need at least."""
    return sum(words.get(n, widths[n]) for n in kept) + 2 * len(kept) - 2


def verdicts(*several: Findings) -> Group:
    """Lay out the verdicts of ablations, with what it takes to read them."""
    known = names_of([f.root for f in several])
    named = [(printable(known[f.root], NAME), f) for f in several]
    parts: list[RenderableType] = [Text(line) for line in _introductions(named)]
    shown = [name if len(several) > 1 else "" for name, _ in named]
    pairs = list(zip(shown, several, strict=True))
    rows = [_cells(row, name) for name, f in pairs for row in fmt.rows(f) if row.shown]
    if rows:
        heads = ["verdict", *(["ablation"] if len(several) > 1 else []), "effect"]
        first = len(heads)
        heads += ["difference", "better", "time", "reason"]
        wide, right = (*range(1, first), first + 3), range(first, first + 3)
        widths, words = _widths(heads, rows, wide)
        unknown = [n for n in right if all(str(row[n]) == "-" for row in rows)]
        kept = [n for n in range(len(heads)) if n == first or n not in unknown]
        for column in (first + 2, first + 1):  # time, then better, where there is no room
            if column in kept and _needed(widths, words, kept) > columns():
                kept.remove(column)
        parts += [Text(), table(heads, rows, wide, right, kept)]
    parts += [part for name, f in pairs for part in _more_tables(f, name)]
    remarks = [line for name, f in pairs for line in _remarks(f, name)]
    return Group(*parts, *([Text(), *remarks] if remarks else []))


def verdict_table(*several: Findings) -> list[str]:
    """Write the verdicts of ablations as lines for the terminal."""
    return lines(verdicts(*several))


def _cells(row: fmt.Row, name: str) -> list[str | Text]:
    verdict = Text(row.verdict.value, STYLES.get(row.verdict, ""))
    effect = printable(row.effect, NAME)
    numbers = [row.plus_minus, row.better, row.time, row.reason]
    return [verdict, *([name] if name else []), effect, *numbers]


def _introductions(named: Sequence[tuple[str, Findings]]) -> Iterator[str]:
    """Say of each ablation what a difference is, and how many runs are done.

    Ablations with the same line share it.
    """
    groups: dict[str, list[str]] = {}
    for name, findings in named:
        question = findings.plan.question
        text = (
            f"difference in {fmt.spaced(question.metric)}"
            + (" in points" if is_share(question.metric) else "")
            + _held_equal(findings.plan)
            + f", + is better{'' if question.goal == 'maximize' else ' (lower)'}; "
            + f"below {with_unit(question.margin, question.metric)} it does not matter; "
            + interval(findings)
        )
        groups.setdefault(text, []).append(name)
    yield from (f"{', '.join(names)}: {text}" for text, names in groups.items())
    several = len(named) > 1
    for name, findings in named:
        if progress := sentences.progress(findings):
            yield f"{name}: {progress}" if several else progress


def _held_equal(plan: Plan) -> str:
    """Say what all variants had the same of; nothing where they differ in epochs, or none knows."""
    at = plan.question.at
    varied = "epochs" not in plan.config or any("epochs" in c for c in plan.changes.values())
    return "" if at == "epochs" and varied else f" at {EQUAL[at]}"


def interval(findings: Findings) -> str:
    """Say what stands after a mean."""
    question = findings.plan.question
    level = f"{100 * (1 - question.alpha):.3g} %"
    if question.until == "decided":
        return f"± is its {level} confidence sequence, which holds at every look"
    if question.looks:
        looks = "both" if len(question.looks) == 2 else f"all {len(question.looks)}"
        return f"± is its {level} interval, which holds at {looks} looks"
    alone = "; a verdict allows for the number of effects, and takes more than 0 outside of it"
    return f"± is its own {level} interval{alone if len(findings.effects) > 1 else ''}"


def _more_tables(findings: Findings, name: str) -> Iterator[RenderableType]:
    """Lay out what lies below the verdicts: several settings, tuning, interactions, shares."""
    if found := across.table(findings, narrow=True):
        yield Text()
        yield from [Text(name)] if name else []
        yield table(found[0], found[1 : LISTED + 1], wide=(0, 1, 4))
        yield Text(across.generality(findings.plan))
    if chosen := tuning(findings.plan):
        yield Text()
        yield from [Text(name)] if name else []
        yield chosen
    for listed in (tables.interactions, tables.shares):
        if found := listed(findings):
            heads, *rows = found
            yield Text()
            yield from [Text(name)] if name else []
            yield table(heads, rows[:LISTED], wide=(0, *range(2, len(heads))), right=(1,))
            if (more := len(rows) - LISTED) > 0:
                yield Text(f"These are the first {LISTED}; report.md has {more:,} more.")


def tuning(plan: Plan) -> Group | None:
    """Lay out what was chosen for each variant; None if nothing was tuned."""
    if not (found := tables.tuning(plan)):
        return None
    heads, *rows = found
    parts: list[RenderableType] = [
        Text(str(wording.tuning(plan))),
        table(heads, rows[:LISTED], wide=(0, 2, 3), right=(1,)),
    ]
    if (more := len(rows) - LISTED) > 0:
        parts.append(Text(f"These are the first {LISTED}; report.md has {more:,} more."))
    return Group(*parts)


def tuning_lines(plan: Plan) -> list[str]:
    """Write what was chosen for each variant as lines for the terminal."""
    return lines(laid_out) if (laid_out := tuning(plan)) else []


def _remarks(findings: Findings, name: str) -> Iterator[Text]:
    """Say what was left out, what failed, and what else a reader must know."""
    found = []
    if (more := len(findings.effects) - fmt.SHOWN) > 0:
        found.append(f"These are the {fmt.SHOWN} largest effects; report.md has {more:,} more.")
    for calibration in findings.calibration:
        found.append(
            f"{calibration.seeds} seeds per side, {calibration.draws:,} simulated ablations: "
            f"{100 * calibration.false:.1f} % found HELPS or HURTS, which is false here; "
            f"{100 * calibration.negligible:.1f} % NEGLIGIBLE, which is true."
        )
    found += [line] if (line := noise_in_words(findings)) else []
    found += [*problem_lines(findings.runs.values()), *note_lines(problems.notes(findings))]
    prefix = f"{name}: " if name else ""
    yield from (Text(prefix + line) for line in found)


def problem_lines(runs: Iterable[Run]) -> list[str]:
    """Name the first runs that failed or are damaged, a line each, and count the others."""
    found = list(problems.problems(runs))
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
