"""The statistics of few seeds: one number a seed, over the last axis of every array.

With a number of seeds that was settled before, Student's t says how sure a difference is; where
seeds are added with an eye on the verdicts an e-value does, which stays valid however often one
looks. What is concluded from them is for `decide` to say.
"""

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

FEWEST_SEEDS = 3
"""With fewer there is no verdict."""

SAME = 1e-9
"""Differences that differ by less than this share of the largest are equal but for rounding."""


class Moments(NamedTuple):
    """What a test of a mean needs; every array is [...]."""

    mean: Array
    sd: Array
    """The standard deviation, with n - 1 as the divisor; NaN of fewer than two."""
    n: Array
    df: Array
    """The degrees of freedom of `sd`: n - 1, or more where spreads are shared."""


def moments(differences: ArrayLike) -> Moments:
    """Give the moments of differences [..., n]; a NaN is a seed that is left out."""
    d = np.asarray(differences, float)
    there = ~np.isnan(d)
    n = there.sum(-1).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, d, 0.0).sum(-1) / n
        off = np.where(there, d - mean[..., None], 0.0)
        sd = np.sqrt(np.square(off).sum(-1) / np.where(n > 1, n - 1, np.nan))
    largest = np.where(there, np.abs(d), 0.0).max(-1, initial=0.0)
    return Moments(mean, _but_for_rounding(sd, largest), n, n - 1)


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

    sd: Array
    """The `spread`."""
    p: Array
    """Two-sided, against a mean of 0."""
    low: Array
    high: Array


def t_test(found: Moments, alpha: float = 0.05, step: ArrayLike = 0.0) -> TTest:
    """Test whether a mean is 0, and give its interval: mean +- t(1 - alpha/2, df) sd / sqrt(n).

    The p-value is NaN where all differences are the same but not 0, and are multiples of nothing:
    that says nothing about the spread.

    Args:
        found: [...], of two seeds or more; NaN of fewer.
        alpha: One less the interval's level.
        step: [...], what the differences are multiples of; 0 if of nothing.
    """
    sd, error = _error(found, step)
    half = scipy.stats.t.isf(alpha / 2, found.df) * error
    p = 2 * scipy.stats.t.sf(np.abs(_ratio(found.mean, error, found.mean)), found.df)
    return TTest(sd, np.asarray(p), found.mean - half, found.mean + half)


def equivalence_p(found: Moments, margin: float, step: ArrayLike = 0.0) -> Array:
    """Test whether a mean is at least the margin, whichever way: two one-sided t tests.

    p = P(T > (margin - |mean|) / (sd / sqrt(n))), the larger of both (Schuirmann, Journal of
    Pharmacokinetics and Biopharmaceutics, 1987). NaN as in `t_test`, and where the margin is 0.

    Args:
        found: [...], of two seeds or more; NaN of fewer.
        margin: The smallest difference that matters, >= 0.
        step: [...], what the differences are multiples of; 0 if of nothing.
    """
    if margin <= 0:
        return np.full(found.mean.shape, np.nan)
    _, error = _error(found, step, margin)
    t = _ratio(margin - np.abs(found.mean), error, found.mean)
    return np.asarray(scipy.stats.t.sf(t, found.df))


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


def log_e_values(mean: Array, sd: Array, null: float = 0.0, side: int = 0) -> Array:
    """Weigh the evidence against a mean, after each seed: the log of the e-value.

    E_n = (1 + n)^(-1/2) [(1 + t^2/v) / (1 + t^2/(v (1 + n)))]^((v + 1)/2), v = n - 1: how likely
    t is under effects of N(0, 1) standard deviations, over how likely it is under none. If the mean
    is the null, E_n ever exceeds 1/alpha with a chance of at most alpha, whatever the standard
    deviation (Wang and Ramdas, https://arxiv.org/abs/2310.03722, the Gaussian mixture).

    Evidence for one side alone is weighed by the half of these effects that lies there, which
    multiplies E_n by 2 P(T_(v + 1) < u), u = t sqrt((v + 1) n / ((1 + n) v + t^2)). It grows with
    t, and a mean beyond the null makes every t smaller: so it holds for all of those as well.

    Args:
        mean: [..., N], from `running_moments`.
        sd: [..., N], likewise.
        null: The mean that the evidence is against.
        side: 1 for evidence that the mean is above the null, -1 that it is below, 0 for either.

    Returns:
        [..., N]. 0 with one seed, and where all are the same but not 0, and have no step.
    """
    n = np.arange(1.0, mean.shape[-1] + 1)
    df = np.maximum(n - 1, 1.0)
    t = _ratio(mean - null, sd / np.sqrt(n), mean)
    x = t**2 / df
    finite = np.where(np.isinf(x), 0.0, x)
    grown = np.where(np.isinf(x), np.log1p(n), np.log1p(finite) - np.log1p(finite / (1 + n)))
    found = (df + 1) / 2 * grown - np.log1p(n) / 2
    if side:
        with np.errstate(invalid="ignore"):
            u = t * np.sqrt((df + 1) * n / ((1 + n) * df + t**2))
        u = np.where(np.isinf(t), np.copysign(np.sqrt((df + 1) * n), t), u)
        found = found + np.log(2) + scipy.stats.t.logcdf(side * u, df + 1)
        found[..., 0] = np.where(np.isnan(mean[..., 0]), np.nan, 0.0)
    return np.where(np.isnan(x) & ~np.isnan(mean), 0.0, found)


def confidence_sequence(found: Moments, alpha: float, step: ArrayLike = 0.0) -> tuple[Array, Array]:
    """Give the interval that stays valid under looking: every mean with an e-value < 1/alpha.

    Args:
        found: [...], of two seeds or more; NaN of fewer.
        alpha: The chance that the mean ever lies outside, at most.
        step: [...], what the differences are multiples of; 0 if of nothing.

    Returns:
        Its ends, [...]; infinite where n is too small to exclude anything.
    """
    _, error = _error(found, step)
    critical = critical_t(found.n, alpha, sequential=True)
    half = np.where(np.isfinite(critical), critical * error, np.inf)
    return found.mean - half, found.mean + half


def critical_t(
    n: ArrayLike, alpha: float, sequential: bool, sides: int = 2, gain: ArrayLike = 1.0
) -> Array:
    """Give the size that t must have to be significant.

    Of a sequence it is E_n = 1/alpha solved for t: with A = (sqrt(1 + n)/alpha)^(2/n) and
    q = 1/(1 + n), t^2 = (n - 1) (A - 1)/(1 - A q); infinite if A q >= 1. For one side it is that of
    2 alpha: the half of the effects that lies there counts twice, and what little the other half
    adds is left out.

    Args:
        n: [...], seeds, >= 2.
        alpha: The error rate.
        sequential: Whether by the e-value; else by Student's t.
        sides: 1 or 2.
        gain: [...], the degrees of freedom over n - 1, of spreads that are shared.
    """
    n = np.asarray(np.maximum(n, 1), float)  # none is as little as one
    if not sequential:
        return np.asarray(scipy.stats.t.isf(alpha / sides, gain * (n - 1)))
    grown = (np.sqrt(1 + n) / (alpha * (3 - sides))) ** (2 / n)
    below = 1 - grown / (1 + n)
    with np.errstate(invalid="ignore"):
        square = (n - 1) * (grown - 1) / np.where(below > 0, below, 1.0)
        return np.where(below > 0, np.sqrt(square), np.inf)


def _error(found: Moments, step: ArrayLike, margin: float = 0.0) -> tuple[Array, Array]:
    """The spread to reckon with, and the standard error."""
    sd = spread(found.sd, step, margin)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sd, sd / np.sqrt(found.n)


def _but_for_rounding(sd: Array, largest: Array) -> Array:
    """Take what floating point left of no spread for none."""
    return np.where(sd <= SAME * largest, 0.0, sd)


def _ratio(off: Array, error: Array, mean: Array) -> Array:
    """Divide by the standard error. Without one it is 0 or infinite, and NaN unless all are 0."""
    flat = error == 0
    infinite = np.where(off == 0, 0.0, np.copysign(np.inf, off))
    t = np.where(flat, infinite, off / np.where(flat, 1.0, error))
    return np.where(flat & (mean != 0), np.nan, t)
