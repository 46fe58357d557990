"""What a config says of an ablation: the factors that it means, and mistakes in one line."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from runner import allowed
from runner.errors import UserError
from runner.names import CONF
from runner.quoting import literal
from runner.sweep.settings import check_settings, find_factors

TRICKS = {
    "clipping": {"enabled": True, "max_norm": 1.0},
    "flooding": {"enabled": False, "level": 0.05},
    "page_turner": {"enabled": True},
}


def given(**changes):
    node = OmegaConf.to_container(OmegaConf.load(CONF / "ablation_settings.yaml").ablation)
    return check_settings({**node, "design": "one_at_a_time", **changes})


def factors(**changes):
    found, levels = find_factors(given(**changes), TRICKS)
    return {f.name: f.levels for f in found}, levels


def test_the_tricks_that_are_on_are_what_is_varied():
    found, levels = factors()
    assert found == {"clipping": ("off", "clipping"), "page_turner": ("off", "page_turner")}
    assert levels["clipping"]["off"] == ("tricks.clipping.enabled=false",)
    assert levels["clipping"]["clipping"] == ("tricks.clipping.enabled=true",)


def test_tricks_that_are_named_are_the_only_ones_that_are_varied():
    assert list(factors(tricks=["flooding"])[0]) == ["flooding"]
    assert factors(tricks=[])[1] == {}


def test_a_trick_whose_parameter_is_varied_stays_on():
    found, levels = factors(factors={"tricks.clipping.max_norm": [1.0, 0.1]})
    assert list(found) == ["page_turner", "tricks.clipping.max_norm"]
    assert found["tricks.clipping.max_norm"] == ("clipping.max_norm=1.0", "clipping.max_norm=0.1")
    assert levels["tricks.clipping.max_norm"]["clipping.max_norm=0.1"] == (
        "tricks.clipping.max_norm=0.1",
    )


def test_levels_can_have_names_and_several_settings():
    sizes = {"small": {"model": "resnet8"}, "large": {"model": "resnet20", "optimizer.lr": 0.05}}
    found, levels = factors(tricks=[], factors={"size": sizes})
    assert found == {"size": ("small", "large")}
    assert levels["size"]["large"] == ("model=resnet20", "optimizer.lr=0.05")


def test_levels_stay_apart_however_they_are_called():
    names = ("a b", "a_b", "a+b", "", "é", "..")
    found, levels = factors(
        tricks=[], factors={"x": {n: {"y": n} for n in names}, "z": [names, "a,b"]}
    )
    assert len(levels["x"]) == len(set(found["x"])) == len(names)
    assert all(re.fullmatch(r"[\w.,=-]+", label) for label in (*found["x"], *found["z"]))
    assert not any("+" in label for label in found["x"])


@pytest.mark.parametrize(
    "value",
    [
        1,
        0.1,
        1e-7,
        True,
        None,
        "sgd",
        "true",
        "a b",
        "it's",
        r"a\b",
        "\\",
        r"\'",
        "1",
        [1, "x y"],
        {"a": [1]},
    ],
)
def test_a_value_comes_back_the_same_through_hydras_grammar(value):
    (override,) = OverridesParser.create().parse_overrides([f"key={literal(value)}"])
    found = override.value()
    assert (str(found) if isinstance(value, str) else found) == value


def test_seeds_are_counted_from_the_first_or_listed():
    assert given(seeds=3).numbers(5) == (5, 6, 7)
    assert given(seeds=[4, 2]).numbers(5) == (4, 2)


def test_the_direction_follows_the_metric_unless_it_is_given():
    assert given().question.goal == "maximize"
    assert given(metric="test/loss", margin=0.02).question.goal == "minimize"
    assert given(metric="test/loss", goal="maximize", margin=0.0).question.goal == "maximize"
    error = given(metric="validation/calibration_error").question
    assert (error.goal, error.margin) == ("minimize", 0.005)
    assert given(metric="test/top3_accuracy").question.goal == "maximize"


def test_a_function_of_ones_own_decides_with_a_margin_if_it_is_listed_or_allowed(monkeypatch):
    node = OmegaConf.to_container(OmegaConf.load(CONF / "ablation_settings.yaml").ablation)
    asked = {**node, "design": "one_at_a_time", "metric": "test/kappa"}
    with pytest.raises(UserError, match=r"got test/kappa\."):
        check_settings(asked)
    with pytest.raises(UserError, match=r"must be given .* which is of your own"):
        check_settings(asked, ["mine.kappa"])
    monkeypatch.setattr(allowed, "USERS", frozenset(["mine.kappa"]))
    assert check_settings({**asked, "margin": 0.01}).question.goal == "maximize"


MISTAKES = {
    "a typo": ({"sedes": 3}, "ablation.sedes is not a setting. Did you mean seeds?"),
    "no seeds": ({"seeds": 0}, "ablation.seeds must be >= 1 or a list, as [a,b], got 0."),
    "a word among the seeds": ({"seeds": [1, "a"]}, "ablation.seeds.1 must be a whole number"),
    "a number for values": ({"factors": {"a": 3}}, "ablation.factors.a must be a list"),
    "a seed twice": ({"seeds": [1, 1]}, "must be different numbers"),
    "an unknown metric": ({"metric": "test/f1"}, "got test/f1. Did you mean test/macro_f1?"),
    "no such metric on validation": (
        {"metric": "validation/mean_accuracy"},
        "ablation.metric must be test/accuracy, test/mean_accuracy, test/loss, ",
    ),
    "no margin for a loss": (
        {"metric": "validation/loss"},
        "ablation.margin must be given with ablation.metric=validation/loss",
    ),
    "a negative margin": ({"margin": -0.1}, "ablation.margin must be >= 0"),
    "a limit below the start": (
        {"until": "decided", "seeds": 9, "most_seeds": 5},
        "most_seeds must be >= the 9 seeds",
    ),
    "listed seeds that are to grow": ({"until": "decided", "seeds": [3, 1]}, "must be a number"),
    "one value": ({"factors": {"optimizer": ["sgd"]}}, "must have two values or more"),
    "a parameter of what is off": (
        {"factors": {"tricks.flooding.level": [0.1, 0.2]}},
        "flooding is off. Switch it on",
    ),
    "no trick of that name": ({"tricks": ["cliping"]}, "no trick. Did you mean clipping?"),
    "one name for two levels": (
        {"factors": {"a": [1, 2], "b": {"a=2": {"x": 1}, "c": {"x": 2}}}},
        "got a=2 twice",
    ),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told(changes, message):
    with pytest.raises(UserError) as told:
        factors(**changes)
    assert message in str(told.value)
    assert "\n" not in str(told.value)
