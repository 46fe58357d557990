"""Sweeps over the folds of a data set: the mean over the folds, which no fold is better by."""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from statistics import fmean, stdev

from runner.report.rows import Row
from runner.store.parameters import MACHINE
from runner.texts import printable

FOLD = "data.fold"


def over_folds(rows: Sequence[Row], accuracy: Mapping[str, float]) -> list[str]:
    """Say how accurate each setting is over its folds; nothing if the rows are no folds.

    Args:
        rows: The settings; those that differ in their fold alone belong together.
        accuracy: The mean test accuracy of each row, by its name; nan if it is not known.
    """
    settings: dict[str, list[Row]] = {}
    for row in rows:
        rest = {k: v for k, v in row.settings.items() if k not in (FOLD, *MACHINE)}
        settings.setdefault(json.dumps([row.place, rest], sort_keys=True), []).append(row)
    if not any(len({row.settings.get(FOLD) for row in some}) > 1 for some in settings.values()):
        return []
    return [line for some in settings.values() for line in _line(some, accuracy, len(settings) > 1)]


def _line(rows: Sequence[Row], accuracy: Mapping[str, float], named: bool) -> Iterator[str]:
    known = [accuracy[row.name] for row in rows if not isnan(accuracy[row.name])]
    words = [word for word in rows[0].label.split("+") if not word.startswith(f"{FOLD}=")]
    name = f"{printable('+'.join(words))}: " if named else ""
    if len(known) > 1:
        yield (
            f"{name}{100 * fmean(known):.2f} ± {100 * stdev(known):.2f} % on the test set, mean ± "
            f"standard deviation over {len(known)} folds."
        )
