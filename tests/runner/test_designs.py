"""Designs: every contrast gives back exactly the effect that was put into made-up scores."""

from itertools import combinations, permutations, product
from math import factorial as count_orders

import pytest

from runner.ablation.designs import DESIGNS, Factor, design
from runner.ablation.fractions import GENERATORS
from runner.errors import UserError


def tricks(count):
    return [Factor(name, ("off", name)) for name in "abcdefghijk"[:count]]


def made_up_scores(laid_out, factors):
    """Scores with known effects of each level, by factor and level, and interactions of pairs."""
    levels = [f"{f.name}{level}" for f in factors for level in f.levels[1:]]
    main = {level: 0.05 + 0.3 * number for number, level in enumerate(levels)}
    pairs = enumerate(combinations(sorted(main), 2))
    pair = {frozenset(two): 0.01 * (n + 1) * (-1) ** n for n, two in pairs}
    scores = {}
    for variant, row in laid_out.variants.items():
        on = [f"{f.name}{v}" for f, v in zip(factors, row, strict=True) if v != f.levels[0]]
        scores[variant] = (
            0.9
            + sum(main[k] for k in on)
            + sum(pair[frozenset(two)] for two in combinations(on, 2))
        )
    return scores, main, pair


def answer(contrast, scores):
    return sum(weight * scores[variant] for variant, weight in contrast.weights.items())


@pytest.mark.parametrize("kind", DESIGNS)
@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_the_weights_of_every_contrast_sum_to_zero_and_name_variants(kind, count):
    if kind == "fractional" and count < 5:
        pytest.skip("there is no fraction of so few factors")
    laid_out = design(kind, tricks(count))
    assert laid_out.contrasts
    for contrast in laid_out.contrasts:
        assert sum(contrast.weights.values()) == pytest.approx(0.0, abs=1e-12)
        assert set(contrast.weights) <= set(laid_out.variants)
    assert len(set(laid_out.variants.values())) == len(laid_out.variants)


def test_one_at_a_time_gives_the_effect_of_each_value_alone():
    factors = [*tricks(2), Factor("optimizer", ("sgd", "adam", "lion"))]
    laid_out = design("one_at_a_time", factors)
    assert list(laid_out.variants) == ["baseline", "a", "b", "adam", "lion"]
    scores, main, _ = made_up_scores(laid_out, factors)
    found = {c.name: answer(c, scores) for c in laid_out.contrasts}
    assert found == pytest.approx(
        {
            "a": main["aa"],
            "b": main["bb"],
            "adam": main["optimizeradam"],
            "lion": main["optimizerlion"],
        }
    )


def test_leave_one_out_gives_what_each_adds_to_the_others():
    factors = tricks(3)
    laid_out = design("leave_one_out", factors)
    assert list(laid_out.variants) == ["all", "without-a", "without-b", "without-c"]
    scores, main, pair = made_up_scores(laid_out, factors)
    for contrast in laid_out.contrasts:
        key = 2 * contrast.name
        others = sum(value for two, value in pair.items() if key in two)
        assert answer(contrast, scores) == pytest.approx(main[key] + others)


def test_cumulative_gives_what_each_adds_to_those_before_it_and_what_all_gain():
    factors = [*tricks(3)[::-1], Factor("optimizer", ("sgd", "adam"))]
    laid_out = design("cumulative", factors)
    assert list(laid_out.variants) == ["baseline", "c", "c+b", "c+b+a", "c+b+a+adam"]
    scores, main, pair = made_up_scores(laid_out, factors)
    steps, before = ["cc", "bb", "aa", "optimizeradam"], []
    for contrast, key in zip(laid_out.contrasts, steps, strict=False):
        added = main[key] + sum(pair[frozenset({key, other})] for other in before)
        assert answer(contrast, scores) == pytest.approx(added)
        before.append(key)
    *_, whole = laid_out.contrasts
    assert (whole.name, whole.kind) == ("all together", "effect")
    assert answer(whole, scores) == pytest.approx(scores["c+b+a+adam"] - scores["baseline"])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_both_gives_shapleys_values_as_long_as_no_three_interact(count):
    factors = tricks(count)
    laid_out = design("both", factors)
    scores, _, pair = made_up_scores(laid_out, factors)
    every = design("factorial", factors)
    value = {
        frozenset(v for v in row if v != "off"): made_up_scores(every, factors)[0][name]
        for name, row in every.variants.items()
    }
    names = [f.name for f in factors]
    shares = {}
    for contrast in laid_out.contrasts:
        if contrast.kind == "share":
            exact = sum(
                value[frozenset(order[: order.index(contrast.name) + 1])]
                - value[frozenset(order[: order.index(contrast.name)])]
                for order in permutations(names)
            ) / count_orders(count)
            shares[contrast.name] = answer(contrast, scores)
            assert shares[contrast.name] == pytest.approx(exact)
        if contrast.kind == "interaction":
            key = 2 * contrast.name.split(" x ")[0]
            assert answer(contrast, scores) == pytest.approx(
                sum(v for two, v in pair.items() if key in two)
            )
    assert sum(shares.values()) == pytest.approx(scores["all"] - scores["baseline"])


def test_pairs_gives_the_interaction_of_each_two_also_of_several_values():
    factors = [*tricks(2), Factor("c", ("0", "1", "2"))]
    laid_out = design("pairs", factors)
    assert len(laid_out.variants) == 1 + 4 + (1 + 2 + 2)
    scores, _, pair = made_up_scores(laid_out, factors)
    found = {c.name: answer(c, scores) for c in laid_out.contrasts if c.kind == "interaction"}
    assert found == pytest.approx(
        {
            "a x b": pair[frozenset({"aa", "bb"})],
            "a x 1": pair[frozenset({"aa", "c1"})],
            "a x 2": pair[frozenset({"aa", "c2"})],
            "b x 1": pair[frozenset({"bb", "c1"})],
            "b x 2": pair[frozenset({"bb", "c2"})],
        }
    )


@pytest.mark.parametrize("kind", ["factorial", "fractional"])
def test_a_factorial_averages_over_the_others_and_so_does_its_fraction(kind):
    factors = tricks(5)
    laid_out = design(kind, factors)
    assert len(laid_out.variants) == (32 if kind == "factorial" else 16)
    scores, main, pair = made_up_scores(laid_out, factors)
    for contrast in laid_out.contrasts:
        keys = [2 * name for name in contrast.factors]
        if contrast.kind == "effect":
            halves = sum(v for two, v in pair.items() if keys[0] in two) / 2
            assert answer(contrast, scores) == pytest.approx(main[keys[0]] + halves)
        else:
            assert answer(contrast, scores) == pytest.approx(pair[frozenset(keys)])


def test_a_factorial_of_several_values_sets_each_against_the_baselines():
    factors = [Factor("a", ("off", "a")), Factor("c", ("0", "1", "2"))]
    laid_out = design("factorial", factors)
    assert list(laid_out.variants) == ["baseline", "1", "2", "a", "a+1", "a+2"]
    scores, main, pair = made_up_scores(laid_out, factors)
    found = {c.name: answer(c, scores) for c in laid_out.contrasts}
    halves = {v: pair[frozenset({"aa", f"c{v}"})] for v in "12"}
    assert found["2"] == pytest.approx(main["c2"] + halves["2"] / 2)
    assert found["a"] == pytest.approx(main["aa"] + (halves["1"] + halves["2"]) / 3)
    assert found["a x 2"] == pytest.approx(halves["2"])


@pytest.mark.parametrize("count", GENERATORS)
def test_a_fraction_is_of_resolution_five_no_word_of_four_letters_or_fewer(count):
    words = GENERATORS[count]
    basic = count - len(words)
    defining = [{*map(ord, word)} ^ {ord("A") + basic + n} for n, word in enumerate(words)]
    lengths = []
    for chosen in product((False, True), repeat=len(words)):
        total = set()
        for use, word in zip(chosen, defining, strict=True):
            total = total ^ word if use else total
        lengths.append(len(total))
    assert min(length for length in lengths if length) >= 5
    laid_out = design("fractional", tricks(count))
    assert len(laid_out.variants) == 2**basic


def test_a_long_name_is_cut_and_stays_apart():
    factors = [Factor(f"{letter * 30}", ("off", f"{letter * 30}")) for letter in "abcdef"]
    laid_out = design("factorial", factors)
    assert len(laid_out.variants) == 64
    assert max(map(len, laid_out.variants)) <= 120


REFUSED = {
    ("one_at_a_time", 0): "must vary something, got no factor",
    ("cumulative", 1): "must vary two factors or more, got f0 alone. Take ablation=one_at_a_time",
    ("both", 1): "must vary two factors or more, got f0 alone",
    ("fractional", 4): "must have 5 to 11 factors, got 4. Take ablation=factorial",
    ("fractional", 12): "got 12. Take ablation=both",
}


@pytest.mark.parametrize(("kind", "count"), REFUSED)
def test_a_design_that_cannot_take_the_factors_says_which_can(kind, count):
    factors = [Factor(f"f{n}", ("off", f"f{n}")) for n in range(count)]
    with pytest.raises(UserError, match=REFUSED[kind, count]):
        design(kind, factors)


def test_two_levels_are_needed_where_everything_is_on_together():
    with pytest.raises(UserError, match="must have two levels a factor, got more of c"):
        design("leave_one_out", [*tricks(2), Factor("c", ("0", "1", "2"))])


@pytest.mark.parametrize("label", ["baseline", "off", "all", "without-a"])
def test_a_level_cannot_have_the_name_of_another_variant(label):
    with pytest.raises(UserError, match=f"must have a name of its own, got {label}"):
        design("one_at_a_time", [*tricks(2), Factor("size", ("small", label))])


def test_two_levels_cannot_have_one_name():
    with pytest.raises(UserError, match="must have a name of its own"):
        design("pairs", [Factor("a", ("off", "on_")), Factor("b", ("none", "on_"))])


def test_the_calibration_is_the_baseline_alone():
    assert design("calibration", tricks(2)).variants == {"baseline": ("off", "off")}
