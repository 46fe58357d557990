"""The numbers of all contrasts of an ablation at once: differences, intervals, p-values, claims."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from runner.ablation.decide import Claim, decide
from runner.ablation.plan import Plan
from runner.ablation.sampling import find_step
from runner.ablation.statistics import (
    FEWEST_SEEDS,
    Array,
    confidence_sequence,
    seeds_needed,
    smallest_effect,
    t_test,
)

MOST_MORE = 1000
"""So many seeds more are looked ahead."""

NOTHING = 1e-13
"""A weighted sum that is smaller than this share of what was summed is 0 but for rounding."""


@dataclass(frozen=True)
class Numbers:
    """For each contrast of a plan, in its order; NaN for what cannot be told."""

    values: Array
    """[C, S], turned so that more is better; NaN where a run is not done."""
    used: NDArray[np.bool_]
    """[C, S], the seeds that count: all that are complete; of a sequence those before a gap."""
    judged: NDArray[np.bool_]
    """[C], whether there are the seeds for a verdict."""
    claim: NDArray[np.int64]
    """[C], values of `Claim`."""
    mean: Array
    """[C], as are all that follow."""
    sd: Array
    low: Array
    high: Array
    p: Array
    adjusted: Array
    smallest: Array
    needed: Array
    """Seeds in all."""


def number(plan: Plan, scores: Array) -> Numbers:
    """Compute what the scores say about each contrast.

    Args:
        plan: The plan.
        scores: [variants, seeds], NaN where a run is not done.
    """
    question = plan.question
    sequential = question.until == "decided"
    values, least = _contrast(plan, scores)
    step = find_step(scores[~np.isnan(scores)].tolist()) * least
    there = ~np.isnan(values)
    used: NDArray[np.bool_] = np.logical_and.accumulate(there, axis=1) if sequential else there
    enough = used.sum(1) >= (FEWEST_SEEDS if sequential else len(plan.seeds))
    judged = enough & (len(plan.seeds) >= FEWEST_SEEDS)
    blank = np.full((8, len(plan.contrasts)), np.nan)
    claim = np.zeros(len(plan.contrasts), np.int64)
    found = Numbers(values, used, judged, claim, *blank)
    for kind, margin in (("effect", question.margin), ("interaction", 0.0), ("share", 0.0)):
        rows = np.array([contrast.kind == kind for contrast in plan.contrasts], bool)
        if not rows.any():
            continue
        for some, packed in _by_length(rows, values, used):
            _describe(found, some, packed, question.alpha, sequential, step)
            alpha = question.alpha / int(rows.sum())
            if kind != "share":
                n = packed.shape[1]
                found.smallest[some] = smallest_effect(n, found.sd[some], alpha, sequential)
            if kind == "effect":
                _look_ahead(found, some, packed.shape[1], margin, alpha, sequential, step)
        if kind != "share":
            data = np.where((used & judged[:, None])[rows], values[rows], np.nan)
            decided = decide(data, margin, question.alpha, sequential, step[rows])
            found.p[rows], found.adjusted[rows] = decided.p, decided.adjusted
            found.claim[rows] = np.where(judged[rows], decided.claim, Claim.UNDECIDED)
    return found


def _contrast(plan: Plan, scores: Array) -> tuple[Array, Array]:
    """The value of each contrast under each seed, [C, S]; and its least weight, [C]."""
    at = {variant: index for index, variant in enumerate(plan.variants)}
    cells = [
        (row, at[variant], weight)
        for row, contrast in enumerate(plan.contrasts)
        for variant, weight in contrast.weights.items()
    ]
    rows, columns, weights = (np.array(each) for each in zip(*cells, strict=True))
    shape = len(plan.contrasts), len(plan.variants)
    sign = 1.0 if plan.question.goal == "maximize" else -1.0
    weigh = sparse.csr_array((sign * weights, (rows, columns)), shape)
    values = weigh @ np.nan_to_num(scores)
    exact = abs(weigh) @ np.nan_to_num(np.abs(scores))
    values = np.where(np.abs(values) < NOTHING * exact, 0.0, values)
    gaps = abs(weigh) @ np.isnan(scores)
    least = np.full(len(plan.contrasts), np.inf)
    np.minimum.at(least, rows, np.abs(weights))
    return np.where(gaps > 0, np.nan, values), least


def _by_length(
    rows: NDArray[np.bool_], values: Array, used: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[Any], Array]]:
    """The contrasts that have equally many seeds, and their values without gaps, [some, n]."""
    lengths = np.where(rows, used.sum(1), 0)
    for n in sorted(set(lengths.tolist()) - {0}):
        some = np.flatnonzero(lengths == n)
        yield some, values[some][used[some]].reshape(-1, n)


def _describe(
    found: Numbers,
    some: NDArray[Any],
    packed: Array,
    alpha: float,
    sequential: bool,
    step: Array,
) -> None:
    """Fill in mean, spread and interval."""
    found.mean[some] = packed.mean(1)
    if packed.shape[1] < 2:
        return
    test = t_test(packed, alpha, step[some])
    low_high = confidence_sequence(packed, alpha, step[some]) if sequential else test[3:]
    found.sd[some] = test.sd
    found.low[some], found.high[some] = low_high


def _look_ahead(
    found: Numbers,
    some: NDArray[Any],
    n: int,
    margin: float,
    alpha: float,
    sequential: bool,
    step: Array,
) -> None:
    """Fill in how many seeds it would take."""
    if n < FEWEST_SEEDS:
        return
    found.needed[some] = seeds_needed(
        found.mean[some],
        found.sd[some],
        margin,
        alpha,
        n,
        sequential,
        limit=n + MOST_MORE,
        step=step[some],
    )
