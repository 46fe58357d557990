"""Schedulers are exact, pure functions of time; tabulated torch schedulers give torch's rates."""

import dataclasses
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim import lr_scheduler

from runner import schedulers
from runner.errors import UserError
from runner.schedulers import Constant, Cosine, Linear, OneCycle, Step, tabulate
from tests.conftest import settings

CONF = Path(__file__).parents[2] / "conf" / "scheduler"
UPDATES, EPOCHS = 4, 6
"""Updates per epoch and epochs of the small trainings below: 24 updates in all."""


def rates(make, updates, updates_per_step=1, lr=0.1):
    """Return the rate of each update in a loop with torch's scheduler."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=lr)
    scheduler, seen = make(optimizer), []
    for update in range(updates):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (update + 1) % updates_per_step == 0 and update + 1 < updates:
            scheduler.step()
    return seen


def factors(scheduler, updates=UPDATES, epochs=EPOCHS):
    return [scheduler.factor(update, updates, epochs) for update in range(updates * epochs)]


def exactly(values):
    return pytest.approx(values, rel=0, abs=1e-12)


def test_constant_is_one():
    assert set(factors(Constant())) == {1.0}


@pytest.mark.parametrize("final", [0.0, 0.1, 0.3, 0.7])
def test_cosine_is_exact_at_its_ends_and_at_half(final):
    at = [Cosine(final).factor(update, UPDATES, EPOCHS) for update in (0, 12, 24)]
    assert at == [1.0, pytest.approx((1 + final) / 2, rel=1e-15), final]


@pytest.mark.parametrize("final", [0.0, 0.2])
def test_cosine_is_torchs_by_update(final):
    theirs = rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=24, eta_min=final), 24, lr=1.0)
    assert factors(Cosine(final)) == exactly(theirs)


def test_linear_is_exact_at_its_ends_and_at_half():
    line = Linear(start=0.3, final=0.1)
    assert [line.factor(update, UPDATES, EPOCHS) for update in (0, 12, 24)] == [0.3, 0.2, 0.1]


def test_linear_is_torchs_by_update():
    def make(optimizer):
        return lr_scheduler.LinearLR(optimizer, start_factor=0.9, end_factor=0.2, total_iters=24)

    assert factors(Linear(0.9, 0.2)) == exactly(rates(make, 24, lr=1.0))


def test_step_drops_at_its_milestones_and_not_an_update_before():
    step = Step(milestones=(0.5, 0.75), gamma=0.1)
    at = [step.factor(update, UPDATES, EPOCHS) for update in (0, 11, 12, 17, 18, 23)]
    assert at == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01], rel=1e-15)


def test_step_is_torchs_with_the_milestones_in_updates():
    theirs = rates(lambda o: lr_scheduler.MultiStepLR(o, [6, 15, 18], gamma=0.5), 24, lr=1.0)
    assert factors(Step((0.25, 0.625, 0.75), 0.5)) == exactly(theirs)


def test_a_milestone_is_at_its_update_despite_rounding():
    assert 0.55 * 100 > 55
    assert 0.29 * 100 < 29
    for update in (55, 29):
        step = Step((update / 100,), 0.5)
        assert [step.factor(update - 1, 10, 10), step.factor(update, 10, 10)] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("peak_at", "updates"),
    [
        (peak_at, updates)
        for peak_at in (0.0, 0.3, 0.45, 0.5, 1.0)
        for updates in (1, 2, 7, 100)
        if peak_at * updates != 1  # the peak at the first update, where torch divides by zero
    ],
)
def test_one_cycle_is_torchs(peak_at, updates):
    def make(optimizer):
        return lr_scheduler.OneCycleLR(
            optimizer, max_lr=1.0, total_steps=updates, pct_start=peak_at, cycle_momentum=False
        )

    ours = factors(OneCycle(peak_at=peak_at), updates, epochs=1)
    assert ours == exactly(rates(make, updates))


def test_one_cycle_is_exact_at_its_ends_and_at_the_peak():
    cycle = OneCycle(peak_at=0.5, start=0.04, final=4e-6)
    assert [cycle.factor(update, UPDATES, EPOCHS) for update in (0, 11, 23)] == [0.04, 1.0, 4e-6]


def test_one_cycle_may_start_or_end_at_its_peak():
    assert factors(OneCycle(peak_at=0.5), updates=2, epochs=1) == [1.0, 4e-6]
    assert factors(OneCycle(peak_at=1.0), updates=2, epochs=1) == [0.04, 1.0]


@pytest.mark.parametrize(
    "scheduler", [Step(), Cosine(0.1), Linear(), OneCycle()], ids=lambda s: type(s).__name__
)
def test_factors_depend_on_the_share_of_the_training_not_on_the_length_of_epochs(scheduler):
    assert factors(scheduler, 4, 6) == factors(scheduler, 24, 1) == factors(scheduler, 1, 24)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("cosine scheduler.final=-0.1", r"scheduler\.final must be >= 0, got -0\.1"),
        ("cosine scheduler.final=nan", r"scheduler\.final .* got NaN"),
        ("linear scheduler.start=-1", r"scheduler\.start .* got -1"),
        ("linear scheduler.final=inf", r"scheduler\.final must be a finite number, got Inf"),
        ("step scheduler.gamma=-1", r"scheduler\.gamma .* got -1"),
        ("one_cycle scheduler.peak_at=1.1", r"scheduler\.peak_at must be <= 1, got 1\.1"),
        ("one_cycle scheduler.peak_at=-0.1", r"scheduler\.peak_at must be >= 0, got -0\.1"),
        ("one_cycle scheduler.start=-1", r"scheduler\.start .* got -1"),
        ("one_cycle scheduler.final=-1", r"scheduler\.final .* got -1"),
        ("torch scheduler.unit=step", r"scheduler\.unit must be epoch or update, got \"step\""),
    ],
)
def test_a_value_out_of_range_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        settings(*f"scheduler={overrides}".split())


@pytest.mark.parametrize(
    ("milestones", "message"),
    [
        ((10, 20), r"scheduler\.milestones must be .*\[10, 20\]\. Write epoch 10"),
        ((0.75, 0.5), r"scheduler\.milestones must be increasing"),
    ],
)
def test_milestones_that_are_no_increasing_shares_are_refused(milestones, message):
    with pytest.raises(UserError, match=message):
        Step(milestones)


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_config_of_our_schedulers_writes_out_every_default(file):
    node = OmegaConf.to_container(OmegaConf.load(file))
    module, _, name = node.pop("_target_").rpartition(".")
    if module == "torch.optim.lr_scheduler":
        tabulate(getattr(lr_scheduler, name), **split(node), lr=0.1, updates_per_epoch=2, epochs=9)
        return
    assert module == "runner.schedulers"
    defaults = dataclasses.asdict(getattr(schedulers, name)())
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in node.items()} == defaults


def split(node):
    return {"unit": node.pop("unit"), "arguments": node}


TORCHS = [
    (lr_scheduler.StepLR, {"step_size": 2, "gamma": 0.3}),
    (lr_scheduler.MultiStepLR, {"milestones": [1, 4], "gamma": 0.3}),
    (lr_scheduler.ExponentialLR, {"gamma": 0.9}),
    (lr_scheduler.ConstantLR, {"factor": 0.5, "total_iters": 3}),
    (lr_scheduler.LinearLR, {"start_factor": 0.1, "total_iters": 3}),
    (lr_scheduler.PolynomialLR, {"total_iters": 5, "power": 2.0}),
    (lr_scheduler.CosineAnnealingLR, {"T_max": 4, "eta_min": 0.02}),
    (lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 2, "T_mult": 2, "eta_min": 0.02}),
    (lr_scheduler.CyclicLR, {"base_lr": 0.02, "max_lr": 0.4, "cycle_momentum": False}),
    (lr_scheduler.OneCycleLR, {"max_lr": 0.4, "total_steps": 24, "cycle_momentum": False}),
]


@pytest.mark.parametrize("lr", [0.1, 3e-4])
@pytest.mark.parametrize("unit", ["epoch", "update"])
@pytest.mark.parametrize(("cls", "arguments"), TORCHS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_tabulated_scheduler_gives_torchs_rates_in_any_order(cls, arguments, unit, lr):
    factor = tabulate(cls, unit, arguments, lr=lr, updates_per_epoch=UPDATES, epochs=EPOCHS)
    ours = {update: lr * factor(update) for update in reversed(range(24))}
    stepped = UPDATES if unit == "epoch" else 1
    theirs = rates(lambda optimizer: cls(optimizer, **arguments), 24, stepped, lr)
    assert [ours[update] for update in range(24)] == pytest.approx(theirs, rel=1e-14)
    assert len(set(theirs)) > 1


def test_parameter_groups_keep_their_ratios_as_in_torch():
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.002)]
    optimizer = torch.optim.SGD(groups)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.7)
    factor = tabulate(
        lr_scheduler.ExponentialLR, "update", {"gamma": 0.7}, lr=0.1, updates_per_epoch=5, epochs=1
    )
    for update in range(5):
        theirs = [group["lr"] for group in optimizer.param_groups]
        assert [lr * factor(update) for lr in (0.1, 0.002)] == pytest.approx(theirs, rel=1e-14)
        optimizer.step()
        scheduler.step()


def test_tabulating_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    tabulate(lr_scheduler.StepLR, "epoch", {"step_size": 1}, lr=0.1, updates_per_epoch=1, epochs=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("cls", "unit", "arguments", "message"),
    [
        (
            lr_scheduler.ReduceLROnPlateau,
            "epoch",
            {},
            r"time alone, but ReduceLROnPlateau waits for a metric\. Use",
        ),
        (
            lr_scheduler.OneCycleLR,
            "update",
            {"max_lr": 1.0, "total_steps": 24},
            r"but OneCycleLR also cycles .* Add \+scheduler\.cycle_momentum=false",
        ),
        (
            lr_scheduler.CyclicLR,
            "update",
            {"base_lr": 0.1, "max_lr": 1.0, "cycle_momentum": True},
            r"but CyclicLR also cycles the momentum",
        ),
        (lr_scheduler.StepLR, "epoch", {}, r"scheduler: StepLR .*missing .*'step_size'"),
        (lr_scheduler.StepLR, "epoch", {"step": 1}, r"scheduler: StepLR .* argument 'step'"),
        (
            lr_scheduler.OneCycleLR,  # it is built, and fails while it runs
            "update",
            {"max_lr": 1.0, "total_steps": 9, "cycle_momentum": False},
            r"scheduler: OneCycleLR .* fails for 24 steps \(unit: update\).* total steps is 9\. ",
        ),
    ],
)
def test_a_scheduler_that_is_not_a_function_of_time_is_refused_in_one_line(
    cls, unit, arguments, message
):
    with pytest.raises(UserError, match=message) as refusal:
        tabulate(cls, unit, arguments, lr=0.1, updates_per_epoch=UPDATES, epochs=EPOCHS)
    assert "\n" not in str(refusal.value)


def test_a_learning_rate_of_zero_has_no_factors():
    with pytest.raises(UserError, match=r"optimizer\.lr must be > 0 .*got 0"):
        tabulate(
            lr_scheduler.StepLR, "epoch", {"step_size": 1}, lr=0, updates_per_epoch=1, epochs=1
        )
