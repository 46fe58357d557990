"""Two runs that should be one: which of their bits differ, and what differed in their making."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import UserError
from runner.names import flatten
from runner.run import checkpoint
from runner.run.status import CONFIG
from runner.store.runs import CORRECT, METRICS, RESULT, Run
from runner.texts import shorten


def differences(saved: Run, again: Run) -> Iterator[str]:
    """Tell what is not the same to the bit, in the order in which a run comes to it.

    Args:
        saved: A run that is done, of which all can be read.
        again: The same, done again.
    """
    lines = zip_longest(saved.metrics, again.metrics)
    for number, (then, now) in enumerate(lines, start=1):
        if then is None or now is None:
            yield f"{METRICS} has {len(saved.metrics)} evaluations, now {len(again.metrics)}"
            return
        place = f"{METRICS}, line {number} (epoch {now['epoch']}, update {now['update']})"
        yield from (f"{place}: {what}" for what in _unequal(then, now))
    yield from (f"{RESULT}: {what}" for what in _unequal(saved.result or {}, again.result or {}))
    then, now = _answers(saved), _answers(again)
    if then.shape != now.shape:
        yield f"{CORRECT} has {len(then)} answers, now {len(now)}"
    elif len(where := np.flatnonzero(then != now)) > 0:
        words = ("right" if right[where[0]] else "wrong" for right in (then, now))
        answer = "test sample {} was {}, is now {}".format(where[0], *words)
        yield f"{CORRECT}: {answer} ({len(where)} of {len(then)} differ)"


def _answers(run: Run) -> NDArray[np.bool_]:
    found = run.correct()
    assert found is not None  # of a run of which all can be read
    return found


def _unequal(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Tell which numbers are not the same; as JSON, which tells 1 from 1.0 and 0.0 from -0.0."""
    for key in filter(_counts, {**now, **then}):
        was, is_ = (json.dumps(d[key]) if key in d else "not there" for d in (then, now))
        if was != is_:
            yield f"{key} was {was[:80]}, is now {is_[:80]}"


def _counts(key: str) -> bool:
    """Whether a number is of the run, and not of the time that it took, or of its files."""
    return key not in ("format", "digests") and not key.startswith("time/")


def count(run: Run) -> str:
    """Tell how much there is to compare of a run that is done."""
    numbers = sum(_counts(key) for part in (*run.metrics, run.result or {}) for key in part)
    return f"{numbers - 1} numbers, weights, {len(_answers(run))} answers"


def changes(saved: Run, again: Run, config: str) -> Iterator[str]:
    """Tell what is not as it was when a run was made, of what its bits depend on.

    Args:
        saved: The run.
        again: The same, done again.
        config: The hash of the saved run's config, as it is now.
    """
    then, now = (dict(flatten(run.machine)) for run in (saved, again))
    now["config"] = config
    seen = [_data(run.folder) for run in (saved, again)]
    if None not in seen:
        then["data"], now["data"] = seen
    same_code = then.get("code.digest") == now.get("code.digest")
    moves = then.pop("moves", None)
    for move in moves if isinstance(moves, list) else ():
        yield f"it went on elsewhere: {move}"
    for key in then:  # an older one may not tell of all that is told now
        if same_code and key in ("code.commit", "code.version"):
            continue  # of what trains, nothing is another
        if then.get(key) != now.get(key):
            name = NAMES.get(key, key.removeprefix("libraries."))
            yield f"{name} was {_short(then.get(key))}, is now {_short(now.get(key))}"
    if not same_code and str(then.get("code.commit")).endswith("+"):
        yield "perhaps the code: it was not as its commit has it when the run was made"


NAMES = {
    "config": f"the hash of {CONFIG} (edited since, or this code reads it otherwise)",
    "threads": f"the number of threads, a part of {CONFIG},",
    "channels_last": f"the memory format (channels_last, a part of {CONFIG})",
    "precision": f"the precision, a part of {CONFIG},",
    "data": "the hash of the images and labels",
    "code.digest": "the hash of the code that trains",
    "code.own": "the hash of your own classes",
    "code.commit": "the commit of the code",
    "code.version": "the version of the code",
    "capability": "what torch uses of the processor (capability)",
}


def _short(value: object) -> str:
    return shorten(str(value), 120)


def _data(folder: Path) -> str | None:
    """The hash of the data that a run saw, as its checkpoint has it; None if that is gone."""
    try:
        with redirect_stdout(io.StringIO()):  # it tells of damage, which is no matter here
            state = checkpoint.load(folder)
        return None if state is None else str(state["made_with"]["data"])[:16]
    except (UserError, LookupError, TypeError, ValueError, OSError, MemoryError):
        return None
