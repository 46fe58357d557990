"""Tables for the terminal: aligned, within its width, coloured where that is wanted."""

import os
import sys
import textwrap
from collections.abc import Container, Sequence

from runner.ablation.verdicts import Findings, Verdict
from runner.report import story, words
from runner.report.rows import SHOWN, Row, largest, ranked, rows

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


def verdict_table(*several: Findings) -> list[str]:
    """Write the verdicts of ablations as lines for the terminal, with what it takes to read them.

    Args:
        several: One ablation, or more of them, which share a table.
    """
    lines: list[str] = []
    for findings in several:
        lines += _introduction(findings)
    body = [(f, finding_row) for f in several for finding_row in _shown(f)]
    if body:
        named = len(several) > 1
        heads = [*(["ablation"] if named else []), "effect", "difference", "better", "time"]
        cells = [
            [row.verdict.value, *([_name(f)] if named else []), *_cells(row)] for f, row in body
        ]
        left = {0, 1, len(heads) + 1, *([2] if named else [])}
        table = aligned([["verdict", *heads, "reason"], *cells], left)
        lines += ["", *_colored(table, [row.verdict for _, row in body])]
    for findings in several:
        lines += _remarks(findings, len(several) > 1)
    return lines


def _shown(findings: Findings) -> list[Row]:
    """Give back the rows; of very many those of the largest effects."""
    if len(findings.effects) <= SHOWN:
        return rows(findings)
    kept = {id(finding) for finding in largest(findings.effects)}
    return [
        row
        for row, finding in zip(rows(findings), ranked(findings.effects), strict=True)
        if id(finding) in kept
    ]


def _cells(row: Row) -> list[str]:
    return [words.shorten(row.effect, NAME), row.plus_minus, row.better, row.time, row.reason]


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
    lines = textwrap.wrap(said, WIDTH)
    if (progress := story.progress(findings)) is not None:
        lines.append(progress)
    return lines


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
    problems = list(story.problems(findings.runs.values()))
    for problem in problems[:10]:
        lines.append(f"{problem.state} {problem.run}: {words.shorten(problem.last, 160)}")
    if len(problems) > 10:
        lines.append(f"... and {len(problems) - 10:,} more runs that failed or are damaged.")
    lines += [f"Note: {words.printable(warning)}" for warning in findings.warnings[:10]]
    if (more := len(findings.warnings) - 10) > 0:
        lines.append(f"... and {more:,} more notes.")
    prefix = f"{_name(findings)}: " if named else ""
    return ["", *(prefix + line for line in lines)] if lines else []


def _colored(table: list[str], verdicts: Sequence[Verdict]) -> list[str]:
    """Colour the verdicts, which begin the lines, if a person looks on and has not refused."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return table
    lines = table[:2]
    for line, verdict in zip(table[2:], verdicts, strict=True):
        code = COLORS.get(verdict)
        rest = line[len(verdict.value) :]
        lines.append(f"\x1b[{code}m{verdict.value}\x1b[0m{rest}" if code else line)
    return lines
