"""The runs of a plan as arrays over variants and seeds, and what a reader must know about them."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.ablation.plan import Plan
from runner.ablation.statistics import Array
from runner.errors import UserError
from runner.runs import METRICS, RESULT, STATUS, Run, read_metrics, read_run

MOST = sys.float_info.max
LISTED = 5  # damaged files and values that are named; of the others the number is told


@dataclass(frozen=True)
class Table:
    """The runs of a plan; every array is [variants, seeds], in the plan's order."""

    runs: Mapping[tuple[str, int], Run]
    """By variant and seed; those that have not begun are missing."""
    rows: Mapping[str, int]
    """For each variant its place in the arrays."""
    states: NDArray[np.str_]
    """`Run.state`; empty for those that have not begun."""
    scores: Array
    """The metric as it is in result.json; NaN where a run is not done."""
    seconds: Array
    """Training time; NaN where it is not known."""
    memory: Array
    """Peak memory in bytes; NaN where it is not known."""
    damaged: tuple[str, ...]
    """A line for each damaged file."""


def read_table(root: Path, plan: Plan) -> Table:
    """Read all runs of a plan that have begun.

    Raises:
        UserError: If a result lacks the metric.
    """
    shape = len(plan.variants), len(plan.seeds)
    states = np.full(shape, "", dtype="<U16")
    scores, seconds, memory = (np.full(shape, np.nan) for _ in range(3))
    runs, damaged = {}, []
    for row, variant in enumerate(plan.variants):
        digests = plan.digests(variant)
        for column, seed in enumerate(plan.seeds):
            folder = plan.folder(root, variant, seed)
            if not (folder / STATUS).exists():
                continue
            run = runs[variant, seed] = read_run(folder, variant)
            at = row, column
            states[at] = run.state
            memory[at] = finite(run.status.get("peak_memory"))
            problem = run.damage
            if run.result is not None and run.machine.get("config") != digests[seed]:
                problem, states[at] = "it is a run of another config", "damaged"
            elif run.result is not None:
                scores[at] = _score(run, run.result, plan.question.metric)
                seconds[at], unread = _seconds(folder)
                problem = problem or unread
            if problem:
                damaged.append(f"{variant}/{folder.name}: {problem}")
    rows = {variant: row for row, variant in enumerate(plan.variants)}
    return Table(runs, rows, states, scores, seconds, memory, tuple(damaged))


def warnings(table: Table) -> Iterator[str]:
    """Say what a reader must know: runs that were not made alike, and damaged files."""
    machines = [run.machine for run in table.runs.values() if run.machine]
    yield from _differing("code", [_part(m, "code").get("commit") for m in machines])
    libraries = [_part(machine, "libraries") for machine in machines]
    for name in sorted({name for each in libraries for name in each}):
        yield from _differing(name, [each.get(name) for each in libraries])
    yield from _differing("processors", [machine.get("processor") for machine in machines])
    yield from _differing("numbers of threads", [machine.get("threads") for machine in machines])
    yield from table.damaged[:LISTED]
    if (more := len(table.damaged) - LISTED) > 0:
        yield f"and {more} more with damaged files"


def _differing(what: str, values: list[Any]) -> Iterator[str]:
    """A line if there is more than one value, with the number of runs of each."""
    counts = Counter("unknown" if value is None else str(value) for value in values)
    if len(counts) < 2:
        return
    named = [f"{value} ({n} {'run' if n == 1 else 'runs'})" for value, n in counts.most_common()]
    more = [f"and {len(named) - LISTED} more"] if len(named) > LISTED else []
    yield f"The runs were made with different {what}: {', '.join(named[:LISTED] + more)}."


def _part(machine: dict[str, Any], name: str) -> dict[str, Any]:
    found = machine.get(name)
    return found if isinstance(found, dict) else {}


def _score(run: Run, result: dict[str, Any], metric: str) -> float:
    found = finite(result.get(metric))
    if np.isnan(found):
        there = ", ".join(key for key in result if "/" in key and not key.startswith("tricks/"))
        raise UserError(
            f"ablation.metric must be a number in {run.folder / RESULT}, got {metric}, which is "
            f"{result.get(metric, 'not there')}. Take one that is ({there}), under another name."
        )
    return found


def _seconds(folder: Path) -> tuple[float, str | None]:
    """Add up the training time; the lines are not kept, since there may be very many."""
    try:
        lines = read_metrics(folder)
        numbers = [finite(line.get("time/seconds")) for line in lines]
    except (ValueError, OSError, AttributeError) as error:
        return np.nan, f"{METRICS} is damaged ({error})"
    return (float(np.nansum(numbers)) or np.nan), None


def finite(value: object) -> float:
    """A finite number, or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MOST:
        return np.nan
    return float(value)  # NaN is larger than nothing, and stays
