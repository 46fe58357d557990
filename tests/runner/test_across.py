"""One question over several settings: the plan, the verdicts side by side, what is not shown."""

import dataclasses

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from runner.ablation.agreement import agreements
from runner.ablation.decide import Verdict
from runner.ablation.designs import Factor, design
from runner.ablation.plan import load_plan, save_plan
from runner.ablation.sampling import find_steps
from runner.ablation.verdicts import judge
from runner.config import check
from runner.errors import UserError
from runner.report import html, markdown, verdict_table
from runner.sweep.across import find_across, lay_out_across
from runner.sweep.settings import check_settings
from tests.builders import make_finding, make_plan, write_run
from tests.conftest import composed, settings
from tests.runner.test_freeze import ONE, plan_of

AB = (Factor("a", ("off", "a")), Factor("b", ("off", "b")))
MODELS = {"model": {"model=x": ("model=x",), "model=y": ("model=y",), "model=z": ("model=z",)}}


def planned_across(kind="one_at_a_time", across=MODELS, seeds=5, **question):
    """A plan over several settings, of which nobody could do the runs."""
    plan = make_plan(AB, kind, seeds, **question)
    laid_out = lay_out_across(design(kind, AB), across)
    settings = tuple(Factor(key, tuple(levels)) for key, levels in across.items())
    return dataclasses.replace(
        plan,
        factors=(*AB, *settings),
        across=tuple(across),
        variants=laid_out.variants,
        contrasts=laid_out.contrasts,
        changes={name: {} for name in laid_out.variants},
    )


def written(root, effects, kind="one_at_a_time", sd=0.001, **more):
    """Write runs with the effect of `a` in each model; `b` does nothing."""
    plan = planned_across(kind, **more)
    root.mkdir()
    save_plan(root, plan)
    draw = np.random.default_rng(1)
    for seed, variant in plan.runs():
        levels = plan.variants[variant]
        score = 0.9 + 0.01 * seed + sd * draw.standard_normal()
        score += effects[levels[-1]] if "a" in levels else 0.0
        write_run(root, variant, seed, round(float(score), 6))
    return plan


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """What was found where `a` helps in x, a little in y, and hurts in z."""
    root = tmp_path_factory.mktemp("ablations") / "three"
    plan = written(root, {"model=x": 0.03, "model=y": 0.012, "model=z": -0.02})
    return judge(root, plan)


def test_the_design_is_laid_out_in_every_combination_of_the_settings():
    plan = plan_of(
        *(*ONE, "ablation.across={model:[resnet8,resnet20],long:{no:{epochs:3},yes:{epochs:9}}}"),
        *("tricks.flooding.level=0.3", "memory_format=contiguous"),
    )
    places = ["model=resnet8+no", "model=resnet8+yes", "model=resnet20+no", "model=resnet20+yes"]
    own = ["baseline", "clipping", "flooding"]
    assert list(plan.variants) == [f"{place}+{name}" for place in places for name in own]
    assert plan.across == ("model", "long")
    assert list(plan.settings()) == [place.replace("+", ", ") for place in places]
    for contrast in plan.contrasts:
        assert contrast.name == f"{contrast.effect}, {contrast.setting}"
        assert contrast.factors == (contrast.effect,)
        place = contrast.setting.replace(", ", "+")
        names = f"{place}+{contrast.effect}", f"{place}+baseline"
        assert contrast.weights == dict(zip(names, (1.0, -1.0), strict=True))
    assert [c.effect for c in plan.contrasts] == ["clipping"] * 4 + ["flooding"] * 4
    name = "model=resnet20+yes+flooding"
    mine = check(OmegaConf.create(plan.config_of(name, 2)))
    given = ("model=resnet20", "epochs=9", "tricks=[flooding]", "tricks.flooding.level=0.3")
    assert mine == dataclasses.replace(settings(*given, "seed=2"), name="mine", variant=name)


TRICKS = {name: {"enabled": name == "clipping"} for name in ("clipping", "centralization")}
REFUSED = {
    "{model: [resnet8]}": "across.model must have two values or more, got",
    "{model: [resnet8, resnet8]}": "ablation.across must have levels of different names",
    "{seed: [0, 1]}": "seed cannot be a factor, nor a setting",
    "{tricks.clipping.enabled: [true, false]}": "tricks.clipping.enabled is in ablation.across and",
    "{a: {x: {optimizer.lr: 1}, y: {optimizer.lr: 2}}}": "optimizer.lr is in ablation.across and",
    "{tricks.centralization.where: [update, gradient]}": "since centralization is off",
    "{model: [resnet8, resnet20], model.width: [8, 16]}": "model.width lies within model",
}


@pytest.fixture(scope="module")
def node():
    """The node `ablation` of a config."""
    return OmegaConf.to_container(composed("ablation=one_at_a_time").ablation)


@pytest.mark.parametrize(("across", "message"), REFUSED.items())
def test_settings_that_ask_nothing_or_are_judged_too_are_refused(node, across, message):
    asked = check_settings({**node, "across": yaml.safe_load(across)})
    judged = {
        "clipping": {"off": ("tricks.clipping.enabled=false",), "clipping": ()},
        "optimizer.lr": {"optimizer.lr=1": ("optimizer.lr=1",)},
    }
    with pytest.raises(UserError, match=message):
        find_across(asked, TRICKS, judged)


def test_a_setting_that_is_given_too_and_a_calibration_are_refused():
    across = "ablation.across={model:[resnet8,resnet20]}"
    with pytest.raises(
        UserError, match=r"is given as model=resnet20 and varied .*ablation\.across"
    ):
        plan_of(*ONE, across, "model=resnet20")
    with pytest.raises(UserError, match="ablation=calibration judges nothing"):
        plan_of(*ONE, "ablation=calibration", across)


def test_a_plan_over_settings_comes_back_and_one_from_before_there_were_any_is_read(tmp_path):
    plan = planned_across("both")
    save_plan(tmp_path, plan)
    assert load_plan(tmp_path) == plan
    plain = make_plan(AB)
    save_plan(tmp_path, plain)
    content = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    del content["checksum"], content["across"]
    for contrast in content["contrasts"]:
        del contrast["setting"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    assert load_plan(tmp_path) == plain
    content["across"] = ["a"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="Its settings are not the last of its factors"):
        load_plan(tmp_path)


def test_each_setting_has_its_verdict_and_all_of_them_share_the_error_rate(three):
    found = {f.contrast.name: f for f in three.effects}
    assert [found[f"a, model={m}"].verdict for m in "xyz"] == ["HELPS", "HELPS", "HURTS"]
    assert found["a, model=y"].mean == pytest.approx(0.012, abs=0.002)
    assert all(f.adjusted >= f.p_value for f in three.effects)
    largest = max(f.p_value for f in three.effects)
    few = [f for f in three.effects if f.p_value == largest]
    assert few[0].adjusted > largest  # six effects, not two


def test_the_summary_says_where_an_effect_is_another_one(three):
    a, b = three.agreement
    assert (a.effect, b.effect) == ("a", "b")
    assert a.verdicts["model=z"] is Verdict.HURTS
    assert a.positive == 2
    assert a.mean == pytest.approx((0.03 + 0.012 - 0.02) / 3, abs=0.002)
    assert a.compared
    assert a.apart["model=x"] == pytest.approx(0.03 - (0.012 - 0.02) / 2, abs=0.003)
    assert a.apart["model=z"] == pytest.approx(-0.02 - (0.03 + 0.012) / 2, abs=0.003)
    assert b.apart == {}


def test_settings_are_compared_by_holms_method_at_the_error_rate_of_the_ablation():
    plan = planned_across(seeds=5)
    draw, wrong = np.random.default_rng(3), 0
    for _ in range(600):
        scores = dict(zip(plan.variants, draw.standard_normal((9, 5)), strict=True))
        effects = []
        for c in plan.contrasts:
            differences = sum(weight * scores[name] for name, weight in c.weights.items())
            effects.append(make_finding(c, Verdict.UNDECIDED, differences.tolist()))
        wrong += any(agreement.apart for agreement in agreements(plan, effects, 0.0))
    assert 5 <= wrong <= 45  # 30 are expected at most, and fewer since comparisons share settings


@pytest.mark.parametrize("what", ["no verdict yet", "a run with it failed", "two seeds"])
def test_settings_are_not_compared_before_their_seeds_are_there_or_where_runs_failed(what):
    effects = []
    plan = planned_across(seeds=2 if what == "two seeds" else 5)
    for number, contrast in enumerate(plan.contrasts):
        differences = (0.1 * number, 0.1 * number + 0.001, 0.1 * number, 0.1 * number + 0.001)
        more = {"failures": {"diverged": 1}} if what == "a run with it failed" else {}
        verdict = Verdict.NONE if what == "no verdict yet" else Verdict.UNDECIDED
        shown = differences[:2] if what == "two seeds" else differences
        effects.append(make_finding(contrast, verdict, shown, **more))
    for agreement in agreements(plan, effects, 0.0):
        assert not agreement.compared
        assert agreement.apart == {}


def test_accuracies_are_multiples_of_another_step_in_each_setting():
    plan = planned_across(across={"data": {"data=small": (), "data=large": ()}}, seeds=2)
    scores = np.array([[0.5, 0.6]] * 3 + [[0.501, 0.602]] * 3)
    samples = {"data=small": 10, "data=large": 1000}
    by_setting = {"data=small": 0.1, "data=large": 0.001}
    for known in (samples, None):
        steps = find_steps(plan, scores, known)
        assert steps == pytest.approx([by_setting[c.setting] for c in plan.contrasts])


@pytest.mark.usefixtures("no_pictures")
def test_every_report_sets_the_verdicts_side_by_side_and_says_what_few_settings_cannot(three):
    page, text, lines = html.page(three), markdown.page(three), "\n".join(verdict_table(three))
    for shown in (page, text, lines):
        words = " ".join(shown.split())
        assert "all 3 means would still be above 0, or all below, in at least 25 of 100" in words
        assert "2 of 3" in words
    assert "in each of 3 settings (model=x, model=y and model=z)" in page
    assert "| model=x | model=y | model=z |" in text
    assert "HELPS in 2, HURTS in 1" in " ".join(lines.split())
    assert page.count("<h2>Over several settings") == 1


def test_shares_of_the_gain_are_those_of_their_setting(tmp_path):
    effects = {"model=x": 0.03, "model=y": 0.01}
    across = {"model": {model: () for model in effects}}
    plan = written(tmp_path / "both", effects, "both", across=across)
    found = judge(tmp_path / "both", plan)
    cells = [line.split(" | ") for line in markdown.page(found).splitlines()]
    gains = {row[0]: row[1].split()[0] for row in cells if len(row) == 2}
    for model, effect in effects.items():
        total = float(gains[f"| All together, measured, {model}"])
        assert total == pytest.approx(100 * effect, abs=0.2)
        assert float(gains[f"| Sum of the shares, {model}"]) == pytest.approx(total, abs=0.02)
