"""What is special to accuracies: they are counted on test samples, which are chance as well."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import lcm, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from runner.ablation.wording import is_share
from runner.store.runs import Run

FINEST = 10**6  # samples, from which on rounding does not matter


def find_step(scores: Iterable[float], metric: str = "", samples: float | None = None) -> float:
    """Find the step that all scores are multiples of: 1/N of accuracies on N samples.

    Where N is not known, it is found from the scores. With few different scores it may be a
    multiple of 1/N, which errs on the safe side; it is 1 for shares that are all 0 or 1.

    Args:
        scores: The scores of all runs.
        metric: What they are.
        samples: N, if it is known.

    Returns:
        The largest such step from 1e-6 on; 0 if there is none, as of losses.
    """
    scores = set(scores)
    if samples and all(abs(score * samples - round(score * samples)) < 1e-6 for score in scores):
        return 1 / samples
    whole = 1
    for score in scores:
        fraction = Fraction(score).limit_denominator(FINEST)
        if abs(float(fraction) - score) > 1e-15:
            return 0.0
        whole = lcm(whole, fraction.denominator)
        if whole > FINEST:
            return 0.0
    return 1 / whole if whole > 1 or is_share(metric) else 0.0


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


def samples_interval(
    weights: Mapping[str, float],
    seeds: Sequence[int],
    answers: Mapping[tuple[str, int], NDArray[np.bool_]],
    alpha: float,
) -> tuple[float, float] | None:
    """Give a contrast's interval over seeds and test samples; None if it is not known.

    Args:
        weights: For each variant that counts its weight.
        seeds: The seeds that count.
        answers: For each run, by variant and seed, [N] bool: which samples it answered right.
        alpha: One less the level.
    """
    runs = [(variant, seed) for variant in weights for seed in seeds]
    sizes = {answers[run].size if run in answers else 0 for run in runs}
    if len(seeds) < 2 or len(sizes) != 1 or min(sizes) < 2:
        return None
    table = np.zeros((len(seeds), sizes.pop()), np.float32)
    for row, seed in enumerate(seeds):
        for variant, weight in weights.items():
            table[row] += np.float32(weight) * answers[variant, seed]
    return crossed_interval(table, alpha)


def read_answers(runs: Mapping[tuple[str, int], Run]) -> dict[tuple[str, int], NDArray[np.bool_]]:
    """Read which samples each run answered right, of those that are done and can be read."""
    found = {key: run.correct() for key, run in runs.items() if run.result is not None}
    return {key: right for key, right in found.items() if right is not None}


def count_samples(variants: Iterable[str], runs: Mapping[tuple[str, int], Run]) -> int | None:
    """Count the test samples, by the answers of one run of each variant; None if none are there.

    Where variants have test sets of several sizes it is the smallest one, of the coarsest step.
    """
    done = {variant: run for (variant, _), run in runs.items() if run.result is not None}
    answers = (done[name].correct() for name in variants if name in done)
    return min((right.size for right in answers if right is not None), default=None)
