import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from runner.ablation.decide import Verdict, adjust, decide
from runner.ablation.statistics import equivalence_p, moments, t_test
from tests.conftest import few

HELPS, HURTS, NEGLIGIBLE, UNDECIDED, *_ = Verdict
MARGIN, ALPHA = 1.0, 0.05
BOUND = ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / 10_000)  # two standard errors of a simulation


def holm(p):
    """Holm's method, of which the rule's adjustment is a generalisation."""
    return adjust(p, p)


def around(mean, sd, n=5):
    """n numbers of exactly this mean and standard deviation."""
    shape = np.arange(n) - (n - 1) / 2
    return mean + sd * shape / shape.std(ddof=1)


@pytest.mark.parametrize(
    ("mean", "sd", "claim"),
    [
        (3.0, 1.0, HELPS),  # t = 6.7 with 4 degrees of freedom
        (-3.0, 1.0, HURTS),
        (3.0, 3.0, UNDECIDED),  # t = 2.2
        (0.1, 0.5, NEGLIGIBLE),  # t = 4.0 against 1
        (0.1, 2.0, UNDECIDED),
        (0.9, 0.2, HELPS),  # not surely below 1: t = 1.1
        (0.9, 0.02, HELPS),  # surely above 0 and below 1; farther from 0
        (0.1, 0.02, NEGLIGIBLE),  # the same; farther from 1
    ],
)
def test_one_effect_by_hand(mean, sd, claim):
    assert decide([around(mean, sd)], MARGIN, ALPHA).verdict == [claim]
    assert decide([around(-mean, sd)], MARGIN, ALPHA).verdict == [
        {HELPS: HURTS, HURTS: HELPS}.get(claim, claim)
    ]


@pytest.mark.parametrize(("others", "claim"), [(0, HELPS), (1, HELPS), (2, UNDECIDED)])
def test_each_further_effect_takes_its_share_of_alpha(others, claim):
    d = [around(1.7, 1.0), *[around(0.7, 3.0)] * others]  # p = .0191
    assert decide(d, 0.1, ALPHA).verdict[0] == claim


def test_an_effect_leaves_the_count_just_when_both_its_statements_are_rejected():
    weak = around(1.5, 1.0)  # p = .028, too much for a share of two
    small, open_one = around(0.4, 0.02), around(0.4, 0.3)  # surely in (0, 1); surely below 1 alone
    assert decide([weak, open_one], MARGIN, ALPHA).verdict.tolist() == [UNDECIDED, NEGLIGIBLE]
    assert decide([weak, small], MARGIN, ALPHA).verdict[0] == HELPS


def test_effects_that_are_not_judged_count_and_get_no_verdict():
    missing = np.full(5, np.nan)
    found = decide([around(1.7, 1.0), missing, missing], 0.1, ALPHA)
    assert found.verdict.tolist() == [UNDECIDED, UNDECIDED, UNDECIDED]
    assert found.adjusted[0] == pytest.approx(3 * found.p[0])
    assert np.isnan(found.p[1:]).all()


@pytest.mark.parametrize("sequential", [False, True])
def test_fewer_than_three_seeds_decide_nothing(sequential):
    found = decide([[5.0, 5.1]], MARGIN, 0.9, sequential)
    assert found.verdict == [UNDECIDED]
    assert np.isnan(found.p)


@pytest.mark.parametrize("sequential", [False, True])
def test_equal_differences_that_are_not_0_decide_nothing_where_the_rounding_is_not_known(
    sequential,
):
    d = [[0.3] * 8, [0.0] * 8, around(9.0, 1.0, 8)]
    assert decide(d, MARGIN, ALPHA, sequential).verdict.tolist() == [UNDECIDED, NEGLIGIBLE, HELPS]
    assert decide(d, MARGIN, ALPHA, sequential, step=0.01).verdict[0] != UNDECIDED


def test_three_equal_accuracies_are_no_proof():
    step = 1 / 359
    assert decide([[step] * 3], 0.005, ALPHA, step=step).verdict == [UNDECIDED]
    assert decide([[0.0] * 3], 0.005, ALPHA, step=step).verdict == [UNDECIDED]
    assert decide([[0.0] * 5], 0.005, ALPHA, step=step).verdict == [NEGLIGIBLE]
    assert decide([[0.0] * 5], 0.005, ALPHA, sequential=True, step=step).verdict == [UNDECIDED]
    assert decide([[0.0] * 12], 0.005, ALPHA, sequential=True, step=step).verdict == [NEGLIGIBLE]


@pytest.mark.parametrize("count", few([1, 2, 5, 12], [5]))
def test_the_adjustment_for_one_statement_each_is_holms(count):
    p = np.random.default_rng(count).uniform(size=(2, count)) ** 3
    for row in p:
        theirs = multipletests(row, method="holm")[1]
        assert holm(row) == pytest.approx(theirs, rel=1e-9)
    assert holm(p) == pytest.approx(np.array([holm(row) for row in p]), rel=1e-12)


def test_without_a_margin_the_rule_is_holms():
    d = np.random.default_rng(0).normal(1.0, 1.0, (6, 5))
    found = decide(d, 0.0, ALPHA)
    assert found.adjusted == pytest.approx(
        multipletests(t_test(moments(d)).p, method="holm")[1], rel=1e-9
    )
    assert ((found.verdict == HELPS) == (found.adjusted <= ALPHA)).all()


def test_the_adjusted_p_value_is_the_error_rate_from_which_it_has_a_verdict():
    d = np.random.default_rng(3).normal(0.8, 1.0, (4, 6))
    adjusted = decide(d, MARGIN, ALPHA).adjusted
    for index, p in enumerate(adjusted.tolist()):
        if p < 1:
            assert decide(d, MARGIN, 1.0001 * p).verdict[index] != UNDECIDED
    helps = decide(d, MARGIN, ALPHA).verdict == HELPS
    assert (adjusted[helps] <= ALPHA).all()


def test_p_values_are_adjusted_in_steps_by_hand():
    # at .02 the first has left; so the second needs 2 p, not 3 p
    assert adjust([0.001, 0.02, 0.5], [0.006, 0.9, 0.9]) == pytest.approx([0.003, 0.04, 1.0])


def test_a_verdict_once_reached_stands():
    clear, noise = around(4.0, 1.0, 8), np.array([-30.0, 40.0, -50.0, 20.0])
    d = np.concatenate([clear, noise])[None]
    assert decide(d[:, :8], MARGIN, ALPHA, sequential=True).verdict == [HELPS]
    assert decide(d, MARGIN, ALPHA, sequential=True).verdict == [HELPS]
    assert decide(d, MARGIN, ALPHA).verdict == [UNDECIDED]


@pytest.mark.parametrize("mean", [4.0, -4.0])
def test_in_a_sequence_only_an_estimate_within_the_margin_speaks_for_negligible(mean):
    # so a large effect does not leave the count, though an e-value is large against either margin
    d = [around(mean, 1.0, 8), around(1.5, 1.0, 8)]
    found = decide(d, MARGIN, ALPHA, sequential=True)
    assert found.adjusted == pytest.approx(2 * found.p)


def test_in_a_sequence_an_effect_within_both_margins_is_negligible():
    d = [around(0.1, 0.3, 8), around(-0.1, 0.3, 8)]
    assert (decide(d, MARGIN, ALPHA, sequential=True).verdict == NEGLIGIBLE).all()


def test_a_sequence_ends_where_a_number_is_missing():
    d = np.array([around(4.0, 1.0, 9), around(0.0, 1.0, 9)])
    d[0, 8], d[1, 5:] = np.nan, np.nan
    found = decide(d, MARGIN, ALPHA, sequential=True)
    assert found.p[0] == decide(d[:1, :8], MARGIN, ALPHA, sequential=True).p[0]
    assert found.p[1] == decide(d[1:, :5], MARGIN, ALPHA, sequential=True).p[0]


whole_numbers = st.lists(
    st.lists(st.integers(-40, 40), min_size=6, max_size=6), min_size=1, max_size=5
)


@settings(deadline=None, derandomize=True)
@given(whole_numbers, st.booleans(), st.sampled_from([0.25, 16.0]), st.sampled_from([0.0, 1.0]))
def test_the_unit_does_not_matter(rows, sequential, scale, step):
    d = np.array(rows, float)
    one = decide(d, 8.0, ALPHA, sequential, step)
    other = decide(scale * d, scale * 8.0, ALPHA, sequential, scale * step)
    assert one.verdict.tolist() == other.verdict.tolist()
    assert one.adjusted == pytest.approx(other.adjusted, rel=1e-9, nan_ok=True)


@settings(deadline=None, derandomize=True)
@given(whole_numbers, st.booleans())
def test_turned_around_helps_and_hurts_change_places(rows, sequential):
    d = np.array(rows, float)
    turned = {UNDECIDED: UNDECIDED, NEGLIGIBLE: NEGLIGIBLE, HELPS: HURTS, HURTS: HELPS}
    one, other = (decide(sign * d, 8.0, ALPHA, sequential) for sign in (1, -1))
    assert [turned[claim] for claim in one.verdict.tolist()] == other.verdict.tolist()


@settings(deadline=None, derandomize=True)
@given(whole_numbers, st.booleans(), st.randoms())
def test_the_order_of_the_effects_does_not_matter(rows, sequential, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    d = np.array(rows, float)
    one, other = (decide(x, 8.0, ALPHA, sequential) for x in (d, d[order]))
    assert one.verdict[order].tolist() == other.verdict.tolist()
    assert one.adjusted[order] == pytest.approx(other.adjusted, rel=1e-12, nan_ok=True)


@settings(deadline=None, derandomize=True)
@given(whole_numbers, st.permutations(range(6)))
def test_with_a_fixed_number_the_order_of_the_seeds_does_not_matter(rows, order):
    d = np.array(rows, float)
    one, other = (decide(x, 8.0, ALPHA) for x in (d, d[:, order]))
    assert one.adjusted == pytest.approx(other.adjusted, rel=1e-6, nan_ok=True)


def family(effects, sd, n, seed=0):
    """10,000 families of tricks that share a baseline, [families, K, n]."""
    draw = np.random.default_rng(seed)
    scores = sd * draw.standard_normal((10_000, len(effects) + 1, n))
    return scores[:, 1:] + np.array(effects)[:, None] - scores[:, :1]


def false(claims, effects):
    """Whether each family has any false verdict."""
    effects = np.array(effects)
    wrong = (claims == HELPS) & (effects <= 0) | (claims == HURTS) & (effects >= 0)
    return (wrong | (claims == NEGLIGIBLE) & (np.abs(effects) >= MARGIN)).any(-1)


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("sd", [0.3, 1.0])
@pytest.mark.parametrize("effects", [(0.0,) * 5, (1.0, -1.0), (0.0, 0.0, 1.0, -1.0)])
def test_few_families_have_a_false_verdict(effects, sd, n):
    claims = decide(family(effects, sd, n), MARGIN, ALPHA).verdict
    assert false(claims, effects).mean() <= BOUND


def test_few_families_of_accuracies_have_a_false_verdict():
    right = np.random.default_rng(0).binomial(359, 0.994, (20_000, 11, 5))
    claims = decide((right[:, 1:] - right[:, :1]) / 359, 0.005, ALPHA, step=1 / 359).verdict
    assert false(claims, [0.0] * 10).mean() <= BOUND
    without = decide((right[:, 1:] - right[:, :1]) / 359, 0.005, ALPHA).verdict
    assert false(without, [0.0] * 10).mean() > BOUND


@pytest.mark.parametrize("effects", few([(0.0, 0.0), (1.0, 0.0)], [(1.0, 0.0)]))
@pytest.mark.parametrize("apart", few([1, 3], [3]))
def test_few_families_have_a_false_verdict_at_any_look(effects, apart):
    d, ever = family(effects, 0.7, 20), np.zeros(10_000, bool)
    for n in range(3, 21, apart):
        ever |= false(decide(d[..., :n], MARGIN, ALPHA, sequential=True).verdict, effects)
    assert ever.mean() <= BOUND


def test_holms_count_over_two_statements_would_err_too_often():
    n = 20
    d = np.random.default_rng(0).standard_normal((10_000, 10, n))
    margin = 4 / np.sqrt(n)
    p_zero, p_margin = t_test(moments(d)).p, equivalence_p(moments(d), margin)
    broken = (holm(np.minimum(p_zero, p_margin)) <= ALPHA) & (p_zero < p_margin)
    claims = decide(d, margin, ALPHA).verdict
    assert broken.any(-1).mean() > 0.15
    assert ((claims == HELPS) | (claims == HURTS)).any(-1).mean() <= BOUND


def test_without_regard_to_counting_rare_errors_would_pass_for_negligible_too_often():
    draw = np.random.default_rng(0)
    better, worse = draw.binomial(359, [[0.998], [0.993]], (10_000, 2, 3)).swapaxes(0, 1)
    d = (worse - better)[:, None] / 359
    rates = [
        (decide(d, 0.005, ALPHA, step=step).verdict == NEGLIGIBLE).mean() for step in (0.0, 1 / 359)
    ]
    assert rates[1] <= BOUND < rates[0]
