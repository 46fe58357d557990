"""The one rule that makes verdicts; `benchmarks/calibration.py` measures its error rates.

Two statements are tested for each effect: "it is 0", and "it is at least the margin, in either
direction". A rejected statement gives the verdict: HELPS or HURTS, or NEGLIGIBLE.
"""

from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.ablation.statistics import (
    FEWEST_SEEDS,
    Array,
    equivalence_p,
    log_e_values,
    running_moments,
    t_test,
)


class Verdict(StrEnum):
    """What may be concluded about an effect; the rule below gives one of the first four."""

    HELPS = "HELPS"
    HURTS = "HURTS"
    NEGLIGIBLE = "NEGLIGIBLE"
    """Smaller than the margin, in either direction."""
    UNDECIDED = "UNDECIDED"
    INACTIVE = "INACTIVE"
    """It changed nothing: with every seed the trained weights equal those without it."""
    BROKEN = "BROKEN"
    """Runs with it fail or diverge more often than those without it, by more than chance."""
    NONE = "NO VERDICT"
    """Too few seeds or unfinished runs: nothing is concluded."""


class Tests(NamedTuple):
    """The two tests of each effect; every array is [..., K]."""

    sign: Array
    """Of the effect, as it seems: > 0 if more is better."""
    p_zero: Array
    """Against no effect, two-sided; NaN if the effect is not judged."""
    p_margin: Array
    """Against an effect of the margin or more, in either direction; NaN without a margin."""


class Decision(NamedTuple):
    """What the rule says of a family of effects; every array is [..., K]."""

    verdict: NDArray[np.str_]
    """Values of `Verdict`."""
    p: Array
    """Against no effect, two-sided; NaN if the effect was not judged."""
    adjusted: Array
    """The same for the number of effects: what is compared with alpha."""
    within: NDArray[np.bool_]
    """Whether it is smaller than the margin, in either direction, at the same error rate."""


def decide(
    differences: ArrayLike,
    margin: float,
    alpha: float,
    sequential: bool = False,
    step: ArrayLike = 0.0,
) -> Decision:
    """Decide which effects help, hurt or are negligible, by their paired differences.

    Args:
        differences: [..., K, n]. NaN: of a fixed number of seeds, one that is left out; of a
            sequence, its end. An effect with fewer than three is not judged, and counts in K.
        margin: The smallest difference that matters; 0 if every one does.
        alpha: The accepted rate of false verdicts, over all K together.
        sequential: Whether seeds were added with an eye on the verdicts.
        step: [..., K], what the differences are multiples of; 0 if of nothing. See `spread`.
    """
    d = np.asarray(differences, float)
    if d.shape[-1] < FEWEST_SEEDS:
        nothing = np.full(d.shape[:-1], np.nan)
        return conclude(Tests(nothing, nothing, nothing), margin, alpha)
    return conclude((_anytime if sequential else _once)(d, margin, step), margin, alpha)


def conclude(tests: Tests, margin: float, alpha: float) -> Decision:
    """Conclude from the two tests of each effect, at one error rate for all together.

    The smaller of an effect's two p-values gives its verdict, if it is <= alpha / L, where L counts
    the effects of which not both statements are rejected. At most one statement of an effect is
    true, and L is never less than the number of true statements until one of them is rejected. So
    the chance of any false verdict is at most alpha, whatever the effects are and however they
    depend on each other (Shaffer, Journal of the American Statistical Association, 1986). Dropping
    an effect from the count as soon as one of its statements is rejected, as Holm's method does
    where there is one each, errs in up to 19 % at a nominal 5, with ten effects. Without a margin
    the rule is Holm's.

    Args:
        tests: Of the K effects; one that is not judged counts in K.
        margin: The smallest difference that matters; 0 if every one does.
        alpha: The accepted rate of false verdicts, over all K together.
    """
    sign, p_zero, p_margin = tests
    smaller = np.fmin(p_zero, p_margin)  # without a margin there is one statement alone
    larger = p_zero if margin <= 0 else np.maximum(p_zero, p_margin)
    found = adjust(smaller, larger) <= alpha
    direction = np.where(sign > 0, Verdict.HELPS, Verdict.HURTS)
    verdict = np.where(p_margin < p_zero, Verdict.NEGLIGIBLE, direction)
    verdict = np.where(found, verdict, Verdict.UNDECIDED)
    within = adjust(p_margin, larger) <= alpha  # False where it is NaN
    return Decision(verdict, p_zero, adjust(p_zero, larger), within)


def adjust(p: ArrayLike, leaves: ArrayLike) -> Array:
    """Adjust p-values for their number: min over j < K of max(H_j, (K - j) p), H_0 = 0.

    H_j is the j-th smallest of Holm's adjusted `leaves`: from that error rate on, j effects have
    left the count. With `leaves` equal to `p` it is Holm's method.

    Args:
        p: [..., K]; NaN stays NaN and counts.
        leaves: [..., K], the p-value at which an effect leaves the count; NaN if it never does.
    """
    p, leaves = np.asarray(p, float), np.asarray(leaves, float)
    count = p.shape[-1]
    ordered = np.sort(np.where(np.isnan(leaves), np.inf, leaves), axis=-1)
    left = np.maximum.accumulate(ordered * np.arange(count, 0, -1), axis=-1)
    adjusted = count * p
    for gone in range(1, count):
        adjusted = np.minimum(adjusted, np.maximum(left[..., gone - 1, None], (count - gone) * p))
    return np.asarray(np.minimum(adjusted, 1.0))


def _once(d: Array, margin: float, step: ArrayLike) -> Tests:
    """The sign and both p-values, of as many seeds as each effect has."""
    counts = (~np.isnan(d)).sum(-1)
    steps = np.broadcast_to(np.asarray(step, float), counts.shape)
    sign, p_zero, p_margin = (np.full(counts.shape, np.nan) for _ in range(3))
    for n in np.unique(counts[counts >= FEWEST_SEEDS]).tolist():
        rows = counts == n
        packed = d[rows][~np.isnan(d[rows])].reshape(-1, n)
        test = t_test(packed, step=steps[rows])
        sign[rows], p_zero[rows] = test.mean, test.p
        p_margin[rows] = equivalence_p(packed, margin, steps[rows])
    return Tests(sign, p_zero, p_margin)


def _anytime(d: Array, margin: float, step: ArrayLike) -> Tests:
    """The sign and both p-values, each one over the largest e-value so far.

    Against a margin counts the evidence of an estimate on its inner side alone.
    """
    mean, sd = running_moments(d, step)
    zero = log_e_values(mean, sd)
    best = np.where(np.isnan(zero), -np.inf, zero).argmax(-1)[..., None]
    sign = np.take_along_axis(mean, best, -1)[..., 0]
    p_zero = _one_over_largest(zero, ~np.isnan(mean))
    if margin <= 0:
        return Tests(sign, p_zero, np.full(p_zero.shape, np.nan))
    mean, sd = running_moments(d, step, margin)
    upper = _one_over_largest(log_e_values(mean, sd, margin), mean < margin)
    lower = _one_over_largest(log_e_values(mean, sd, -margin), mean > -margin)
    return Tests(sign, p_zero, np.maximum(upper, lower))


def _one_over_largest(log_e: Array, counts: NDArray[Any]) -> Array:
    """1 over the largest e-value that counts, 1 at most; NaN where there is not one seed."""
    largest = np.where(counts, log_e, -np.inf).max(-1)
    p: Array = np.exp(-np.maximum(largest, 0.0))
    return np.where(np.isnan(log_e[..., 0]), np.nan, p)
