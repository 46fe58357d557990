"""The warm-up: the formula, torch's numbers, exactness, and what it multiplies."""

import math
from fractions import Fraction

import pytest
import torch

from runner.plot_schedule import trace
from tests.conftest import settings
from tricks import Chain, Time, Trapezoid, WarmRestarts, WarmUp, warm_restarts, warm_up


def test_the_formula_by_hand():
    found = [warm_up(t, length=5, start=0.25) for t in (0, 1, 2, 4, 5, 6, 10**9)]
    assert found == pytest.approx([0.25, 0.4, 0.55, 0.85, 1, 1, 1])


@pytest.mark.parametrize("start", [0.01, 0.5, 1.0])
def test_it_is_torchs_linear_warm_up(start):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=start, total_iters=7)
    for update in range(10):
        assert warm_up(update, 7, start) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("length", "per_epoch"), [(0.1, 10), (0.3, 10), (0.7, 10), (1.1, 30)])
def test_it_ends_just_at_its_end(length, per_epoch):
    ends = round(length * per_epoch)
    trick = WarmUp(length=length, start=0.0)
    assert trick.schedule(0.3, Time(ends, per_epoch, 100)) == 0.3
    assert trick.schedule(1.0, Time(ends - 1, per_epoch, 100)) == pytest.approx((ends - 1) / ends)
    assert warm_up(Fraction(ends, per_epoch) - Fraction(1, 10**6), length, 0.0) < 1


def test_epochs_and_updates_are_the_same_time():
    by_epoch, by_update = WarmUp(length=2.0), WarmUp(length=14.0, unit="update")
    for update in range(20):
        time = Time(update, 7, 70)
        assert by_epoch.schedule(0.5, time) == by_update.schedule(0.5, time)


def test_a_start_of_one_is_neutral():
    assert [WarmUp(start=1.0).schedule(f, Time(1, 4, 40)) for f in (0.1, 0.3)] == [0.1, 0.3]


def test_it_multiplies_the_schedule_that_a_trick_puts_in_place():
    chain = Chain(WarmRestarts(T_0=2.0), WarmUp(length=1.0, start=0.0))
    found = [chain.schedule(7.0, Time(update, 4, 40)) for update in range(12)]
    cosine = [warm_restarts(Fraction(update, 4), 2, 2) for update in range(12)]
    expected = [min(1, update / 4) * rate for update, rate in enumerate(cosine)]
    assert found == pytest.approx(expected)
    with pytest.raises(ValueError, match="WarmUp must come after Trapezoid"):
        Chain(WarmUp(), Trapezoid())


@pytest.mark.parametrize(
    ("options", "updates", "told"),
    [
        ({"length": 5.0}, 50, []),
        ({"length": 5.0}, 49, ["training ends within the warm-up of 5 epochs, after 4.9."]),
        ({"length": 1.0}, 5, ["training ends within the warm-up of 1 epoch, after 0.5."]),
        (
            {"length": 9.0, "unit": "update"},
            8,
            ["training ends within the warm-up of 9 updates, after 8."],
        ),
        ({"length": 0.1}, 1, []),
    ],
)
def test_a_training_within_the_warm_up_is_told_of(options, updates, told):
    assert WarmUp(**options).caveats(updates, 10) == told


def test_it_is_drawn_with_any_schedule():
    curve = trace("", settings("tricks=[warm_up]", "scheduler=linear", "epochs=6"), 5)
    expected = [0.1 * (1 - u / 30) * warm_up(Fraction(u, 5), 5) for u in range(30)]
    assert curve.rates == pytest.approx(expected)
    assert curve.caveats == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"length": 0.0}, "WarmUp.length must be > 0 and finite, got 0.0"),
        ({"length": math.inf}, "WarmUp.length must be > 0 and finite, got inf"),
        ({"start": -0.1}, "WarmUp.start must be from 0 to 1, got -0.1"),
        ({"start": 1.5}, "WarmUp.start must be from 0 to 1, got 1.5"),
        ({"unit": "step"}, "WarmUp.unit must be one of epoch, update, got 'step'"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        WarmUp(**options)


def test_a_time_before_the_start_is_refused():
    with pytest.raises(ValueError, match="t must be >= 0, got -1"):
        warm_up(-1, 5)
