"""What is special to accuracies: they are counted on test samples, which are chance as well."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm, sqrt
from statistics import fmean
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from runner.ablation.plan import Plan
from runner.ablation.statistics import FEWEST_SEEDS
from runner.ablation.wording import is_share
from runner.store.runs import Run

ACCURACY, MEAN_ACCURACY = "test/accuracy", "test/mean_accuracy"
"""The metrics that are counted on test samples: at the end, or the mean of some evaluations."""

FINEST = 10**6  # samples, from which on rounding does not matter


def find_step(scores: Iterable[float], metric: str = "", samples: float | None = None) -> float:
    """Find the step that all scores are multiples of: 1/N of accuracies on N samples.

    Where N is not known, it is found from the scores. With few different scores it may be a
    multiple of 1/N, which errs on the safe side; it is 1 for shares that are all 0 or 1.

    A mean of k evaluations is a multiple of 1/(N k), but its step is 1/N too: a run errs on the
    same samples each time. With the smaller step up to 10 % of simulated ablations with accuracies
    near 1 had a false verdict, at a nominal 5.

    Args:
        scores: The scores of all runs.
        metric: What they are.
        samples: N, if it is known.

    Returns:
        The largest such step from 1e-6 on; 0 if there is none, as of losses.
    """
    scores = set(scores)
    if samples and metric == MEAN_ACCURACY:
        return 1 / samples
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


def find_steps(
    plan: Plan, scores: NDArray[np.float64], samples: Mapping[str, float | None] | None = None
) -> NDArray[np.float64]:
    """Find for each contrast, [C], the step of the scores in its setting.

    Args:
        plan: The plan.
        scores: [variants, seeds], NaN where a run is not done.
        samples: For each setting N, where it is known.
    """
    rows = {variant: row for row, variant in enumerate(plan.variants)}
    steps: dict[str, float] = {}
    for setting, variants in plan.settings().items():
        own = scores[[rows[variant] for variant in variants]]
        known = own[~np.isnan(own)].tolist()
        steps[setting] = find_step(known, plan.question.metric, (samples or {}).get(setting))
    return np.array([steps[contrast.setting] for contrast in plan.contrasts])


class Crossed(NamedTuple):
    """The analysis of variance of a table of seeds and test samples, one difference in each cell.

    Of D_si = m + a_s + b_i + e_si the mean squares estimate, without bias:
    MS_seeds N var(a) + var(e), MS_samples S var(b) + var(e), MS_rest var(e).
    """

    mean: float
    seeds: int
    """S."""
    samples: int
    """N."""
    ms_seeds: float
    ms_samples: float
    ms_rest: float


def cross(table: NDArray[np.floating]) -> Crossed:
    """Analyse a table [S, N], S >= 2, N >= 2."""
    seeds, samples = table.shape
    rows, columns = table.mean(1, dtype=float), table.mean(0, dtype=float)
    mean = float(rows.mean())
    by_seed, by_sample = samples * seeds * float(rows.var()), seeds * samples * float(columns.var())
    total = float(np.einsum("ij,ij->", table, table, dtype=float)) - seeds * samples * mean**2
    rest = max(total - by_seed - by_sample, 0.0) / ((seeds - 1) * (samples - 1))
    return Crossed(mean, seeds, samples, by_seed / (seeds - 1), by_sample / (samples - 1), rest)


def crossed_interval(table: Crossed, alpha: float) -> tuple[float, float]:
    """Give the interval of a mean over seeds *and* test samples, both taken as drawn by chance.

    The variance of the mean is (MS_seeds + MS_samples - MS_rest) / (S N), without bias; it is what
    resampling seeds and samples approaches, less what that counts twice (Owen, Annals of Applied
    Statistics, 2007). The ends are mean +- t(1 - alpha/2, S - 1) sd, as the few seeds are what is
    known worst.

    Args:
        table: For each seed and test sample the difference.
        alpha: One less the level.
    """
    mean, seeds, samples, by_seed, by_sample, rest = table
    variance = max(by_seed + by_sample - rest, by_seed) / (seeds * samples)
    half = float(scipy.stats.t.isf(alpha / 2, seeds - 1)) * sqrt(variance)
    return mean - half, mean + half


def cross_answers(
    weights: Mapping[str, float],
    seeds: Sequence[int],
    answers: Mapping[tuple[str, int], NDArray[np.bool_]],
) -> Crossed | None:
    """Analyse a contrast over seeds and test samples; None if it is not known.

    Args:
        weights: For each variant that counts its weight.
        seeds: The seeds that count.
        answers: For each run, by variant and seed, [N] bool: which samples it answered right.
    """
    runs = [(variant, seed) for variant in weights for seed in seeds]
    sizes = {answers[run].size if run in answers else 0 for run in runs}
    if len(seeds) < 2 or len(sizes) != 1 or min(sizes) < 2:
        return None
    table = np.zeros((len(seeds), sizes.pop()), np.float32)
    factors = np.array([*weights.values()], np.float32)
    for row, seed in enumerate(seeds):
        right = np.stack([answers[variant, seed] for variant in weights])
        table[row] = (factors[:, None] * right).sum(axis=0)
    return cross(table)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What the variance of a difference from seed to seed is made of; the test set is fixed.

    With D_si = m + a_s + b_i + e_si for seed s and test sample i, seed s scores m + a_s plus the
    means of b and e over the N samples. The b_i are the same with every seed. So the variance over
    the seeds is var(a) + var(e) / N: what differs from training to training on however many
    samples, and what a larger test set would average out. The analysis of variance of the crossed
    table estimates the sum by MS_seeds / N, and the second term by MS_rest / N (Scheffé, The
    Analysis of Variance, 1959, chapter 7).
    """

    variance: float
    """Of the difference with one seed, in the metric's unit squared."""
    of_test_set: float
    """Its part that is due to the finite test set, var(e) / N; by chance it may exceed the sum."""
    of_seeds: float
    """The rest, at least 0: what no test set would average out."""
    share: float
    """The test set's, at most 1."""
    interval: tuple[float, float]
    """Of the share, at level 1 - alpha: MS_seeds is known from few seeds alone."""
    samples: int
    """N."""
    seeds: int
    """The seeds that this rests on."""


def split_noise(table: Crossed, alpha: float) -> Noise | None:
    """Split the variance of a difference over the seeds; None with two seeds, or without any.

    MS_seeds / MS_rest, over what it estimates, has an F distribution if scores are roughly normal:
    with S - 1 and (S - 1) (N - 1) degrees of freedom. It gives the interval of the share.
    """
    return _noise(table, alpha, table.seeds - 1) if table.seeds >= FEWEST_SEEDS else None


def pool_noise(
    contrasts: Sequence[tuple[Mapping[str, float], Crossed]], alpha: float
) -> Noise | None:
    """Split the variance over several contrasts together; None if there is none.

    Their mean squares are averaged. Contrasts share runs, so K of them are worth fewer: with the
    correlations r that their weights give to independent runs of one spread, K^2 / sum of r^2.

    Args:
        contrasts: The weights of each, and its table; all of the same test samples.
        alpha: One less the level of the interval.
    """
    names = dict.fromkeys(name for weights, _ in contrasts for name in weights)
    rows = np.array([[weights.get(name, 0.0) for name in names] for weights, _ in contrasts])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    several = len(rows) ** 2 / float(np.square(rows @ rows.T).sum())
    tables = [table for _, table in contrasts]
    fewest = min(tables, key=lambda table: table.seeds)
    pooled = fewest._replace(
        ms_seeds=fmean(table.ms_seeds for table in tables),
        ms_rest=fmean(table.ms_rest for table in tables),
    )
    return _noise(pooled, alpha, several * (fewest.seeds - 1))


def _noise(table: Crossed, alpha: float, df: float) -> Noise | None:
    if table.ms_seeds <= 0:
        return None
    ratio, df_rest = table.ms_rest / table.ms_seeds, df * (table.samples - 1)
    low, high = (
        ratio * float(scipy.stats.f.ppf(q, df, df_rest)) for q in (alpha / 2, 1 - alpha / 2)
    )
    variance, of_test_set = table.ms_seeds / table.samples, table.ms_rest / table.samples
    return Noise(
        variance=variance,
        of_test_set=of_test_set,
        of_seeds=max(variance - of_test_set, 0.0),
        share=min(ratio, 1.0),
        interval=(min(low, 1.0), min(high, 1.0)),
        samples=table.samples,
        seeds=table.seeds,
    )


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
