"""What is special to accuracies: they are counted on test samples, which are chance as well."""

from collections.abc import Iterable
from fractions import Fraction
from math import lcm, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FINEST = 10**6  # samples, from which on rounding does not matter


def find_step(scores: Iterable[float]) -> float:
    """Find the step that all scores are multiples of: 1/N of accuracies on N samples.

    With few different scores it may be a multiple of 1/N, which errs on the safe side.

    Returns:
        The largest such step from 1e-6 to 1/2; 0 if there is none, as of losses.
    """
    whole = 1
    for score in set(scores):
        fraction = Fraction(score).limit_denominator(FINEST)
        if abs(float(fraction) - score) > 1e-15:
            return 0.0
        whole = lcm(whole, fraction.denominator)
        if whole > FINEST:
            return 0.0
    return 1 / whole if whole > 1 else 0.0


def crossed_interval(table: NDArray[np.floating], alpha: float) -> tuple[float, float]:
    """Give the interval of a mean over seeds *and* test samples, both taken as drawn by chance.

    Of D = m + seed + sample + rest the variance of the mean is (MS_seeds + MS_samples - MS_rest)
    / (S N), without bias, from the analysis of variance of a crossed table; it is what resampling
    seeds and samples approaches, less what that counts twice (Owen, Annals of Applied Statistics,
    2007). The ends are mean +- t(1 - alpha/2, S - 1) sd, as the few seeds are what is known worst.

    Args:
        table: [S, N], for each seed and test sample the difference; S >= 2, N >= 2.
        alpha: One less the level.
    """
    seeds, samples = table.shape
    rows, columns = table.mean(1, dtype=float), table.mean(0, dtype=float)
    mean = float(rows.mean())
    by_seed, by_sample = samples * seeds * float(rows.var()), seeds * samples * float(columns.var())
    total = float(np.einsum("ij,ij->", table, table, dtype=float)) - seeds * samples * mean**2
    rest = max(total - by_seed - by_sample, 0.0) / ((seeds - 1) * (samples - 1))
    seed = by_seed / (seeds - 1)
    variance = max(seed + by_sample / (samples - 1) - rest, seed) / (seeds * samples)
    half = float(stats.t.isf(alpha / 2, seeds - 1)) * sqrt(variance)
    return mean - half, mean + half
