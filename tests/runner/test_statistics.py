import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from runner.ablation.power import seeds_needed, smallest_effect
from runner.ablation.sampling import cross, crossed_interval, find_step
from runner.ablation.statistics import (
    confidence_sequence,
    critical_t,
    equivalence_p,
    log_e_values,
    moments,
    running_moments,
    spread,
    t_test,
)

EXACT = {"rel": 1e-9, "abs": 1e-12}


def differences(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.0, shape)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_t_test_and_its_interval_are_scipys(n):
    with_it, without = differences(4, n, seed=1), differences(4, n, seed=2)
    ours = t_test(moments(with_it - without), alpha=0.1)
    theirs = stats.ttest_rel(with_it, without, axis=-1)
    ends = theirs.confidence_interval(0.9)
    assert ours.p == pytest.approx(theirs.pvalue, **EXACT)
    assert ours.low == pytest.approx(ends.low, **EXACT)
    assert ours.high == pytest.approx(ends.high, **EXACT)


@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
def test_equivalence_is_tested_as_statsmodels_does(margin):
    for seed in range(10):
        d = differences(6, seed=seed)
        theirs, *_ = ttost_paired(d, np.zeros(6), -margin, margin)
        assert equivalence_p(moments(d), margin) == pytest.approx(theirs, **EXACT)


def test_every_function_works_over_the_last_axis_whatever_comes_before():
    d = differences(2, 3, 7)
    assert t_test(moments(d)).p[1, 2] == t_test(moments(d[1, 2])).p
    assert equivalence_p(moments(d), 0.5)[1, 2] == equivalence_p(moments(d[1, 2]), 0.5)
    assert (
        confidence_sequence(moments(d), 0.05)[0][1, 2]
        == confidence_sequence(moments(d[1, 2]), 0.05)[0]
    )
    means, sds = running_moments(d)
    assert log_e_values(means, sds)[1, 2].tolist() == log_e_values(means[1, 2], sds[1, 2]).tolist()


def test_running_moments_are_those_of_the_first_n():
    d = 1e3 + differences(2, 30)
    means, sds = running_moments(d)
    for n in range(2, 31):
        assert means[:, n - 1] == pytest.approx(d[:, :n].mean(-1), **EXACT)
        assert sds[:, n - 1] == pytest.approx(d[:, :n].std(-1, ddof=1), **EXACT)
    assert means[:, 0].tolist() == d[:, 0].tolist()
    assert np.isnan(sds[:, 0]).all()


@pytest.mark.parametrize("null", [0.0, 0.8])
@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_the_e_value_is_the_likelihood_of_t_averaged_over_effects(n, null):
    d = differences(n)
    t = stats.ttest_1samp(d, null).statistic
    mixed, _ = integrate.quad(
        lambda effect: stats.nct.pdf(t, n - 1, effect * np.sqrt(n)) * stats.norm.pdf(effect),
        -9,
        9,
        epsabs=1e-13,
        limit=200,
    )
    found = log_e_values(*running_moments(d), null)[-1]
    assert np.exp(found) == pytest.approx(mixed / stats.t.pdf(t, n - 1), rel=1e-8)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_evidence_for_one_side_is_averaged_over_the_effects_that_lie_there(n, side):
    d, null = differences(n), 0.6
    t = stats.ttest_1samp(d, null).statistic
    mixed, _ = integrate.quad(
        lambda size: 2 * stats.nct.pdf(t, n - 1, side * size * n**0.5) * stats.norm.pdf(size),
        0,
        9,
        epsabs=1e-13,
        limit=200,
    )
    found = log_e_values(*running_moments(d), null, side)[-1]
    assert np.exp(found) == pytest.approx(mixed / stats.t.pdf(t, n - 1), rel=1e-8)


def test_a_mean_beyond_the_null_leaves_less_evidence_at_every_look():
    d = differences(50, 30)
    at, beyond = (log_e_values(*running_moments(d - shift), 0.0, 1) for shift in (0.0, 0.4))
    assert (at[:, 1:] > beyond[:, 1:]).all()


def test_with_one_seed_there_is_no_evidence():
    assert log_e_values(*running_moments([3.0, 1.0]))[0] == 0.0


@pytest.mark.parametrize("n", [5, 8, 30])
def test_at_the_ends_of_the_confidence_sequence_the_e_value_is_1_over_alpha(n):
    d = differences(n)
    for end in confidence_sequence(moments(d), 0.05):
        assert np.exp(log_e_values(*running_moments(d), float(end))[-1]) == pytest.approx(20)
    inside = float(d.mean())
    assert log_e_values(*running_moments(d), inside)[-1] < 0


def test_a_confidence_sequence_of_few_seeds_is_endless():
    assert [float(end) for end in confidence_sequence(moments(differences(4)), 0.05)] == [
        -np.inf,
        np.inf,
    ]


def test_a_mean_of_the_null_is_rarely_excluded_at_any_look_and_naive_tests_often_are():
    d = np.random.default_rng(0).standard_normal((10_000, 30))
    means, sds = running_moments(d)
    ever = (log_e_values(means, sds) >= np.log(20)).any(-1).mean()
    t = means[:, 2:] / sds[:, 2:] * np.sqrt(np.arange(3, 31))
    naive = (np.abs(t) > critical_t(np.arange(3, 31), 0.05, sequential=False)).any(-1).mean()
    assert ever < 0.03
    assert naive > 0.2


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_smallest_effect_has_a_power_of_80_percent_by_statsmodels(n, alpha):
    effect, scaled = smallest_effect(n, [1.0, 2.5], alpha)
    assert TTestPower().power(effect, n, alpha) == pytest.approx(0.8, **EXACT)
    assert scaled == pytest.approx(2.5 * effect)


def test_too_few_seeds_can_show_nothing():
    assert smallest_effect(2, 1.0, 0.05) == np.inf
    assert smallest_effect(4, 1.0, 0.05, sequential=True) == np.inf


@pytest.mark.parametrize("n", [5, 12])
def test_what_a_sequence_can_show_is_found_80_times_in_100(n):
    effect = float(smallest_effect(n, 1.0, 0.05, sequential=True))
    d = np.random.default_rng(0).normal(effect, 1.0, (20_000, n))
    found = log_e_values(*running_moments(d))[:, -1] >= np.log(20)
    assert found.mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("mean", [0.3, 0.7, 1.5])
def test_the_seeds_needed_are_the_first_that_have_the_power(mean):
    power = TTestPower().power
    first = next(n for n in range(4, 1000) if power(mean, n, 0.01) >= 0.8)
    assert seeds_needed(mean, 1.0, 0.0, 0.01, 3) == first
    assert seeds_needed(-mean, 1.0, 0.0, 0.01, first + 5) == first + 6


def test_the_seeds_needed_to_call_an_effect_negligible_do_so_80_times_in_100():
    n = int(seeds_needed(0.2, 1.0, 1.0, 0.05, 3))
    d = np.random.default_rng(0).normal(0.2, 1.0, (20_000, n))
    rate = (equivalence_p(moments(d), 1.0) <= 0.05).mean()
    fewer = (equivalence_p(moments(d[:, :-1]), 1.0) <= 0.05).mean()
    assert fewer < 0.8 <= rate + 0.01


def test_where_a_thousand_seeds_would_not_do_none_are_named():
    assert np.isnan(seeds_needed([0.01, 0.0], 1.0, 0.0, 0.05, 3)).all()
    assert np.isnan(seeds_needed(0.5, 0.0, 1.0, 0.05, 3))  # no spread, so nothing to go by


def test_of_equal_differences_nothing_is_sure_but_that_all_are_0():
    d = np.array([[0.1, 0.1, 0.1], [0.0, 0.0, 0.0]])
    assert np.isnan(t_test(moments(d)).p[0])
    assert np.isnan(equivalence_p(moments(d), 0.5)[0])
    assert t_test(moments(d)).p[1] == 1
    assert equivalence_p(moments(d), 0.5)[1] == 0
    assert log_e_values(*running_moments(d))[0].tolist() == [0, 0, 0]


def test_equal_but_for_floating_point_is_equal():
    d = np.array([0.8 - 0.7, 0.3 - 0.2, 0.1, 0.6 - 0.5])  # four numbers, one value
    assert len(set(d.tolist())) > 1
    assert np.isnan(t_test(moments(d)).p)


def test_rounding_and_counting_add_to_the_spread():
    step = 1 / 100
    assert spread(0.03, step) == pytest.approx(np.sqrt(0.03**2 + step**2 / 6))
    assert spread(0.03, step, margin=0.25) == pytest.approx(np.sqrt(0.25 * step))
    assert spread(0.03, 0.0, margin=0.25) == 0.03
    t = 0.02 / (spread(0.0, step) / np.sqrt(5))
    assert t_test(moments([0.02] * 5), step=step).p == pytest.approx(2 * stats.t.sf(t, 4))


@pytest.mark.parametrize("samples", [359, 10_000, 50_000])
def test_the_step_of_accuracies_is_one_test_sample(samples):
    counts = np.random.default_rng(0).integers(samples // 2, samples, 20)
    right = np.arange(samples) < counts[:, None]
    assert find_step(right.mean(1).tolist()) == 1 / samples


def test_losses_have_no_step_and_neither_have_equal_whole_numbers():
    assert find_step(differences(3).tolist()) == 0
    assert find_step([1.0, 1.0, 0.0]) == 0


def test_the_interval_over_samples_is_what_resampling_seeds_and_samples_approaches():
    draw = np.random.default_rng(0)
    seeds, samples = 40, 400
    table = draw.normal(0, 0.1, (seeds, 1)) + draw.normal(0, 1, samples)
    table = table + draw.normal(0, 0.1, (seeds, samples))
    low, high = crossed_interval(cross(table), 0.05)
    means = [
        table[draw.integers(0, seeds, seeds)][:, draw.integers(0, samples, samples)].mean()
        for _ in range(2000)
    ]
    sd = (high - low) / 2 / stats.t.isf(0.025, seeds - 1)
    assert (low + high) / 2 == pytest.approx(table.mean())
    assert sd == pytest.approx(np.std(means), rel=0.06)


def test_the_variance_over_seeds_and_samples_is_right_on_average():
    draw = np.random.default_rng(0)
    found = []
    for _ in range(3000):
        table = draw.normal(0, 0.3, (5, 1)) + draw.normal(0, 1, 50) + draw.normal(0, 2, (5, 50))
        low, high = crossed_interval(cross(table), 0.05)
        found.append(((high - low) / 2 / stats.t.isf(0.025, 4)) ** 2)
    assert np.mean(found) == pytest.approx(0.3**2 / 5 + 1 / 50 + 2**2 / 250, rel=0.05)


def test_without_any_part_of_the_samples_it_is_the_t_interval_of_the_seeds():
    by_seed = differences(5)
    table = np.repeat(by_seed[:, None], 30, axis=1)
    test = t_test(moments(by_seed))
    assert crossed_interval(cross(table), 0.05) == pytest.approx((test.low, test.high), **EXACT)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.integers(-50, 50), min_size=3, max_size=8),
    st.sampled_from([0.25, 8.0, 1024.0]),
    st.floats(-4, 4),
)
def test_tests_know_no_unit(whole, scale, null):
    d = np.array(whole) / 7
    for one, other in (
        (t_test(moments(d)).p, t_test(moments(scale * d)).p),
        (equivalence_p(moments(d), 2.0), equivalence_p(moments(scale * d), scale * 2.0)),
        (
            log_e_values(*running_moments(d), null),
            log_e_values(*running_moments(scale * d), scale * null),
        ),
    ):
        assert one == pytest.approx(other, nan_ok=True, **EXACT)
