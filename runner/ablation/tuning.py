"""Tuning before judging: how many trials each setting gets, and which setting is chosen.

Every variant of the design is an *arm* with a grid of its own: the settings to try of those keys
that it uses. All arms get the same number of trials, on seeds that judge nothing.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean
from typing import Any, Literal

TUNING = "tuning"
"""The folder of the trials in that of their ablation, and what stands for their design."""

Goal = Literal["maximize", "minimize"]

ON_TEST_ALONE = ("mean_accuracy", "shift_consistency")

APART = 1_000_000
"""How far the seeds of the trials lie beyond the first that judges."""


@dataclass(frozen=True)
class Tried:
    """A setting of an arm, and the scores of its trials."""

    values: Mapping[str, Any]
    """By dotted keys."""
    scores: tuple[float | None, ...]
    """One for each trial; None for one that failed or diverged."""

    @property
    def mean(self) -> float | None:
        """The mean score; None if there is none."""
        known = [score for score in self.scores if score is not None]
        return fmean(known) if known else None

    @property
    def lost(self) -> int:
        """How many trials failed or diverged."""
        return self.scores.count(None)


@dataclass(frozen=True)
class Tuned:
    """The settings that an arm tried, and the one it is judged with."""

    tried: tuple[Tried, ...]
    chosen: int
    """The place of the best among them."""
    seeds: tuple[int, ...]
    """Of the trials; a setting with fewer had the first ones."""

    @property
    def best(self) -> Tried:
        """The chosen setting."""
        return self.tried[self.chosen]

    @property
    def trials(self) -> int:
        """How many runs there were."""
        return sum(len(each.scores) for each in self.tried)

    def runner_up(self, goal: Goal) -> Tried | None:
        """The second best; None if there is no other with a score."""
        others = [t for i, t in enumerate(self.tried) if i != self.chosen and t.mean is not None]
        return others[choose(others, goal)] if others else None


def measure_of(metric: str, goal: Goal) -> tuple[str, Goal]:
    """Give back what settings are chosen by, for a metric that is judged: on the validation split.

    It is the same metric there, or the accuracy for one that is measured on the test split alone.

    >>> measure_of("test/macro_f1", "maximize"), measure_of("test/mean_accuracy", "maximize")
    (('validation/macro_f1', 'maximize'), ('validation/accuracy', 'maximize'))
    """
    name = metric.partition("/")[2]
    if name in ON_TEST_ALONE:
        return "validation/accuracy", "maximize"
    return f"validation/{name}", goal


def choose(tried: Sequence[Tried], goal: Goal) -> int:
    """Give back the place of the best setting.

    The fewest trials lost, as a share, comes before the best mean score; of equals the first wins.
    """
    sign = -1.0 if goal == "maximize" else 1.0

    def rank(place: int) -> tuple[float, float]:
        one = tried[place]
        return one.lost / len(one.scores), sign * (one.mean or 0.0)

    return min(range(len(tried)), key=rank)


def schedule(sizes: Mapping[str, int], trials: int | None, seed: int) -> dict[str, dict[int, int]]:
    """Give each arm the same number of trials.

    A smaller grid is gone through again and again, with the next seed each time; of a larger one
    a random part is tried. An arm with a single setting has nothing to choose, and gets no trial.

    Args:
        sizes: For each arm the number of settings in its grid.
        trials: Of each arm; None for as many as the largest grid has settings.
        seed: Of the random part; arms with grids of one size try the same part.

    Returns:
        For each arm the settings to try, by their places in its grid, with the number of seeds.
    """
    each = trials or max(sizes.values())
    found: dict[str, dict[int, int]] = {}
    for arm, size in sizes.items():
        if size == 1:
            found[arm] = {}
        elif size > each:
            part = sorted(random.Random(seed).sample(range(size), each))
            found[arm] = dict.fromkeys(part, 1)
        else:
            found[arm] = {place: -(-(each - place) // size) for place in range(size)}
    return found


def size_of(grid: Mapping[str, Sequence[Any]]) -> int:
    """Give back the number of settings in a grid."""
    return prod(len(values) for values in grid.values())


def setting(grid: Mapping[str, Sequence[Any]], place: int) -> dict[str, Any]:
    """Give back a setting of a grid; the last key changes fastest.

    >>> [setting({"a": [1, 2], "b": [3, 4, 5]}, place) for place in (0, 1, 3)]
    [{'a': 1, 'b': 3}, {'a': 1, 'b': 4}, {'a': 2, 'b': 3}]
    """
    found = {}
    for key, values in reversed([*grid.items()]):
        place, own = divmod(place, len(values))
        found[key] = values[own]
    return {key: found[key] for key in grid}


def edges(tuned: Mapping[str, Tuned], grid: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Say of which arms the best value of a number is the smallest or the largest one tried."""
    for key, values in grid.items():
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) < max(3, len(values)):
            continue
        for end, word in ((min(numbers), "smallest"), (max(numbers), "largest")):
            arms = [arm for arm, t in tuned.items() if t.best.values.get(key) == end]
            if arms:
                yield (
                    f"The best {key} of {join(arms)} is the {word} one tried, {end}. A better one "
                    "may lie beyond it: widen ablation.tune, under another name."
                )


LISTED = 5  # names in a sentence


def join(names: Sequence[str]) -> str:
    """Write `a, b and c`; of many the first ones.

    >>> join(["a"]), join(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    shown = [*names[:LISTED], *([f"{len(names) - LISTED} more"] if len(names) > LISTED else [])]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
