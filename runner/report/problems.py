"""What went wrong in the runs of a report, and what they were made with."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runner.ablation.table import find_damage
from runner.ablation.verdicts import Findings
from runner.names import flatten
from runner.store.runs import Run
from runner.texts import printable, printable_lines

BAD = ("failed", "diverged", "damaged")
NO_REASON = "No reason was recorded."


@dataclass(frozen=True)
class Problem:
    """A run that failed, or whose files are damaged."""

    run: str
    state: str
    last: str
    """The last line of what went wrong."""
    full: str
    """All of it; empty if the last line is all."""


def problems(runs: Iterable[Run]) -> Iterator[Problem]:
    """Iterate over the runs that failed, diverged or are damaged."""
    for run in runs:
        if run.state not in BAD and not run.damage:
            continue
        error = run.status.get("error")
        if run.state in ("damaged", "done"):
            error = run.damage or "; ".join(find_damage(run))
        lines = printable_lines(error or NO_REASON)
        full = [line for line in lines if line.strip()] or [NO_REASON]
        yield Problem(
            run=printable(f"{run.variant}/{run.folder.name}"),
            state="damaged" if run.damage else run.state,
            last=full[-1].strip(),
            full="\n".join(lines) if len(full) > 1 else "",
        )


def notes(findings: Findings) -> list[str]:
    """Give back the warnings, except those about runs that `problems` lists."""
    listed = tuple(f"{problem.run}: " for problem in problems(findings.runs.values()))
    warnings = (printable(warning) for warning in findings.warnings)
    return [warning for warning in warnings if not warning.startswith(listed)]


def environments(runs: Iterable[Run]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Give back for each part of run.json the values that occur, and in how many runs.

    The hash of the config, of which each run has its own, is left to `report.json`.
    """
    found: dict[str, Counter[str]] = {}
    for run in runs:
        for name, value in flatten(run.machine):
            if name not in ("format", "config"):
                shown = ENVIRONMENT.get(name) or printable(name.removeprefix("libraries."), 40)
                text = WORDS.get(str(value)) or printable(value, 80)
                found.setdefault(shown, Counter())[text] += 1
    known = ((name, values) for name, values in found.items() if {*values} != {"none"})
    return [(name, values.most_common()) for name, values in known]


WORDS = {"None": "none", "True": "yes", "False": "no"}
ENVIRONMENT = {
    "code.commit": "commit of the code",
    "code.version": "version of the code",
    "code.digest": "hash of the code that trains",
    "code.own": "hash of your own classes",
    "memory_format": "memory format",
}
"""What the parts of run.json are called where their keys would not be understood."""
