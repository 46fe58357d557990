"""The runs of a plan as arrays over variants and seeds, and what a reader must know about them."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from os.path import lexists
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.ablation.failures import cause_outside
from runner.ablation.plan import Plan
from runner.ablation.statistics import Array
from runner.ablation.tuning import edges
from runner.errors import UserError
from runner.garbage import resting
from runner.store.files import Damaged, read_json
from runner.store.packed import look
from runner.store.runs import (
    CORRECT,
    MACHINE,
    PREDICTIONS,
    RESULT,
    STATUS,
    Run,
    number,
    read_run,
)

MOST_READ = 2**23  # bytes of predictions that are compared with their digest for each report
LISTED = 5  # damaged files and values that are named; the others are counted


@dataclass(frozen=True)
class Table:
    """The runs of a plan; every array is [variants, seeds], in the plan's order."""

    runs: Mapping[tuple[str, int], Run]
    """By variant and seed; those that have not begun are missing."""
    rows: Mapping[str, int]
    """For each variant its place in the arrays."""
    states: NDArray[np.str_]
    """`Run.state`; empty for those that have not begun."""
    failed: NDArray[np.bool_]
    """Whether a run failed by itself: it diverged, or an exception was raised in it. That is
    evidence against a trick; what the machine did to a run is none."""
    scores: Array
    """The metric as it is in result.json; NaN where a run is not done."""
    seconds: Array
    """Training time; NaN where it is not known."""
    memory: Array
    """Peak memory in bytes; NaN where it is not known."""
    damaged: tuple[str, ...]
    """A line for each damaged file, and for each run of another config."""
    absent: NDArray[np.bool_]
    """The runs that a table of scores made elsewhere does not have: their seeds are left out."""


@resting()
def read_table(root: Path, plan: Plan) -> Table:
    """Read all runs of a plan that have begun.

    Raises:
        UserError: If a result lacks the metric.
    """
    shape = len(plan.variants), len(plan.seeds)
    states = np.full(shape, "", dtype="<U16")
    scores, seconds, memory = (np.full(shape, np.nan) for _ in range(3))
    failed = np.zeros(shape, bool)
    runs, damaged = {}, []
    for row, variant in enumerate(plan.variants):
        digests = plan.digests(variant)
        for column, seed in enumerate(plan.seeds):
            run = read_run(plan.folder(root, variant, seed), variant)
            if not (run.status or run.damage or run.result or lexists(run.folder / STATUS)):
                continue
            runs[variant, seed] = run = planned(run, digests[seed])
            states[at := (row, column)] = run.state
            failed[at] = is_evidence(run)
            if run.state != "damaged":
                memory[at] = number(run.status.get("peak_memory"))
            problems = find_damage(run)
            if run.result is not None:
                scores[at] = _score(run, run.result, plan.question.metric)
                seconds[at] = _seconds(run)
            run.forget()
            damaged += [f"{variant}/{run.folder.name}: {problem}" for problem in problems]
    rows = {variant: row for row, variant in enumerate(plan.variants)}
    absent = np.zeros(shape, bool)
    return Table(runs, rows, states, failed, scores, seconds, memory, tuple(damaged), absent)


def planned(run: Run, config: str) -> Run:
    """Give back a run as the plan has it: without its result if it is one of another config."""
    found = run.machine.get("config")
    if found == config or (found is None and run.result is None):
        return run
    missing = read_json(run.folder / MACHINE)[1] or f"{MACHINE} is not there"
    damage = "it is a run of another config" if run.machine else missing
    return replace(run, result=None, damage=damage, foreign=bool(run.machine))


def is_evidence(run: Run) -> bool:
    """Whether a run failed by itself: it diverged, or an exception was raised in it."""
    if run.state == "failed":
        return cause_outside(run) is None
    return run.state == "diverged"


SOFTENED = ("label_smoothing", "flooding")
"""Tricks that change what is trained on, so that the loss rises or falls by definition."""


def unfair_metric(plan: Plan) -> Iterator[str]:
    """Say which of the tricks cannot be judged by a loss."""
    metric = plan.question.metric
    keys = {key for changes in plan.changes.values() for key in changes}
    for name in SOFTENED:
        if metric.endswith("loss") and any(key.startswith(f"tricks.{name}.") for key in keys):
            yield (
                f"{metric} is not a fair measure of {name}, which changes what the loss is trained "
                "towards: the loss moves though the answers may not. "
                "Take ablation.metric=test/accuracy, under another name."
            )


def warnings(plan: Plan, table: Table) -> Iterator[str]:
    """Say what a reader must know: an unfair metric, runs not made alike, damaged files."""
    yield from unfair_metric(plan)
    yield from plan.notes
    yield from edges(plan.tuned, plan.question.tune)
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
    found = number(result.get(metric))
    if found is None:
        there = ", ".join(key for key in result if "/" in key and not key.startswith("tricks/"))
        value = str(result.get(metric, "not there"))[:80]
        raise UserError(
            f"ablation.metric must be a number in {run.folder / RESULT}, got {metric}, which is "
            f"{value}. Take one that is ({there[:500]}), under another name."
        )
    return found


def find_damage(run: Run, thorough: bool = False) -> list[str]:
    """Name the files of a run which are damaged, or missing after its end, each with what is.

    Of predictions that are larger than `MOST_READ` it is only seen whether they are there, if the
    search is not thorough.
    """
    found = [run.damage]
    if not run.status and STATUS not in (run.damage or ""):
        found.append(f"{STATUS} is not there, or empty")
    elif run.status.get("status") == "done" and run.result is None and not run.damage:
        found.append(f"{RESULT} is not there")
    if not run.machine:
        content, problem = read_json(run.folder / MACHINE)
        if content is None and run.result is not None:
            problem = problem or f"{MACHINE} is not there"
        found.append(problem)
    try:
        _ = run.metrics
    except Damaged as error:
        found.append(str(error))
    digests = (run.result or {}).get("digests")
    told = digests if isinstance(digests, dict) else {}
    if CORRECT in told and run.correct() is None:
        found.append(f"{CORRECT} is damaged or not there")
    if PREDICTIONS in told and not _has_predictions(run, math.inf if thorough else MOST_READ):
        found.append(f"{PREDICTIONS} is damaged or not there")
    return list(dict.fromkeys(filter(None, found)))


def _has_predictions(run: Run, most: float) -> bool:
    """Whether predictions.npz is there and whole; more than `most` bytes are not read."""
    about = look(run.folder / PREDICTIONS)
    return about is not None and (about.size > most or run.predictions() is not None)


def _seconds(run: Run) -> float:
    """Add up the training time."""
    try:
        numbers = [number(line.get("time/seconds")) or 0.0 for line in run.metrics]
    except Damaged:
        return np.nan
    total = float(np.sum(numbers))
    return total if total > 0 else np.nan
