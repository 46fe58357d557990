"""Tuning before judging: the same number of trials for each variant, and what they choose."""

import itertools
import json
import shutil
import sys
from dataclasses import replace
from itertools import islice

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from runner.__main__ import main
from runner.ablation.plan import load_plan, save_plan
from runner.ablation.tuning import TUNING, Tried, Tuned, choose, edges, schedule, setting, size_of
from runner.ablation.verdicts import Verdict, judge
from runner.cli.hydra_internals import Loader
from runner.errors import UserError
from runner.report.drawing import Picture
from runner.sweep.draft import Draft
from runner.sweep.settings import check_settings
from runner.sweep.tuning import find_trials, read_trials, tuning_seeds
from tests.builders import make_plan, trick, write_ablation, write_status
from tests.conftest import ROOT, biscuits

LR = "optimizer.lr"


def total(places):
    return sum(places.values())


def test_every_arm_gets_the_same_number_of_trials():
    found = schedule({"baseline": 3, "flooding": 12, "clipping": 5}, None, seed=7)
    assert {arm: total(places) for arm, places in found.items()} == dict.fromkeys(found, 12)
    assert found["baseline"] == {0: 4, 1: 4, 2: 4}
    assert found["clipping"] == {0: 3, 1: 3, 2: 2, 3: 2, 4: 2}  # the settings in turn
    assert found["flooding"] == dict.fromkeys(range(12), 1)


def test_of_a_grid_with_more_settings_than_trials_a_random_part_is_tried():
    found = schedule({"a": 1000, "b": 1000, "small": 4}, 10, seed=7)
    assert len(found["a"]) == total(found["a"]) == total(found["small"]) == 10
    assert found["a"] == found["b"]
    assert list(found["a"]) == sorted(found["a"])
    assert max(found["a"]) > 500  # not the first ones
    assert found["a"] != schedule({"a": 1000}, 10, seed=8)["a"]


def test_an_arm_with_nothing_to_choose_gets_no_trials():
    assert schedule({"baseline": 1, "flooding": 3}, None, seed=0)["baseline"] == {}


def test_the_places_of_a_grid_are_all_its_settings_once():
    grid = {"a": (1, 2), "b": ("x",), "c": (3, 4, 5)}
    found = [setting(grid, place) for place in range(size_of(grid))]
    product = itertools.product(*grid.values())
    assert found == [dict(zip(grid, values, strict=True)) for values in product]


def tried(*scores, lr=0.1):
    return Tried({LR: lr}, scores)


def test_the_best_mean_is_chosen_and_of_equals_the_first():
    assert choose([tried(0.8), tried(0.9), tried(0.9)], "maximize") == 1
    assert choose([tried(0.8), tried(0.9), tried(0.7), tried(0.7)], "minimize") == 2
    assert choose([tried(0.8, 0.9), tried(1.0, 0.6)], "maximize") == 0


def test_a_setting_that_diverged_loses_to_one_that_did_not():
    assert choose([tried(0.99, None), tried(0.5)], "maximize") == 1
    assert choose([tried(None), tried(None, 0.1)], "maximize") == 1
    assert choose([tried(None), tried(None)], "maximize") == 0


def tuned(*scores, chosen):
    values = (0.05, 0.1, 0.2)
    each = tuple(tried(s, lr=lr) for s, lr in zip(scores, values, strict=True))
    return Tuned(each, chosen, (1_000_000,))


def test_the_runner_up_is_the_second_best_with_a_score():
    assert tuned(0.8, 0.9, 0.7, chosen=1).runner_up("maximize").mean == 0.8
    assert tuned(None, 0.9, None, chosen=1).runner_up("maximize") is None


def test_a_choice_at_the_edge_of_the_values_is_told():
    arms = {"baseline": tuned(0.8, 0.9, 0.7, chosen=1), "clipping": tuned(0.1, 0.2, 0.3, chosen=2)}
    (line,) = edges(arms, {LR: (0.05, 0.1, 0.2)})
    assert line.startswith(f"The best {LR} of clipping is the largest one tried, 0.2.")
    assert not list(edges(arms, {LR: (0.1, 0.2)}))  # of two, either is at an edge
    assert not list(edges(arms, {"model": ("a", "b", "c")}))


@pytest.mark.parametrize(
    ("rates", "verdict"), [((0.1, 0.1), Verdict.HELPS), ((0.1, 0.2), Verdict.UNDECIDED)]
)
def test_between_variants_tuned_to_other_values_of_a_setting_there_is_no_verdict(
    tmp_path, rates, verdict
):
    root, factors = tmp_path / "mine", {trick("clipping"): {"clipping": 0.05}}
    plan = write_ablation(root, factors, until="decided", most_seeds=30)
    own = {"baseline": {}, "clipping": {"tricks.clipping.max_norm": 3.0}}
    chosen = {
        arm: Tuned((Tried({LR: lr, **own[arm]}, (0.9,)),), 0, (1_000_000,))
        for arm, lr in zip(own, rates, strict=True)
    }
    (finding,) = judge(root, replace(plan, tuned=chosen)).effects
    assert finding.verdict is verdict
    assert not finding.open  # more seeds would not tell
    assert finding.more_seeds is None
    assert ("tuned to other values of optimizer.lr" in finding.reason) == (rates[0] != rates[1])


GRID = "ablation.tune={optimizer.lr:[0.05,0.1,0.2],tricks.flooding.level:[0.02,0.1]}"
ONE = ("ablation=one_at_a_time", "tricks=[clipping,flooding]", "name=mine")


def planned(root, *overrides):
    """Lay out an ablation and its trials, as the sweeper does."""
    loader = Loader()
    master = loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)
    settings = check_settings(OmegaConf.to_container(master.ablation))
    draft = Draft(settings, master, loader, overrides, 1)
    plan = draft.plan("as typed")
    return draft, plan, find_trials(root, draft, plan)


def values_of(trials, arm):
    keys = trials.question.tune
    return [
        [{**trials.config, **trials.changes[name]}[key] for key in keys]
        for name, row in trials.variants.items()
        if row[0] == arm
    ]


def test_a_variant_tries_what_it_uses_and_no_more(tmp_path):
    draft, plan, trials = planned(tmp_path, *ONE, GRID)
    rates = [0.05, 0.1, 0.2]
    assert [lr for lr, _ in values_of(trials, "baseline")] == rates
    assert [lr for lr, _ in values_of(trials, "clipping")] == rates
    found = values_of(trials, "flooding")
    assert found == [list(pair) for pair in itertools.product(rates, (0.02, 0.1))]
    runs = [trials.variants[name][0] for _, name in trials.runs()]
    assert [runs.count(arm) for arm in plan.variants] == [6, 6, 6]
    assert trials.name == "mine/tuning"
    assert trials.seeds == (1_000_000, 1_000_001)
    assert not trials.contrasts

    best = dict(zip(trials.question.tune, (0.2, 0.02), strict=True))
    chosen = {"flooding": Tuned((Tried(best, (0.9,)),), 0, (1_000_000,))}
    judged = draft.plan("as typed", chosen)
    assert judged.changes["clipping"] == plan.changes["clipping"]
    assert judged.changes["flooding"] == {**plan.changes["flooding"], **best}
    assert judged.tuned == chosen


def test_trials_of_any_design_are_a_plan_that_can_be_read_again(tmp_path):
    typed = ("ablation=cumulative", "tricks=[clipping,flooding]", "name=mine")
    settings = "ablation.across={model.depth:[8,14]}", "ablation.until=looks"
    _, plan, trials = planned(tmp_path, *typed, *settings, "ablation.tune={optimizer.lr:[0.1,0.2]}")
    save_plan(tmp_path, trials)
    assert load_plan(tmp_path) == trials
    assert {row[0] for row in trials.variants.values()} == {*plan.variants}
    for name, (arm, _) in trials.variants.items():
        other = {**trials.config, **trials.changes[name]}
        own = {**plan.config, **plan.changes[arm]}
        assert {key for key in own if own[key] != other[key]} <= {LR}


def test_a_scheduler_that_a_trick_replaces_is_not_tuned_there(tmp_path):
    grid = "ablation.tune={scheduler.final:[0.0,0.1]}"
    restarts = "ablation=one_at_a_time", "tricks=[warm_restarts]", "name=mine"
    _, _, trials = planned(tmp_path, *restarts, grid)
    assert {row[0] for row in trials.variants.values()} == {"baseline"}


def test_a_setting_that_one_optimizer_lacks_is_tuned_with_the_other(tmp_path):
    factors = "ablation.factors={optimizer:[sgd,adam]}"
    grid = "ablation.tune={optimizer.momentum:[0.5,0.9],optimizer.lr:[0.01,0.1]}"
    _, _, trials = planned(tmp_path, "ablation=one_at_a_time", "tricks=[]", factors, grid)
    arms = [row[0] for row in trials.variants.values()]
    assert (arms.count("baseline"), arms.count("optimizer=adam")) == (4, 2)


def test_the_seeds_of_the_trials_never_judge():
    plan = make_plan((trick("clipping"),))
    assert next(tuning_seeds(plan)) == 1_000_000
    listed = replace(plan, seeds=(1_000_001, 1, 1_000_003))
    assert list(islice(tuning_seeds(listed), 2)) == [1_000_006, 1_000_007]
    grows = make_plan((trick("clipping"),), until="decided", most_seeds=2_000_000)
    assert next(tuning_seeds(grows)) == 2_000_000


REFUSED = {
    ("ablation.tune={optimizer.lrr:[1,2]}",): "Did you mean optimizer.lr?",
    ("ablation.tune={optimizer:[sgd,adam]}",): "a group of settings. Name one of them, such as opt",
    ("ablation.tune={optimizer.lr:[0.1]}",): "must have two different values or more",
    ("ablation.tune={batch_size:[64,64.0]}",): "must have two different values or more",
    ("ablation.tune={optimizer.lr:[0.1,fast]}",): "optimizer.lr",
    ("ablation.tune={seed:[1,2]}",): "cannot choose seed",
    ("ablation.tune={tricks.clipping.enabled:[true,false]}",): "cannot choose tricks.clipping",
    (
        "ablation.tune={tricks.label_smoothing.smoothing:[0.1,0.2]}",
    ): "label_smoothing is off in every variant",
    (GRID, "optimizer.lr=0.3"): "optimizer.lr is given as optimizer.lr=0.3 and tuned",
    (GRID, "ablation.factors={optimizer.lr:[0.1,0.2]}"): "optimizer.lr is varied by the ablation",
    (GRID, "data.validation=0"): "has data.validation=0. Set data.validation=0.1",
    (GRID, "ablation.trials=1"): "ablation.trials must be >= 2",
    ("ablation.trials=4",): "ablation.trials=4 needs ablation.tune",
    ("ablation.tune={epochs:[1,2]}", "ablation.at=multiply_adds"): "Drop epochs from",
}


@pytest.mark.parametrize(("overrides", "message"), REFUSED.items(), ids=str)
def test_what_cannot_be_tuned_is_refused_before_the_first_run(tmp_path, overrides, message):
    with pytest.raises(UserError) as told:
        planned(tmp_path, *ONE, *overrides)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


TYPED = (
    *("ablation=one_at_a_time", "tricks=[clipping]", "name=mine", "ablation.seeds=1"),
    *("ablation.tune={optimizer.lr:[1e30,0.1]}", "epochs=1", "batch_size=600", "threads=1"),
    "hydra/launcher=basic",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Do a small ablation that is tuned first: its first learning rate diverges."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["biscuits", *TYPED])
        patch.setattr(Picture, "svg", lambda _: "")  # drawing takes as long as the runs
        main()
    return folder / "outputs"


@pytest.mark.slow
def test_a_trial_that_the_machine_ended_has_to_be_done_again(outputs, tmp_path):
    trials = load_plan(outputs / "mine" / TUNING)
    for seed, name in trials.runs():
        write_status(trials.folder(tmp_path, name, seed), "diverged", error="the loss is nan")
    assert read_trials(tmp_path, trials)["clipping"].best.scores == (None,)
    write_status(trials.folder(tmp_path, name, seed), "failed", error="killed", cause="killed")
    with pytest.raises(UserError, match="Give the same command to go on"):
        read_trials(tmp_path, trials)


def again(folder, monkeypatch, *typed):
    monkeypatch.setattr(Picture, "svg", lambda _: "")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["biscuits", *typed])
    main()


def test_the_verdicts_rest_on_what_was_chosen_and_on_fresh_seeds(outputs):
    plan = load_plan(outputs / "mine")
    assert {arm: t.best.values for arm, t in plan.tuned.items()} == {
        "baseline": {LR: 0.1},
        "clipping": {LR: 0.1},
    }
    for arm, found in plan.tuned.items():
        assert found.tried[0].scores == (None,), arm  # it diverged
        folder = outputs / "mine" / TUNING / f"{arm}+optimizer.lr=0.1" / "seed=1000000"
        result = json.loads((folder / "result.json").read_text())
        assert found.best.scores == (result["validation/accuracy"],)
    done = sorted(str(p.parent.relative_to(outputs)) for p in outputs.glob("mine/*/*/result.json"))
    assert done == [f"mine/{arm}/seed=0" for arm in ("baseline", "clipping")]
    config = OmegaConf.load(outputs / "mine/clipping/seed=0/config.yaml")
    assert (config.optimizer.lr, config.name) == (0.1, "mine")


def test_every_report_tells_what_was_tuned(outputs):
    root = outputs / "mine"
    for name in ("report.html", "report.md"):
        text = (root / name).read_text()
        assert "2 trials with seed 1000000, chosen by validation accuracy" in text, name
        assert "2, 1 failed" in text, name
    plan = json.loads((root / "report.json").read_text())["plan"]
    assert plan["tuned"]["clipping"]["tried"][1]["values"] == {LR: 0.1}


def test_what_is_judged_is_resumed_without_the_trials(outputs, monkeypatch, tmp_path, capsys):
    shutil.copytree(outputs, tmp_path / "outputs")
    shutil.rmtree(tmp_path / "outputs/mine" / TUNING)
    before = (tmp_path / "outputs/mine/sweep.yaml").read_bytes()
    again(tmp_path, monkeypatch, *TYPED)
    assert (tmp_path / "outputs/mine/sweep.yaml").read_bytes() == before
    assert not (tmp_path / "outputs/mine" / TUNING).exists()
    assert "chosen by" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"ablation\.tune is .*1e\+30.*, not .*0\.2"):
        again(tmp_path, monkeypatch, *TYPED, "ablation.tune={optimizer.lr:[0.2,0.1]}")


def test_a_folder_with_trials_is_no_place_for_another_ablation(outputs, monkeypatch, tmp_path):
    shutil.copytree(outputs / "mine" / TUNING, tmp_path / "outputs/mine" / TUNING)
    with pytest.raises(SystemExit, match="which was tuned first"):
        again(tmp_path, monkeypatch, *TYPED, "ablation.tune=null")
    with pytest.raises(SystemExit, match=r"ablation\.margin is 0\.005, not 0\.01"):
        again(tmp_path, monkeypatch, *TYPED, "ablation.margin=0.01")


LOUDER = """
from dataclasses import dataclass
import tricks

@dataclass(frozen=True)
class Louder(tricks.Trick):
    name = "louder"
    times: float = 10.0

    def schedule(self, factor, time):
        return self.times * factor
"""


@pytest.mark.slow
def test_a_trick_that_is_nothing_but_a_larger_learning_rate_helps_untuned_alone(tmp_path):
    (tmp_path / "louder.py").write_text(LOUDER)
    (tmp_path / "own/tricks").mkdir(parents=True)
    node = "louder: {enabled: true, _target_: louder.Louder, times: 10.0}"
    (tmp_path / "own/tricks/louder.yaml").write_text(node)
    typed = ("-cd", "own", "ablation=one_at_a_time", "tricks=louder", "epochs=3", "threads=1")
    known = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "BISCUITS_ALLOW": "louder.Louder"}
    grid = "ablation.tune={optimizer.lr:[0.01,0.03,0.1,0.3]}"
    found = {}
    for name, given in (("untuned", "optimizer.lr=0.01"), ("tuned", grid)):
        code, out, complaint = biscuits(tmp_path, *typed, given, f"name={name}", **known)
        assert code == 0, complaint + out
        content = json.loads((tmp_path / "outputs" / name / "report.json").read_text())
        found[name] = content["effects"][0]["verdict"]
    assert found["untuned"] == "HELPS"
    assert found["tuned"] in ("INACTIVE", "UNDECIDED", "NEGLIGIBLE")
