"""Tables for the terminal: aligned, within its width, coloured where that is wanted."""

import os
import sys
import textwrap
import unicodedata
from collections.abc import Container, Iterable, Sequence

from runner.ablation.verdicts import Findings, Verdict
from runner.report import story, words
from runner.report.rows import SHOWN, Row, shown_rows
from runner.store.runs import Run

COLORS = {
    Verdict.HELPS: "32",
    Verdict.HURTS: "31",
    Verdict.BROKEN: "31;1",
    Verdict.UNDECIDED: "33",
    Verdict.INACTIVE: "33",
}
"""The terminal's codes; the other verdicts keep its own colour."""

WIDTH = 100  # columns of a usual table
NAME = 34  # of them, the longest name
TOLD = 10  # runs that failed, and notes


def aligned(rows: Sequence[Sequence[str]], left: Container[int]) -> list[str]:
    """Write rows of cells as lines in columns, the first row as a heading.

    Args:
        rows: The cells of each row.
        left: The columns that begin, and do not end, at the same place.
    """
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - _columns(cell))
            cells.append(cell + gap if column in left else gap + cell)
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "-" * max(map(_columns, lines)), *lines[1:]]


def _columns(text: str) -> int:
    """Count the columns that a text takes; Chinese characters, for one, are two wide."""
    return len(text) + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def verdict_table(*several: Findings) -> list[str]:
    """Write the verdicts of ablations as lines for the terminal, with what it takes to read them.

    Args:
        several: One ablation, or more of them, which share a table.
    """
    lines: list[str] = []
    for findings in several:
        lines += _introduction(findings)
    body = [(f, finding_row) for f in several for finding_row in shown_rows(f)[0]]
    if body:
        named = len(several) > 1
        heads = [*(["ablation"] if named else []), "effect", "difference", "better", "time"]
        cells = [
            [row.verdict.value, *([_name(f)] if named else []), *_cells(row)] for f, row in body
        ]
        left = {0, 1, len(heads) + 1, *([2] if named else [])}
        table = aligned([["verdict", *heads, "reason"], *cells], left)
        lines += ["", *map(_colored, _folded(table))]
    remarks = [line for f in several for line in _remarks(f, len(several) > 1)]
    return [*lines, "", *remarks] if remarks else lines


def _cells(row: Row) -> list[str]:
    name = words.shorten(row.effect, NAME * len(row.effect) // max(1, _columns(row.effect)))
    return [name, row.plus_minus, row.better, row.time, row.reason]


def _name(findings: Findings) -> str:
    return words.shorten(findings.plan.name, 20)


def _introduction(findings: Findings) -> list[str]:
    """Say which ablation, what a difference is, and how far the runs have come."""
    question = findings.plan.question
    said = (
        f"{_name(findings)}: difference in {words.spaced(question.metric)}"
        + (" in points" if words.is_share(question.metric) else "")
        + (", + is better; " if question.goal == "maximize" else ", + is better, that is less; ")
        + f"below {words.with_unit(question.margin, question.metric)} it does not matter"
    )
    progress = story.progress(findings)
    return wrapped([said, progress] if progress else [said])


def _remarks(findings: Findings, named: bool) -> list[str]:
    """Say what was left out, what failed, and what must be known."""
    lines = []
    if (more := len(findings.effects) - SHOWN) > 0:
        lines.append(f"The {SHOWN} largest effects; report.md has the other {more:,}.")
    for calibration in findings.calibration:
        lines.append(
            f"{calibration.seeds} seeds a side, {calibration.draws:,} made-up ablations: "
            f"{100 * calibration.false:.1f} % said HELPS or HURTS, which is false here; "
            f"{100 * calibration.negligible:.1f} % NEGLIGIBLE, which is true."
        )
    lines += problem_lines(findings.runs.values())
    lines += note_lines(story.notes(findings))
    prefix = f"{_name(findings)}: " if named else ""
    return wrapped(prefix + line for line in lines)


def problem_lines(runs: Iterable[Run]) -> list[str]:
    """Name the first runs that failed or are damaged, a line each, and count the others."""
    found = list(story.problems(runs))
    lines = [f"{p.state} {p.run}: {words.shorten(p.last, 160)}" for p in found[:TOLD]]
    if (more := len(found) - TOLD) > 0:
        lines.append(f"... and {more:,} more runs that failed or are damaged.")
    return lines


def note_lines(notes: Sequence[str]) -> list[str]:
    """Write the first notes, a line each, and count the others."""
    lines = [f"Note: {words.shorten(note, 400)}" for note in notes[:TOLD]]
    if (more := len(notes) - TOLD) > 0:
        lines.append(f"... and {more:,} more notes.")
    return lines


def wrapped(lines: Iterable[str]) -> list[str]:
    """Break long lines at spaces; a path or a name stays whole."""
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)
    ]


def _folded(table: Sequence[str]) -> list[str]:
    """Go on below with reasons that would not fit beside the rest."""
    heads, rule, *rows = table
    start = heads.rindex("reason")
    room = max(WIDTH - start, 22)
    lines = [heads, rule[: start + room]]
    for row in rows:
        wide = len(row) - _columns(row)  # columns more than characters, as a negative number
        first, *more = textwrap.wrap(row[start + wide :], room) or [""]
        lines += [row[: start + wide] + first, *(" " * start + part for part in more)]
    return lines


def _colored(line: str) -> str:
    """Colour the verdict that begins a line, if a person looks on and has not refused."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return line
    for verdict, code in COLORS.items():
        if line.startswith(f"{verdict.value} "):
            return f"\x1b[{code}m{verdict.value}\x1b[0m{line[len(verdict.value) :]}"
    return line
