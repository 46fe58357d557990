"""Equal cost: what is counted, how long each variant trains, and runs that end within an epoch."""

import dataclasses
import os
import random
import re
from functools import partial

import pytest
import torch
from hydra.types import RunMode
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.flop_counter import FlopCounterMode

from runner.ablation.plan import load_plan, save_plan
from runner.cli.hydra_internals import Loader
from runner.errors import UserError
from runner.report.sentences import sentence, summary
from runner.report.text import verdict_table
from runner.run import course
from runner.schedulers import Cosine, Linear, OneCycle, Step, tabulate, total_updates
from runner.store.runs import read_metrics
from runner.sweep.budget import at_equal_cost, epochs
from runner.sweep.cost import FORMULAS, Cost, multiply_adds, seconds
from runner.sweep.draft import Draft
from runner.sweep.freeze import refuse_other
from runner.sweep.settings import check_settings
from runner.train import Training
from tests.builders import THREE, make_findings, read_status, trick
from tests.builders import make_plan as made
from tests.conftest import ROOT, biscuits, few, few_of, run_in, settings

BOTH = {name: THREE[name] for name in ("clipping", "anti_aliasing")}
IMAGES, UPDATES = 1294, 21
"""Of the digits' training split, and of an epoch over it."""


def maker(*overrides):
    """Give back what lays out the plan of an ablation, as the sweeper has it."""
    loader, overrides = Loader(), ["ablation=one_at_a_time", "name=mine", *overrides]
    master = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
    asked = check_settings(OmegaConf.to_container(master.ablation))

    draft = Draft(asked, master, loader, overrides, 1)
    return partial(draft.plan, "as typed")


def test_runs_that_may_stop_early_cannot_be_held_at_equal_cost():
    with pytest.raises(UserError, match=r"ablation.at=time sets how long .* Drop patience"):
        at_equal_cost(maker("tricks=[clipping]", "patience=3", "ablation.at=time"), None)


def small(*, width, depth, channels, classes):
    """A network whose multiply-adds can be counted by hand; its `width` are groups."""
    if depth == 0:
        return nn.Sequential(nn.BatchNorm2d(channels), nn.Flatten(), nn.AvgPool1d(6))
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=width),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, classes),
    )


def by_hand(groups):
    """Multiply-adds of an image: forwards, and as many for each gradient; the image needs none."""
    first = 8 * 8 * (3 * 3 * 1) * 4
    second = 4 * 4 * (3 * 3 * 4 // groups) * 8
    return 2 * first + 3 * second + 3 * (8 * 4 * 4) * 10


SMALL = ("model._target_=tests.runner.test_budget.small", "model.width=1", "tricks=[]", "epochs=5")
GROUPS = (SMALL[0], *SMALL[2:], "ablation.at=multiply_adds", "ablation.factors={model.width:[1,4]}")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr("runner.allowed.USERS", frozenset({"tests.runner.test_budget.small"}))


COUNTS = {
    (): (21, IMAGES),
    ("micro_batch_size=10",): (21, IMAGES),
    ("batch_size=100",): (13, IMAGES),
    ("batch_size=100", "drop_last=true"): (12, 1200),
}


@pytest.mark.parametrize("more", few(COUNTS, [("micro_batch_size=10",), [*COUNTS][-1]]))
def test_multiply_adds_are_those_of_the_update_counted_by_hand(more):
    updates, images = COUNTS[more]
    plan = maker(*GROUPS, *more)()
    counted = multiply_adds(plan)
    assert counted == {
        "baseline": Cost(by_hand(1) * images, updates),
        "model.width=4": Cost(by_hand(4) * images, updates),
    }


def test_tricks_count_and_neither_precision_nor_compilation_does():
    base = ("tricks=[anti_aliasing,clipping]", "ablation.at=multiply_adds", "model.width=4")
    counted = multiply_adds(maker(*base)())
    assert counted["anti_aliasing"].epoch > 1.3 * counted["baseline"].epoch
    assert counted["clipping"] == counted["baseline"]
    assert counted == multiply_adds(maker(*base, "precision=bfloat16", "compile=true")())


@pytest.mark.parametrize(
    ("trick", "least", "most"),
    [
        # half of the side, a quarter of the pixels, for half of the training, which then grow
        ("progressive_resizing", 0.5, 0.75),
        # from .5 to .9 a forward pass more, and half of the samples: 1/3 + 1/2
        ("selective_backward", 1 - 0.5 / 6 - 0.02, 1 - 0.3 / 6),
        ("sam", 1.999, 2.001),
    ],
)
def test_what_varies_over_the_training_is_counted_all_along_it(trick, least, most):
    base = (f"tricks=[{trick}]", "ablation.at=multiply_adds", "model.width=4", "epochs=4")
    counted = multiply_adds(maker(*base)())
    assert least < counted[trick].epoch / counted["baseline"].epoch < most


def test_attention_counts_on_a_cpu_too():
    tokens = torch.zeros(2, 4, 16, 8, requires_grad=True)  # [N, heads, tokens, features]
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        attended = F.scaled_dot_product_attention(tokens, tokens, tokens)
    forwards = 2 * 2 * (2 * 4) * (16 * 16) * 8  # two products
    assert counter.get_total_flops() == forwards
    with counter:
        attended.sum().backward()
    assert counter.get_total_flops() == 5 * forwards / 2  # one of them anew, and four gradients


def test_every_variant_gets_the_budget_of_the_first_to_half_an_update():
    draw = random.Random(0)
    for _ in range(300):
        reference = Cost(draw.uniform(1, 100), draw.randint(1, 500))
        cost = Cost(draw.uniform(1, 100), draw.randint(1, 500))
        length = draw.choice([1, 15, 2.5, 300])
        budget = reference.epoch * total_updates(length, reference.updates) / reference.updates
        found = epochs(cost, reference, length)
        updates = total_updates(found, cost.updates)
        assert updates >= 1
        update = cost.epoch / cost.updates
        assert updates == 1 or abs(updates * update - budget) <= update / 2 * (1 + 1e-9)
        assert isinstance(found, int) == (updates % cost.updates == 0)
    assert epochs(Cost(7.0, 21), Cost(7.0, 21), 15) == 15
    assert epochs(Cost(1e9, 21), Cost(1.0, 21), 15) == round(1 / 21, 2)


def test_the_plan_holds_the_budgets_and_what_the_config_derives_from_the_epochs():
    derived = ("tricks=[warm_restarts]", "ablation.tricks=[]", "tricks.warm_restarts.T_0=${epochs}")
    plan = at_equal_cost(maker(*GROUPS, *derived), None)
    assert plan.changes["baseline"] == {}
    assert plan.changes["model.width=4"] == {
        "model.width": 4,
        "epochs": 9.33,
        "tricks.warm_restarts.T_0": 9.33,
    }
    assert total_updates(9.33, UPDATES) == round(5 * UPDATES * by_hand(1) / by_hand(4)) == 196


def test_each_setting_has_a_budget_of_its_own():
    plan = at_equal_cost(maker(*GROUPS[:2], *GROUPS[3:], "ablation.across={epochs:[5,10]}"), None)
    assert {v: plan.epochs_of(v) for v in plan.variants} == {
        "epochs=5+baseline": 5,
        "epochs=5+model.width=4": 9.33,
        "epochs=10+baseline": 10,
        "epochs=10+model.width=4": 18.7,
    }


def test_budgets_are_frozen_and_whatever_else_differs_is_refused(tmp_path):
    timed = (*GROUPS, "ablation.at=time")
    plan = maker(*timed)(epochs={"model.width=4": 7.7})  # as it was once measured
    save_plan(tmp_path, plan)
    before = load_plan(tmp_path)
    assert before == plan
    again = at_equal_cost(maker(*timed), before)
    assert again == plan
    assert refuse_other(tmp_path, before, again) == plan
    for changed, message in (
        (("epochs=6",), "epochs is 5, not 6"),
        (("ablation.at=multiply_adds",), "ablation.at is time, not multiply_adds"),
    ):
        with pytest.raises(UserError) as told:
            refuse_other(tmp_path, before, at_equal_cost(maker(*timed, *changed), before))
        assert message in str(told.value)


REFUSED = {
    (SMALL[0], "ablation.factors={epochs:[5,6]}"): "sets the epochs of each variant, but ablation",
    (SMALL[0], "ablation.factors={length:{a:{epochs:5},b:{epochs:6}}}"): "varies epochs too. Drop",
    (*GROUPS, "model.depth=0"): "torch counts no multiply-adds in baseline. Take ablation.at=time.",
    (SMALL[0], "ablation.factors={model.width:[1,3]}"): r"model.width=3 cannot be built: model: ",
}


@pytest.mark.parametrize(("overrides", "message"), few_of(REFUSED, [*REFUSED][1:3]))
def test_a_budget_that_would_mean_nothing_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        at_equal_cost(maker("ablation.at=multiply_adds", *overrides), None)


def test_the_time_of_an_epoch_is_measured_for_each_variant():
    plan = maker(*SMALL[:2], "ablation.factors={batch_size:[1294,647,324]}")()
    found = seconds(plan, 0.05)
    assert [cost.updates for cost in found.values()] == [1, 2, 4]
    assert all(0 < cost.epoch < 60 for cost in found.values())
    others = seconds(plan, 0.05, longest=0.0)
    mean = (others["baseline"].epoch + others["batch_size=647"].epoch) / 2
    assert others["batch_size=324"].epoch == pytest.approx(mean)


SHORT = ("epochs=2.4", "batch_size=256", "model.width=4")  # 14 updates, 6 an epoch


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("undisturbed") / "run")


def run_of(folder):
    """Do the run; give back its result and its log."""
    result = run_in(folder, *SHORT, "checkpoint_seconds=0")
    kept = [{k: v for k, v in x.items() if not k.startswith("time/")} for x in read_metrics(folder)]
    return result, kept


def test_a_run_may_end_within_an_epoch(undisturbed):
    result, lines = undisturbed
    assert result["updates"] == 14
    assert [line["epoch"] for line in lines] == [1, 2, 14 / 6]
    assert [line["update"] for line in lines] == [6, 12, 14]
    assert lines[-1]["validation/accuracy"] == result["validation/accuracy"]


@pytest.mark.parametrize("update", few([13, 14], [13]))
def test_such_a_run_resumes_bit_identically(undisturbed, tmp_path, monkeypatch, update):
    """At update 14 it is stopped between its training and its test."""

    def stop(step):
        def stopped(*arguments):
            if update in (14, getattr(arguments[0], "updates", None)):
                raise KeyboardInterrupt
            return step(*arguments)

        return stopped

    with monkeypatch.context() as patched:
        where = (course, "evaluate_on_test") if update == 14 else (Training, "step")
        patched.setattr(*where, stop(getattr(*where)))
        with pytest.raises(KeyboardInterrupt):
            run_of(tmp_path / "run")
    assert read_status(tmp_path / "run")["checkpoint"] == update
    assert run_of(tmp_path / "run") == undisturbed


def test_a_whole_number_of_epochs_is_the_same_run_however_it_is_written():
    whole = settings("epochs=3")
    written = settings("epochs=3.0", "variant=v")
    assert written == settings("epochs=3", "variant=v")
    assert type(whole.epochs) is type(written.epochs) is int
    assert settings("epochs=2.5").epochs == 2.5


@pytest.mark.parametrize("epochs", [0.01, 0.5, 2.4, 3, 8.72])
def test_schedules_end_at_the_last_update(epochs):
    for count in (1, 6, 21, 49):
        total = total_updates(epochs, count)
        assert Cosine(0.1).factor(total, count, epochs) == 0.1
        assert Linear(0.3, 0.2).factor(total, count, epochs) == 0.2
        if total > 1:
            assert OneCycle(0.3, 0.04, 0.01).factor(total - 1, count, epochs) == 0.01
        step = Step((0.5,), 0.5)
        half = round(total / 2)
        assert step.factor(half, count, epochs) == 0.5
        assert half == 0 or step.factor(half - 1, count, epochs) == 1.0


def test_a_tabulated_scheduler_steps_in_the_last_epoch_too():
    halve = {"gamma": 0.5}
    times = {"lr": 0.1, "updates_per_epoch": 6, "epochs": 2.4}
    factor = tabulate(lr_scheduler.ExponentialLR, "epoch", halve, **times)
    assert [factor(update) for update in (0, 5, 6, 11, 12, 13)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_the_verdicts_say_what_was_held_equal(tmp_path):
    factors = (trick("clipping"), trick("anti_aliasing"))
    for at, length, words in (
        ("multiply_adds", 8.72, "equal multiply-adds: 15 epochs of baseline, 8.72 of clipping."),
        ("time", 8.72, "equal time: 15 epochs of baseline, 8.72 of clipping."),
        ("time", 15, "equal time: 15 epochs of every variant."),
    ):
        plan = made(factors, seeds=3, name="mine", at=at)
        changes = {**plan.changes, "clipping": {"epochs": length}}
        plan = dataclasses.replace(plan, changes=changes)
        assert sentence(plan).endswith(f"The verdicts are at {words}")
        findings = make_findings(tmp_path, BOTH, plan)
        held = words.partition(":")[0]
        assert summary(findings).endswith(f" at {held}")
        assert f"in points at {held}, + is better" in " ".join(verdict_table(findings))
    usual = make_findings(tmp_path, BOTH, made(factors, seeds=3, name="mine"))
    assert "in points at equal epochs, + is better" in " ".join(verdict_table(usual))
    assert "at equal" not in sentence(usual.plan)


def test_a_plan_whose_epochs_are_no_numbers_is_refused(tmp_path):
    plan = made((trick("clipping"),), seeds=3, at="time")
    broken = dataclasses.replace(plan, changes={**plan.changes, "clipping": {"epochs": "many"}})
    save_plan(tmp_path, broken)
    with pytest.raises(UserError, match="The epochs of a variant are not a number"):
        load_plan(tmp_path)


@pytest.mark.slow
def test_a_trick_that_costs_twice_the_time_for_nothing_hurts_at_equal_cost(tmp_path):
    """Its margin, a point, and its eight seeds were chosen before the first run."""
    parts = ROOT / "tests" / "parts"
    for at, verdict in (("epochs", "NEGLIGIBLE"), ("multiply_adds", "HURTS"), ("time", "HURTS")):
        code, out, complaint = biscuits(
            tmp_path,
            *("--config-dir", str(parts / "conf"), "ablation=one_at_a_time", "tricks=[wasteful]"),
            *("epochs=3", "threads=1", "ablation.seeds=8", "ablation.margin=0.01"),
            *(f"ablation.at={at}", f"name={at}"),
            PYTHONPATH=f"{ROOT}{os.pathsep}{parts}",
            BISCUITS_ALLOW="wasteful.Wasteful",
        )
        assert code == 0, complaint
        assert re.search(rf"^{verdict} +wasteful", out, re.MULTILINE), out
