"""The dry run's comparison of designs: its numbers are what comes out, and what it recommends."""

import numpy as np
import pytest
from scipy import sparse

from runner.ablation.decide import decide
from runner.ablation.designs import Factor, design
from runner.ablation.sharing import find_sharing
from runner.sweep.compare import compare, describe_designs
from tests.builders import make_plan, trick

FIVE = tuple(trick(name) for name in "abcde")


def plan_of(kind="one_at_a_time", seeds=8, factors=FIVE, **question):
    return make_plan(factors, kind, seeds, **{"spread": "shared", **question})


def found(kind, seeds, effect, shared):
    """How often an effect among others without any is found."""
    laid_out = design(kind, FIVE)
    effects = [c for c in laid_out.contrasts if c.kind == "effect"]
    weights = np.array([[c.weights.get(v, 0.0) for v in laid_out.variants] for c in effects])
    scores = np.random.default_rng(0).standard_normal((4000, len(laid_out.variants), seeds))
    differences = weights @ scores
    differences[:, 0] += effect
    sharing = find_sharing(sparse.csr_array(weights)) if shared else None
    return np.mean(decide(differences, 0.0, 0.05, False, 0.0, sharing).verdict[:, 0] == "HELPS")


def test_the_same_runs_in_each_design_find_what_is_said_80_times_in_100():
    options = {option.design: option for option in compare(plan_of())}
    assert {(o.design, o.seeds, o.runs) for o in options.values()} == {
        ("one_at_a_time", 8, 48),
        ("fractional", 3, 48),
        ("factorial", 3, 96),
    }
    for name, option in options.items():
        assert found(name, option.seeds, option.shared, True) == pytest.approx(0.8, abs=0.025)
        assert found(name, option.seeds, option.own, False) == pytest.approx(0.8, abs=0.025)


def test_48_runs_of_five_tricks_in_the_recommended_design_find_an_effect_of_two_spreads():
    lines = describe_designs(plan_of())
    assert "fractional finds the smallest: ablation=fractional ablation.seeds=3." in lines[-1]
    assert "assumes that no three interact" in lines[-1]
    effect = 0.5 / (0.3 * 0.7**0.5)  # of 0.5; runs of a seed have a correlation of 0.3
    assert found("fractional", 3, effect, True) > 0.8
    assert found("one_at_a_time", 8, effect, False) < 0.75


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"spread": "own"}, "one_at_a_time finds the smallest"),  # three seeds are few then
        ({"seeds": 5}, "one_at_a_time finds the smallest"),  # 30 runs; a fraction takes 48
        ({"until": "decided", "most_seeds": 30}, "ablation=fractional ablation.most_seeds=11"),
    ],
)
def test_what_is_recommended_takes_no_more_runs_and_allows_for_the_rule(about, said):
    assert said in describe_designs(plan_of(**about))[-1]


def test_designs_that_ask_something_else_or_cannot_take_the_factors_are_not_compared():
    assert compare(plan_of("cumulative")) == []
    assert compare(plan_of("leave_one_out")) == []
    three = (Factor("optimizer", ("sgd", "adam", "lion")), *FIVE[:1])
    assert [o.design for o in compare(plan_of(factors=three))] == ["one_at_a_time", "factorial"]
    many = tuple(trick(f"t{n}") for n in range(30))
    assert compare(plan_of(factors=many)) == []


def test_effects_in_several_settings_share_alpha():
    from tests.runner.test_across import planned_across

    (one, _), (several, _) = compare(plan_of(factors=FIVE[:2])), compare(planned_across(seeds=8))
    assert several.seeds == one.seeds == 8
    assert several.runs == 3 * one.runs
    assert several.own > one.own
