import numpy as np
import pytest
from scipy import sparse, stats

from runner.ablation.decide import (
    Verdict,
    conclude,
    decide,
    paired_tests,
    paired_tests_at_looks,
    plan_looks,
)
from runner.ablation.estimates import estimate
from runner.ablation.sharing import find_sharing, gain_of, share
from runner.ablation.statistics import Moments, moments
from tests.builders import make_plan, trick


def against_the_baseline(count):
    """Weights of tricks against one baseline, [K, 1 + K]."""
    return np.hstack([-np.ones((count, 1)), np.eye(count)])


def sharing_of(weights):
    return find_sharing(sparse.csr_array(np.asarray(weights, float)))


def draw(weights, families, seeds, scales=1.0, seed=0):
    weights = np.asarray(weights, float)
    scores = np.random.default_rng(seed).standard_normal((families, weights.shape[1], seeds))
    return weights @ (scores * np.broadcast_to(scales, weights.shape[1])[:, None])


def test_a_shared_spread_is_partly_its_own_and_partly_that_of_all():
    own = np.array([1.0, 2.0, 2.5])
    found = share(
        Moments(np.zeros(3), own, np.full(3, 4.0), np.full(3, 3.0)), sharing_of(np.eye(3))
    )
    assert found.sd**2 == pytest.approx(0.4 * own**2 + 0.6 * np.mean(own**2))
    assert found.df == pytest.approx(3 * 300 / 174)


def test_differences_with_a_common_run_share_their_spread_from_four_seeds_on_or_from_seven():
    steps = np.diff(np.eye(6), axis=0)  # each variant less the one before it
    levels = np.array([[-1, 1, 0, -1, 1, 0], [-1, 0, 1, -1, 0, 1], [-1, -1, -1, 1, 1, 1]])
    for weights, fewest in (
        *((steps, 7), (levels, 7)),  # only some have a run in common, or weigh it alike
        *((against_the_baseline(5), 4), (np.eye(5), 3)),
    ):
        sharing = sharing_of(weights)
        for seeds in (3, 4, 6, 7):
            own = moments(draw(weights, 1, seeds)[0])
            shared = bool((share(own, sharing).df > own.df).any())
            assert shared == (seeds >= fewest)


def test_a_spread_is_shared_within_a_setting_alone():
    weights, settings = np.eye(8), ["small", "large"] * 4
    sharing = find_sharing(sparse.csr_array(weights), settings)
    scales = np.where(np.arange(8) % 2, 100.0, 1.0)
    found = moments(draw(weights, 1, 6, scales)[0])
    shared = share(found, sharing)
    for odd in (0, 1):
        alone = share(Moments(*(each[odd::2] for each in found)), sharing_of(np.eye(4)))
        assert shared.sd[odd::2] == pytest.approx(alone.sd)
        assert shared.df[odd::2] == pytest.approx(alone.df)
    pair = share(found, find_sharing(sparse.csr_array(weights), [*"aabbbccc"]))
    assert pair.sd[:2] == pytest.approx(found.sd[:2])  # two effects share nothing


def test_differences_of_other_sizes_are_brought_to_the_same_size_first():
    one = sharing_of(np.eye(3))
    scaled = sharing_of(np.diag([1.0, 3.0, 0.5]))
    found = moments(draw(np.eye(3), 1, 5)[0])
    large = found._replace(sd=found.sd * scaled.size)
    assert share(large, scaled).sd == pytest.approx(share(found, one).sd * scaled.size)


@pytest.mark.parametrize("count", [3, 5, 10])
def test_tricks_against_one_baseline_have_the_degrees_of_freedom_of_a_formula(count):
    sharing = sharing_of(against_the_baseline(count))
    found = share(moments(draw(np.eye(count), 1, 6)[0]), sharing)
    assert found.df.max() == pytest.approx(5 * gain_of(sharing, 6))
    assert gain_of(sharing, 6) == pytest.approx(min(2, 100 * count / (37 * count + 63)))
    assert gain_of(sharing, 3) == 1


@pytest.mark.parametrize("seeds", [(6, 6, 6, 6, 6), (4, 6, 6, 8, 12)])
def test_the_degrees_of_freedom_are_those_of_the_spread_that_comes_out(seeds):
    weights = against_the_baseline(5)
    d = draw(weights, 40_000, max(seeds))
    for row, n in enumerate(seeds):
        d[:, row, n:] = np.nan
    found = share(moments(d), sharing_of(weights))
    kept = np.isclose(found.df, found.df.max(0))  # not those that are wide by chance
    squares = np.where(kept, found.sd**2, np.nan)
    seen = 2 * np.nanmean(squares, 0) ** 2 / np.nanvar(squares, 0)
    twice = 2 * (np.array(seeds) - 1)
    assert found.df.max(0) == pytest.approx(np.minimum(seen, twice), rel=0.12)


def test_an_effect_that_is_wider_than_the_others_keeps_its_own_spread():
    weights = against_the_baseline(4)
    found = moments(draw(weights, 1, 8, scales=[1, 1, 30, 1, 1])[0])
    shared = share(found, sharing_of(weights))
    assert shared.sd[1] == found.sd[1]
    assert shared.df.tolist()[1] == 7
    assert (shared.df[[0, 2, 3]] > 7).all()


def test_two_effects_or_two_seeds_share_nothing():
    assert sharing_of(against_the_baseline(2)) is None
    weights = against_the_baseline(3)
    d = draw(weights, 1, 5)[0]
    d[0, 2:] = np.nan  # two seeds are left of the first
    found = moments(d)
    assert share(found, sharing_of(weights)).df.tolist() == found.df.tolist() == [1, 4, 4]


@pytest.mark.parametrize("scales", [[1, 1, 1, 1], [10, 1, 1, 1], [1, 10, 1, 1], [1, 3, 1, 1]])
@pytest.mark.parametrize("seeds", [4, 6])
def test_false_verdicts_stay_rare_whatever_spreads(scales, seeds):
    weights = against_the_baseline(3)
    d = draw(weights, 6000, seeds, scales, seed=seeds)
    false = (decide(d, 0.0, 0.05, sharing=sharing_of(weights)).verdict != "UNDECIDED").any(1)
    assert false.mean() < 0.05 + 2 * (0.05 * 0.95 / 6000) ** 0.5


def test_a_trick_that_changed_nothing_lends_no_spread():
    weights = against_the_baseline(5)
    d = draw(weights, 6000, 5)
    d[:, 3:] = 0.0  # two of them are inactive
    found = share(moments(d), sharing_of(weights))
    alone = share(moments(d[:, :3]), sharing_of(weights[:3]))
    assert found.sd[:, :3] == pytest.approx(alone.sd)
    assert (found.sd[:, 3:] == 0).all()
    false = (decide(d, 0.0, 0.05, sharing=sharing_of(weights)).verdict != "UNDECIDED").any(1)
    assert false.mean() < 0.05


def test_steps_of_which_one_is_wide_err_rarely():
    steps = np.diff(np.eye(4), axis=0)
    weights = np.vstack([steps, steps.sum(0)])  # and all of them together
    for seeds in (5, 7):
        d = draw(weights, 20_000, seeds, [1, 10, 1, 1], seed=seeds)
        false = (decide(d, 0.0, 0.05, sharing=sharing_of(weights)).verdict != "UNDECIDED").any(1)
        assert false.mean() < 0.052  # 5.5 % if they shared from five seeds on


def test_five_seeds_find_half_as_much_again():
    weights, effects = against_the_baseline(5), np.array([0.5, 0, 0, 0, 0])[:, None]
    d = 0.3 * 0.7**0.5 * draw(weights, 6000, 5) + effects
    own, shared = (decide(d, 0.5, 0.05, sharing=s) for s in (None, sharing_of(weights)))
    helps = [(each.verdict[:, 0] == Verdict.HELPS).mean() for each in (own, shared)]
    assert helps[0] == pytest.approx(0.28, abs=0.02)
    assert helps[1] == pytest.approx(0.47, abs=0.02)


def test_looks_come_with_half_as_many_seeds_more():
    assert plan_looks(5, 30) == (5, 8, 12, 18, 27, 30)
    assert plan_looks(4, 4) == (4,)


def test_a_look_has_an_equal_share_of_the_error_rate():
    d, looks = draw(np.eye(2), 1, 12)[0] + 1.0, (4, 8, 12)
    settled = np.ones(d.shape, bool)
    found = paired_tests_at_looks(d, settled, looks, margin=3.0)
    at_each = [paired_tests(d[:, :n], 3.0) for n in looks]
    assert found.p_zero == pytest.approx(3 * np.min([t.p_zero for t in at_each], axis=0))
    assert found.p_margin == pytest.approx(3 * np.min([t.p_margin for t in at_each], axis=0))
    early = paired_tests_at_looks(d[:, :7], settled[:, :7], looks, margin=3.0)
    assert early.p_zero == pytest.approx(np.minimum(3 * at_each[0].p_zero, 1))  # 7 is no look


def test_an_effect_is_tested_at_the_looks_that_it_has_reached_alone():
    d, settled = draw(np.eye(3), 1, 12)[0] + 2.0, np.ones((3, 12), bool)
    settled[0, 8:] = False
    seen = np.where(settled, d, np.nan)
    found = paired_tests_at_looks(seen, settled, (4, 8, 12), margin=0.0)
    first = paired_tests_at_looks(seen[:, :8], settled[:, :8], (4, 8, 12), margin=0.0)
    assert found.p_zero[0] == first.p_zero[0]
    assert found.p_zero[1] < first.p_zero[1]


def test_looking_at_every_look_errs_no_more_often_than_once():
    weights, looks = against_the_baseline(3), plan_looks(3, 20)
    d = draw(weights, 4000, 20)
    rule = looks, 0.0, 0.0, sharing_of(weights)
    found = paired_tests_at_looks(d, np.ones(d.shape, bool), *rule)
    false = (conclude(found, 0.0, 0.05).verdict != "UNDECIDED").any(1).mean()
    naive = conclude(found._replace(p_zero=found.p_zero / len(looks)), 0.0, 0.05).verdict
    assert false < 0.05
    assert (naive != "UNDECIDED").any(1).mean() > 0.08


def test_moments_leave_out_the_seeds_that_are_missing():
    d = draw(np.eye(2), 1, 6)[0]
    gaps = np.insert(d, 3, np.nan, axis=1)
    for one, other in zip(moments(gaps), moments(d), strict=True):
        assert one == pytest.approx(other)
    one = moments([[3.0, np.nan]])
    assert one.mean == 3.0
    assert np.isnan(one.sd).all()
    test = paired_tests(gaps, 1.0)
    assert test.p_zero == pytest.approx(stats.ttest_1samp(d, 0, axis=1).pvalue)


@pytest.mark.parametrize("design", ["one_at_a_time", "factorial"])
@pytest.mark.parametrize("until", ["fixed", "looks", "decided"])
def test_before_the_first_run_nothing_is_known(design, until):
    looks = {"looks": (3, 5)} if until == "looks" else {}
    plan = make_plan(
        (trick("clipping"), trick("flooding"), trick("sam")), design, until=until, **looks
    )
    for estimated in estimate(plan, np.full((len(plan.variants), 5), np.nan)):
        assert (estimated.verdict, estimated.within) == (Verdict.UNDECIDED, False)
        assert (estimated.gain, estimated.judged) == (1.0, False)
        numbers = (estimated.mean, estimated.sd, estimated.low, estimated.high, estimated.p)
        assert np.isnan([*numbers, estimated.smallest]).all()
