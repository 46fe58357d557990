"""Where the noise of a difference comes from: training, or the finite test set."""

import numpy as np
import pytest

from runner.ablation.sampling import cross, pool_noise, split_noise

SEED, SAMPLE, REST = 0.05, 1.0, 0.6
"""Standard deviations: of a seed, of a test sample, and of a seed on a sample."""


def scores_of(draw, variants, seeds, samples):
    """Draw [variants, seeds, samples]; the samples are as hard for each variant with every seed."""
    seed, sample = (variants, seeds, 1), (variants, 1, samples)
    rest = draw.normal(0, REST, (variants, seeds, samples))
    return draw.normal(0, SEED, seed) + draw.normal(0, SAMPLE, sample) + rest


def test_the_noise_is_split_into_what_training_and_the_test_set_put_in():
    draw = np.random.default_rng(0)
    found, covered, share = [], 0, REST**2 / 100 / (SEED**2 + REST**2 / 100)
    for _ in range(1000):
        one, other = scores_of(draw, 2, seeds=6, samples=100)
        noise = split_noise(cross(one - other), 0.05)
        found.append((noise.variance, noise.of_test_set))
        covered += noise.interval[0] <= share <= noise.interval[1]
    variance, of_test_set = np.mean(found, axis=0)
    assert variance == pytest.approx(2 * (SEED**2 + REST**2 / 100), rel=0.04)
    assert of_test_set == pytest.approx(2 * REST**2 / 100, rel=0.02)
    assert covered / 1000 == pytest.approx(0.95, abs=0.02)


def test_four_times_the_test_samples_leave_the_noise_that_is_foretold():
    draw = np.random.default_rng(0)
    one, other = scores_of(draw, 2, seeds=400, samples=400)
    noise = split_noise(cross((one - other)[:, :100]), 0.05)
    left = (one - other).mean(1).var(ddof=1)
    assert left / noise.variance == pytest.approx(1 - 0.75 * noise.share, rel=0.15)


def test_effects_that_share_a_baseline_are_pooled_for_what_they_are_worth():
    draw = np.random.default_rng(0)
    weights = [{"baseline": -1.0, name: 1.0} for name in "abcde"]
    share, found = REST**2 / 100 / (SEED**2 + REST**2 / 100), []
    for _ in range(500):
        baseline, *others = scores_of(draw, 6, seeds=5, samples=100)
        tables = [cross(other - baseline) for other in others]
        noise = pool_noise([*zip(weights, tables, strict=True)], 0.05)
        alone = split_noise(tables[0], 0.05)
        covers = noise.interval[0] <= share <= noise.interval[1]
        found.append((covers, *(high - low for low, high in (noise.interval, alone.interval))))
    covered, pooled, of_one = np.mean(found, axis=0)
    assert 0.93 < covered < 0.98
    assert pooled < 0.9 * of_one


def test_of_two_seeds_and_of_equal_ones_no_noise_is_split():
    table = np.random.default_rng(0).normal(0, 1, (3, 50))
    assert split_noise(cross(table[:2]), 0.05) is None
    assert split_noise(cross(np.repeat(table[:1], 3, axis=0)), 0.05) is None
    assert split_noise(cross(table), 0.05).share <= 1
