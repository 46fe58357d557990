"""The statistics of few seeds: one number a seed, over the last axis of every array.

With a number of seeds that was settled before, Student's t says how sure a difference is; where
seeds are added with an eye on the verdicts an e-value does, which stays valid however often one
looks. What is concluded from them is for `decide` to say.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]

FEWEST_SEEDS = 3
"""With fewer there is no verdict."""

POWER = 0.8
"""What is found 80 times in 100 counts as what can be found."""

SAME = 1e-9
"""Differences that differ by less than this share of the largest are equal but for rounding."""


def spread(sd: ArrayLike, step: ArrayLike, margin: float = 0.0) -> Array:
    """Give the standard deviation to reckon with, of differences that are rounded.

    A few equal differences of accuracies, which are counts of samples, would else pass for
    certainty. Against 0 it is sqrt(sd^2 + step^2 / 6): rounding two numbers adds that much. Against
    a margin it is at least sqrt(margin step): if they did differ by the margin, there were margin /
    step errors or more to count, and a count of rare events varies by their number (Poisson's).

    Args:
        sd: [...], of the differences as they are.
        step: [...], what the differences are multiples of; 0 if of nothing.
        margin: The margin that a test is against; 0 if it is against 0.
    """
    step = np.asarray(step, float)
    return np.asarray(np.sqrt(np.maximum(np.square(sd) + step**2 / 6, margin * step)))


class TTest(NamedTuple):
    """Student's test of a mean; every array is [...]."""

    mean: Array
    sd: Array
    p: Array
    """Two-sided, against a mean of 0."""
    low: Array
    high: Array


def t_test(differences: ArrayLike, alpha: float = 0.05, step: ArrayLike = 0.0) -> TTest:
    """Test whether a mean is 0, and give its interval: mean +- t(1 - alpha/2, n - 1) sd / sqrt(n).

    The p-value is NaN where all differences are the same but not 0, and are multiples of nothing:
    that says nothing about the spread.

    Args:
        differences: [..., n], n >= 2.
        alpha: One less the interval's level.
        step: [...], what the differences are multiples of; 0 if of nothing.
    """
    mean, sd, error, df = _moments(differences, step)
    half = stats.t.isf(alpha / 2, df) * error
    p = 2 * stats.t.sf(np.abs(_ratio(mean, error, mean)), df)
    return TTest(mean, sd, p, mean - half, mean + half)


def equivalence_p(differences: ArrayLike, margin: float, step: ArrayLike = 0.0) -> Array:
    """Test whether a mean is at least the margin, whichever way: two one-sided t tests.

    p = P(T > (margin - |mean|) / (sd / sqrt(n))), the larger of both (Schuirmann, Journal of
    Pharmacokinetics and Biopharmaceutics, 1987). NaN as in `t_test`, and where the margin is 0.

    Args:
        differences: [..., n], n >= 2.
        margin: The smallest difference that matters, >= 0.
        step: [...], what the differences are multiples of; 0 if of nothing.
    """
    mean, _, error, df = _moments(differences, step, margin)
    if margin <= 0:
        return np.full(mean.shape, np.nan)
    return np.asarray(stats.t.sf(_ratio(margin - np.abs(mean), error, mean), df))


def running_moments(
    differences: ArrayLike, step: ArrayLike = 0.0, margin: float = 0.0
) -> tuple[Array, Array]:
    """Give the mean and the `spread` of the first n, for each n (Welford's method).

    Args:
        differences: [..., N]. From a NaN on all is NaN.
        step: [...], what the differences are multiples of; 0 if of nothing.
        margin: The margin that a test is against; 0 if it is against 0.

    Returns:
        Both [..., N]; the spread of the first alone is NaN.
    """
    d = np.asarray(differences, float)
    means, sds = np.empty_like(d), np.full_like(d, np.nan)
    mean, squares, largest = (np.zeros(d.shape[:-1]) for _ in range(3))
    for index in range(d.shape[-1]):
        x = d[..., index]
        delta = x - mean
        mean = mean + delta / (index + 1)
        squares = squares + delta * (x - mean)
        largest = np.maximum(largest, np.abs(x))
        means[..., index] = mean
        if index:
            sd = _but_for_rounding(np.sqrt(squares / index), largest)
            sds[..., index] = spread(sd, step, margin)
    return means, sds


def log_e_values(mean: Array, sd: Array, null: float = 0.0) -> Array:
    """Weigh the evidence against a mean, after each seed: the log of the e-value.

    E_n = (1 + n)^(-1/2) [(1 + t^2/v) / (1 + t^2/(v (1 + n)))]^((v + 1)/2), v = n - 1: how likely
    t is under effects of N(0, 1) standard deviations, over how likely it is under none. If the mean
    is the null, E_n ever exceeds 1/alpha with a chance of at most alpha, whatever the standard
    deviation (Wang and Ramdas, https://arxiv.org/abs/2310.03722, the Gaussian mixture).

    Args:
        mean: [..., N], from `running_moments`.
        sd: [..., N], likewise.
        null: The mean that the evidence is against.

    Returns:
        [..., N]. 0 with one seed, and where all are the same but not 0, and have no step.
    """
    n = np.arange(1.0, mean.shape[-1] + 1)
    df = np.maximum(n - 1, 1.0)
    x = _ratio(mean - null, sd / np.sqrt(n), mean) ** 2 / df
    finite = np.where(np.isinf(x), 0.0, x)
    grown = np.where(np.isinf(x), np.log1p(n), np.log1p(finite) - np.log1p(finite / (1 + n)))
    found = (df + 1) / 2 * grown - np.log1p(n) / 2
    return np.where(np.isnan(x) & ~np.isnan(mean), 0.0, found)


def confidence_sequence(
    differences: ArrayLike, alpha: float, step: ArrayLike = 0.0
) -> tuple[Array, Array]:
    """Give the interval that stays valid under looking: every mean with an e-value < 1/alpha.

    Args:
        differences: [..., n], n >= 2.
        alpha: The chance that the mean ever lies outside, at most.
        step: [...], what the differences are multiples of; 0 if of nothing.

    Returns:
        Its ends, [...]; infinite where n is too small to exclude anything.
    """
    mean, _, error, df = _moments(differences, step)
    critical = critical_t(df + 1, alpha, sequential=True)
    half = critical * error if np.isfinite(critical) else np.full(mean.shape, np.inf)
    return mean - half, mean + half


def critical_t(n: ArrayLike, alpha: float, sequential: bool, sides: int = 2) -> Array:
    """Give the size that t must have to be significant.

    Of a sequence it is E_n = 1/alpha solved for t: with A = (sqrt(1 + n)/alpha)^(2/n) and
    q = 1/(1 + n), t^2 = (n - 1) (A - 1)/(1 - A q), for one side as for two; infinite if A q >= 1.

    Args:
        n: [...], seeds, >= 2.
        alpha: The error rate.
        sequential: Whether by the e-value; else by Student's t.
        sides: 1 or 2.
    """
    n = np.asarray(n, float)
    if not sequential:
        return np.asarray(stats.t.isf(alpha / sides, n - 1))
    grown = (np.sqrt(1 + n) / alpha) ** (2 / n)
    below = 1 - grown / (1 + n)
    square = (n - 1) * (grown - 1) / np.where(below > 0, below, 1.0)
    return np.where(below > 0, np.sqrt(square), np.inf)


def smallest_effect(
    n: int, sd: ArrayLike, alpha: float, sequential: bool = False, power: float = POWER
) -> Array:
    """Give the smallest effect that n seeds would find with the given power.

    The d with P(|T| >= critical t) = power, T noncentral t with n - 1 degrees of freedom and
    noncentrality d sqrt(n) / sd (Cohen, Statistical Power Analysis, 1988).

    Args:
        n: Seeds.
        sd: [...], the standard deviation of the differences.
        alpha: The error rate: the ablation's divided by its number of effects.
        sequential: Whether seeds are added until all is decided.
        power: How often it shall be found.

    Returns:
        [...]; infinite where n seeds decide nothing: up to 2, or to 4 and more of a sequence.
    """
    sd = np.asarray(sd, float)
    critical = critical_t(max(n, FEWEST_SEEDS), alpha, sequential)
    if n < FEWEST_SEEDS or not np.isfinite(critical):
        return np.full(sd.shape, np.inf)

    def missing(shift: float) -> float:
        return float(_two_sided(np.asarray(shift), np.asarray(n), critical)) - power

    most = 10 * float(critical) + 10
    shift = float(optimize.brentq(missing, 0, most, xtol=1e-12, rtol=1e-12))
    return np.asarray(sd * (shift / n**0.5))


def seeds_needed(
    mean: ArrayLike,
    sd: ArrayLike,
    margin: float,
    alpha: float,
    have: ArrayLike,
    sequential: bool = False,
    limit: int = 1000,
    step: ArrayLike = 0.0,
    power: float = POWER,
) -> Array:
    """Give the number of seeds that would probably decide, if mean and spread are as they seem.

    The smallest n > have with which either test finds what it looks for with the given power:
    the two-sided one that the effect is not 0, or the two one-sided ones that it is below the
    margin, theirs by P(both) >= P(one) + P(other) - 1.

    Args:
        mean: [...], of the differences.
        sd: [...], their `spread`.
        margin: The smallest difference that matters; 0 if every one does.
        alpha: The error rate: the ablation's divided by its number of effects.
        have: [...], the seeds so far, >= 2.
        sequential: Whether seeds are added until all is decided.
        limit: Where to give up.
        step: [...], what the differences are multiples of; 0 if of nothing.
        power: How often they shall decide.

    Returns:
        [...], old seeds and new; NaN if the limit would not do, or if there is no spread.
    """
    mean, sd, have = np.broadcast_arrays(np.abs(mean), sd, np.asarray(have, int))
    sd = np.where(sd > 0, sd, np.nan)

    def enough(n: NDArray[Any]) -> NDArray[np.bool_]:
        root = np.sqrt(n) / sd
        found = _two_sided(mean * root, n, critical_t(n, alpha, sequential))
        if margin > 0:
            root = np.sqrt(n) / np.maximum(sd, np.sqrt(margin * np.asarray(step)))
            critical = critical_t(n, alpha, sequential, sides=1)
            above, below = (_beyond((margin + s * mean) * root, n, critical) for s in (1, -1))
            found = np.fmax(found, above + below - 1)
        return np.asarray(found >= power)

    low, high = have.copy(), np.full(have.shape, limit)
    within = (have < limit) & enough(high)
    while np.any(high - low > 1):
        middle = np.where(high - low > 1, (low + high) // 2, high)
        done = enough(middle)
        low, high = np.where(done, low, middle), np.where(done, middle, high)
    return np.where(within, high, np.nan)


def _moments(
    differences: ArrayLike, step: ArrayLike, margin: float = 0.0
) -> tuple[Array, Array, Array, int]:
    """Mean, spread, standard error and degrees of freedom over the last axis."""
    d = np.asarray(differences, float)
    sd = spread(_but_for_rounding(d.std(-1, ddof=1), np.abs(d).max(-1)), step, margin)
    return d.mean(-1), sd, sd / np.sqrt(d.shape[-1]), d.shape[-1] - 1


def _but_for_rounding(sd: Array, largest: Array) -> Array:
    """Take what floating point left of no spread for none."""
    return np.where(sd <= SAME * largest, 0.0, sd)


def _ratio(off: Array, error: Array, mean: Array) -> Array:
    """Divide by the standard error. Without one it is 0 or infinite, and NaN unless all are 0."""
    flat = error == 0
    infinite = np.where(off == 0, 0.0, np.copysign(np.inf, off))
    t = np.where(flat, infinite, off / np.where(flat, 1.0, error))
    return np.where(flat & (mean != 0), np.nan, t)


def _two_sided(shift: Array, n: NDArray[Any], critical: Array) -> Array:
    """P(|T| >= critical) of a noncentral t."""
    return np.asarray(_beyond(shift, n, critical) + _beyond(-shift, n, critical))


def _beyond(shift: Array, n: NDArray[Any], critical: Array) -> Array:
    """P(T >= critical) of a noncentral t with n - 1 degrees of freedom."""
    finite = np.isfinite(critical)
    bound = np.where(finite, critical, 1.0)
    far = 10 * bound + 50  # from there on it is 1, or 0, and scipy gives NaN at last
    return np.where(finite, stats.nct.sf(bound, n - 1, np.clip(shift, -far, far)), 0.0)
