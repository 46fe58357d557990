"""Two runs that should be equal: which bits differ, and what differs in how they were made."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from runner.errors import UserError
from runner.names import flatten
from runner.run import checkpoint
from runner.store.answers import Answers
from runner.store.identity import renamed
from runner.store.runs import CONFIG, CORRECT, METRICS, PREDICTIONS, RESULT, Run, number
from runner.texts import printable


def differences(saved: Run, again: Run) -> Iterator[str]:
    """List what is not bit-identical, in the order in which a run writes it."""
    lines = zip_longest(saved.metrics, again.metrics)
    for line, (then, now) in enumerate(lines, start=1):
        if then is None or now is None:
            yield f"{METRICS} has {len(saved.metrics)} evaluations, now {len(again.metrics)}"
            return
        place = f"{METRICS}, line {line} (epoch {now['epoch']}, update {now['update']})"
        yield from (f"{place}: {what}" for what in _unequal(then, now))
    was, is_ = saved.result or {}, dict(again.result or {})
    if "classes" not in was:  # an older run
        is_.pop("classes", None)
    yield from (f"{RESULT}: {what}" for what in _unequal(was, is_))
    then, now = _answers(saved), _answers(again)
    if then.shape != now.shape:
        yield f"{CORRECT} has {len(then)} answers, now {len(now)}"
    elif len(where := np.flatnonzero(then != now)) > 0:
        words = ("right" if right[where[0]] else "wrong" for right in (then, now))
        answer = "test sample {} was {}, is now {}".format(where[0], *words)
        yield f"{CORRECT}: {answer} ({len(where)} of {len(then)} differ)"
    yield from _unequal_logits(saved, again)


def _unequal_logits(saved: Run, again: Run) -> Iterator[str]:
    """Name the first logit that differs by its sample and its class."""
    if (before := saved.predictions()) is None:  # an older run has none
        return
    after = again.predictions()
    assert after is not None  # it was just made
    (then, _), (now, _) = before, after
    if then.shape != now.shape:
        yield f"{PREDICTIONS} has logits {list(then.shape)}, now {list(now.shape)}"
    elif not np.array_equal(before[1], after[1]):
        yield f"{PREDICTIONS} has other labels"
    elif len(where := np.argwhere(then.view(np.int32) != now.view(np.int32))) > 0:
        sample, column = where[0]
        names = again.classes() or ()
        name = names[column] if column < len(names) else str(column)
        was, is_ = then[sample, column], now[sample, column]
        logit = f"of test sample {sample} for class {name} was {was}, is now {is_}"
        yield f"{PREDICTIONS}: the logit {logit} ({len(where):,} of {then.size:,} differ)"


def _answers(run: Run) -> Answers:
    found = run.correct()
    assert found is not None  # the run has no damage
    return found


def _unequal(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """List the numbers that differ, as JSON, which distinguishes 1 from 1.0 and 0.0 from -0.0."""
    for key in filter(_counts, {**now, **then}):
        was, is_ = (json.dumps(d[key]) if key in d else "not there" for d in (then, now))
        if was != is_:
            yield f"{key} was {was[:80]}, is now {is_[:80]}"


def _counts(key: str) -> bool:
    """Whether a number is a result of the run, not its duration or a hash of its files."""
    return key not in ("format", "digests") and not key.startswith("time/")


def count(run: Run) -> str:
    """Say how much of a finished run is compared."""
    parts = (*run.metrics, run.result or {})
    found = [value for part in parts for key, value in part.items() if _counts(key)]
    numbers = sum(value is None or number(value) is not None for value in found)
    predictions = run.predictions()
    logits = "" if predictions is None else f", {predictions[0].size:,} logits"
    return f"{numbers} numbers, weights, {len(_answers(run))} answers{logits}"


def changes(saved: Run, again: Run, config: str) -> Iterator[str]:
    """List what has changed since a run was made, among the things its bits depend on."""
    then, now = (dict(flatten(renamed(run.machine))) for run in (saved, again))
    now["config"] = config
    if "data" not in then and (seen := _data(saved.folder)):  # an older run
        then["data"] = seen
    same_code = then.get("code.digest") == now.get("code.digest")
    moves = then.pop("moves", None)
    for move in moves if isinstance(moves, list) else ():
        yield f"it was resumed elsewhere: {move}"
    for key in then:  # an older run may not record everything
        name = key.removeprefix("libraries.").removeprefix("made of.")
        if same_code and key in ("code.commit", "code.version"):
            continue  # the code that trains is the same
        if key == f"made of.{name}" and f"libraries.{name}" in then:
            continue  # is reported already
        if then.get(key) != now.get(key):
            was, is_ = (printable(facts.get(key), 120) for facts in (then, now))
            yield f"{NAMES.get(key, name)} was {was}, is now {is_}"
    if not same_code and str(then.get("code.commit")).endswith("+"):
        yield "perhaps the code: it had uncommitted changes when the run was made"


NAMES = {
    "config": f"the hash of {CONFIG} (edited since, or this code reads it otherwise)",
    "threads": f"the number of threads, a part of {CONFIG},",
    "memory_format": f"the memory format, a part of {CONFIG},",
    "precision": f"the precision, a part of {CONFIG},",
    "data": "the hash of the images and labels",
    "code.digest": "the hash of the code that trains",
    "code.own": "the hash of your own classes",
    "code.commit": "the commit of the code",
    "code.version": "the version of the code",
    "variables": "what the environment sets for the libraries below torch (variables)",
    "flags": "what is set of torch for the whole process (flags)",
    "capability": "what torch uses of the processor (capability)",
}


def _data(folder: Path) -> str | None:
    """The hash of the data in an older run's checkpoint; None if there is no checkpoint."""
    try:
        with redirect_stdout(io.StringIO()):  # it reports damage, which does not matter here
            state = checkpoint.load(folder)
        return None if state is None else str(state["made_with"]["data"])[:16]
    except (UserError, LookupError, TypeError, ValueError, OSError, MemoryError):
        return None
