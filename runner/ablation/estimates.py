"""Estimates: what the scores say about each contrast of an ablation, all computed at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from runner.ablation.decide import Verdict, decide
from runner.ablation.designs import Kind
from runner.ablation.plan import Plan, Question
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
"""So many additional seeds are considered."""

NOTHING = 1e-13
"""A weighted sum below this share of the size of its terms is 0, but for rounding."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the scores say about one contrast; NaN for what is not known."""

    values: Array
    """[S], turned so that more is better; NaN where a run is not done."""
    used: NDArray[np.bool_]
    """[S], the seeds that count: all complete ones; of a sequence those before the first gap."""
    judged: bool
    """Whether there are enough seeds for a verdict."""
    verdict: Verdict
    """Of the rule alone: HELPS, HURTS, NEGLIGIBLE or UNDECIDED."""
    p: float
    adjusted: float
    mean: float
    sd: float
    low: float
    high: float
    smallest: float
    """The smallest effect that this many seeds could show."""
    needed: float
    """The seeds it would probably take to decide, in all."""


def estimate(plan: Plan, scores: Array) -> list[Estimate]:
    """Compute what the scores say about each contrast, in the plan's order.

    Args:
        plan: The plan.
        scores: [variants, seeds], NaN where a run is not done.
    """
    question, sequential = plan.question, plan.question.until == "decided"
    values, least = _contrast(plan, scores)
    step = find_step(scores[~np.isnan(scores)].tolist()) * least
    there: NDArray[np.bool_] = ~np.isnan(values)
    used = np.logical_and.accumulate(there, axis=1) if sequential else there
    lengths = used.sum(1)
    enough = lengths >= (FEWEST_SEEDS if sequential else len(plan.seeds))
    judged = enough & (len(plan.seeds) >= FEWEST_SEEDS)
    found = {name: np.full(len(values), np.nan) for name in NUMBERS}
    verdicts = np.full(len(values), Verdict.UNDECIDED, object)
    for kind in ("effect", "interaction", "share"):
        of_kind = np.array([contrast.kind == kind for contrast in plan.contrasts])
        for n in set(lengths[of_kind].tolist()) - {0}:  # those of equally many seeds at once
            some = np.flatnonzero(of_kind & (lengths == n))
            packed = values[some][used[some]].reshape(-1, n)
            described = _describe(kind, question, packed, step[some], int(of_kind.sum()))
            for name, column in described.items():
                found[name][some] = column
        if kind != "share" and of_kind.any():
            margin = question.margin if kind == "effect" else 0.0
            counted = np.where(used & judged[:, None], values, np.nan)[of_kind]
            decision = decide(counted, margin, question.alpha, sequential, step[of_kind])
            verdicts[of_kind], found["p"][of_kind], found["adjusted"][of_kind] = decision
    verdicts[~judged] = Verdict.UNDECIDED
    return [
        Estimate(
            values=values[row],
            used=used[row],
            judged=bool(judged[row]),
            verdict=Verdict(verdicts[row]),
            **{name: float(column[row]) for name, column in found.items()},
        )
        for row in range(len(values))
    ]


NUMBERS = ("p", "adjusted", "mean", "sd", "low", "high", "smallest", "needed")


def _describe(
    kind: Kind, question: Question, packed: Array, step: Array, count: int
) -> dict[str, Array]:
    """Compute `NUMBERS`, but for the p-values, of contrasts without gaps, [some, n].

    `count` is the number of all contrasts of this kind, which share alpha.
    """
    n, sequential, alpha = packed.shape[1], question.until == "decided", question.alpha
    mean, sd = packed.mean(1), np.full(len(packed), np.nan)
    found = {"mean": mean}
    if n >= 2:
        _, sd, _, low, high = t_test(packed, alpha, step)
        if sequential:
            low, high = confidence_sequence(packed, alpha, step)
        found |= {"sd": sd, "low": low, "high": high}
    if kind != "share":
        found["smallest"] = smallest_effect(n, sd, alpha / count, sequential)
    if kind == "effect" and n >= FEWEST_SEEDS:
        limit = n + MOST_MORE
        found["needed"] = seeds_needed(
            mean, sd, question.margin, alpha / count, n, sequential, limit, step
        )
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
