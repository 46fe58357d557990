"""The one rule that makes verdicts; `benchmarks/calibration.py` measures its error rates.

Two statements are tested for each effect: "it is 0", and "it is at least the margin, in either
direction". A rejected statement gives the verdict: HELPS or HURTS, or NEGLIGIBLE.
"""

from collections.abc import Sequence
from enum import StrEnum
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.ablation.sharing import Sharing, share
from runner.ablation.statistics import (
    FEWEST_SEEDS,
    Array,
    equivalence_p,
    log_e_values,
    moments,
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
    """It changed nothing: with every seed the weights and predictions equal those without it."""
    BROKEN = "BROKEN"
    """Runs with it fail or diverge more often than those without it, by more than chance."""
    NONE = "NO VERDICT"
    """Too few seeds or unfinished runs: nothing is concluded."""


GROWTH = 1.5
"""A look comes with so many times the seeds of the one before."""


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
    sharing: Sharing | None = None,
) -> Decision:
    """Decide which effects help, hurt or are negligible, by their paired differences.

    Args:
        differences: [..., K, n]. NaN: of a fixed number of seeds, one that is left out; of a
            sequence, its end. An effect with fewer than three is not judged, and counts in K.
        margin: The smallest difference that matters; 0 if every one does.
        alpha: The accepted rate of false verdicts, over all K together.
        sequential: Whether seeds were added with an eye on the verdicts.
        step: [..., K], what the differences are multiples of; 0 if of nothing. See `spread`.
        sharing: How spreads are shared; None if they are not. A sequence never shares them.
    """
    d = np.asarray(differences, float)
    tests = _anytime(d, margin, step) if sequential else paired_tests(d, margin, step, sharing)
    return conclude(tests, margin, alpha)


def paired_tests(
    differences: ArrayLike, margin: float, step: ArrayLike = 0.0, sharing: Sharing | None = None
) -> Tests:
    """Test each effect once, of a number of seeds that was settled before; see `decide`."""
    found = moments(differences)
    few = found.n < FEWEST_SEEDS
    if sharing is not None:
        found = share(found, sharing)
    p = t_test(found, step=step).p, equivalence_p(found, margin, step)
    return Tests(found.mean, *(np.where(few, np.nan, each) for each in p))


def plan_looks(first: int, most: int) -> tuple[int, ...]:
    """Give the numbers of seeds to look at: each `GROWTH` times the one before, up to the most.

    >>> plan_looks(5, 30)
    (5, 8, 12, 18, 27, 30)
    """
    looks = [first]
    while looks[-1] < most:
        looks.append(min(most, ceil(GROWTH * looks[-1])))
    return tuple(looks)


def paired_tests_at_looks(
    differences: ArrayLike,
    settled: NDArray[np.bool_],
    looks: Sequence[int],
    margin: float,
    step: ArrayLike = 0.0,
    sharing: Sharing | None = None,
) -> Tests:
    """Test each effect at a few numbers of seeds, which were settled before the first run.

    Each look has an equal share of the error rate: p = J min_j p_j over the looks so far, J planned
    in all. Under a true statement that is at most a with a chance of at most a, however the looks
    depend on each other, since each of the J chances is at most a / J (Bonferroni).

    Args:
        differences: [..., K, S]; NaN: a seed that is left out, or not settled.
        settled: [..., K, S], whether all runs of the difference with the seed have ended. At a look
            that it has not reached an effect is not tested; its spread is shared all the same.
        looks: The planned numbers of seeds, rising.
        margin: As in `decide`.
        step: As in `decide`.
        sharing: As in `decide`.
    """
    d, reached = np.asarray(differences, float), settled.sum(-1)
    nothing = np.full(d.shape[:-1], np.nan)
    best = Tests(nothing, nothing, nothing)
    for n in looks:
        if n <= d.shape[-1]:
            now = paired_tests(d[..., :n], margin, step, sharing)
            times = [np.minimum(len(looks) * each, 1.0) for each in now[1:]]
            p = (np.where(reached >= n, each, np.nan) for each in times)
            best = _smaller(best, Tests(now.sign, *p))
    return best


def _smaller(one: Tests, other: Tests) -> Tests:
    """The smaller p-values of two looks, and the sign that belongs to that against 0."""
    better = (other.p_zero < one.p_zero) | np.isnan(one.sign)
    p_zero, p_margin = np.fmin(one.p_zero, other.p_zero), np.fmin(one.p_margin, other.p_margin)
    return Tests(np.where(better, other.sign, one.sign), p_zero, p_margin)


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


def _anytime(d: Array, margin: float, step: ArrayLike) -> Tests:
    """The sign and both p-values, each one over the largest e-value so far."""
    if d.shape[-1] < FEWEST_SEEDS:
        nothing = np.full(d.shape[:-1], np.nan)
        return Tests(nothing, nothing, nothing)
    mean, sd = running_moments(d, step)
    zero = log_e_values(mean, sd)
    best = np.where(np.isnan(zero), -np.inf, zero).argmax(-1)[..., None]
    sign = np.take_along_axis(mean, best, -1)[..., 0]
    p_zero = _one_over_largest(zero)
    if margin <= 0:
        return Tests(sign, p_zero, np.full(p_zero.shape, np.nan))
    mean, sd = running_moments(d, step, margin)
    below, above = (
        _one_over_largest(log_e_values(mean, sd, -side * margin, side)) for side in (-1, 1)
    )
    return Tests(sign, p_zero, np.maximum(below, above))


def _one_over_largest(log_e: Array) -> Array:
    """1 over the largest e-value, 1 at most; NaN where there is not one seed."""
    largest = np.where(np.isnan(log_e), -np.inf, log_e).max(-1)
    p: Array = np.exp(-np.maximum(largest, 0.0))
    return np.where(np.isnan(log_e[..., 0]), np.nan, p)
