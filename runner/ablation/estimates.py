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
    values, least = _contrast(plan, scores)
    step = find_step(scores[~np.isnan(scores)].tolist()) * least
    there: NDArray[np.bool_] = ~np.isnan(values)
    sequential = plan.question.until == "decided"
    used = np.logical_and.accumulate(there, axis=1) if sequential else there
    enough = used.sum(1) >= (FEWEST_SEEDS if sequential else len(plan.seeds))
    judged = enough & (len(plan.seeds) >= FEWEST_SEEDS)
    found: dict[int, Estimate] = {}
    for kind in {contrast.kind: None for contrast in plan.contrasts}:
        rows = [row for row, contrast in enumerate(plan.contrasts) if contrast.kind == kind]
        numbers = values[rows], used[rows], judged[rows], step[rows]
        found |= zip(rows, _estimate(kind, plan.question, *numbers), strict=True)
    return [found[row] for row in range(len(plan.contrasts))]


def _estimate(
    kind: Kind,
    question: Question,
    values: Array,
    used: NDArray[np.bool_],
    judged: NDArray[np.bool_],
    step: Array,
) -> list[Estimate]:
    """Compute the estimates of all contrasts of a kind; those of equally many seeds at once."""
    described = np.full((len(DESCRIBED), len(values)), np.nan)
    lengths = used.sum(1)
    for n in sorted(set(lengths.tolist()) - {0}):
        some = np.flatnonzero(lengths == n)
        packed = values[some][used[some]].reshape(-1, n)
        described[:, some] = _describe(kind, question, packed, step[some], len(values))
    counted = np.where(used & judged[:, None] & (kind != "share"), values, np.nan)  # no verdict
    margin = question.margin if kind == "effect" else 0.0
    decision = decide(counted, margin, question.alpha, question.until == "decided", step)
    columns = (decision.verdict, decision.p, decision.adjusted, *described)
    names, rows = ("p", "adjusted", *DESCRIBED), zip(*(c.tolist() for c in columns), strict=True)
    return [
        Estimate(
            values=values[row],
            used=used[row],
            judged=bool(judged[row]),
            verdict=Verdict(verdict) if judged[row] else Verdict.UNDECIDED,
            **dict(zip(names, numbers, strict=True)),
        )
        for row, (verdict, *numbers) in enumerate(rows)
    ]


DESCRIBED = ("mean", "sd", "low", "high", "smallest", "needed")


def _describe(kind: Kind, question: Question, packed: Array, step: Array, count: int) -> Array:
    """Compute `DESCRIBED` from the values of some contrasts without gaps, [some, n].

    `count` is the number of all contrasts of this kind, which share alpha.
    """
    n, sequential, alpha = packed.shape[1], question.until == "decided", question.alpha
    found = dict.fromkeys(DESCRIBED, np.full(len(packed), np.nan)) | {"mean": packed.mean(1)}
    if n >= 2:
        test = t_test(packed, alpha, step)
        low, high = confidence_sequence(packed, alpha, step) if sequential else test[3:]
        found |= {"sd": test.sd, "low": low, "high": high}
    if kind != "share":
        found["smallest"] = smallest_effect(n, found["sd"], alpha / count, sequential)
    if kind == "effect" and n >= FEWEST_SEEDS:
        found["needed"] = seeds_needed(
            *(found["mean"], found["sd"], question.margin, alpha / count),
            have=n,
            sequential=sequential,
            limit=n + MOST_MORE,
            step=step,
        )
    return np.stack([found[name] for name in DESCRIBED])


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
