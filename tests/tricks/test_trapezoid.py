"""The trapezoid: the formula, exact corners, both shapes, and what is told and refused."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.plot_schedule import trace
from tests.conftest import settings as settings_of
from tricks import Chain, Time, Trapezoid, WarmRestarts, trapezoid


def test_the_formula_by_hand():
    options = {"warm_up": 4, "decay": 0.4, "start": 0.2, "final": 0.1}
    found = [trapezoid(u, 20, **options) for u in (0, 1, 3, 4, 12, 13, 16, 19, 20, 99)]
    expected = [0.2, 0.4, 0.8, 1, 1, 1 - 0.9 / 8, 0.55, 0.1 + 0.9 / 8, 0.1, 0.1]
    assert found == pytest.approx(expected)


def test_one_minus_the_root_falls_fast_at_first():
    found = [trapezoid(u, 8, decay=0.5, final=0.2, shape="sqrt") for u in range(4, 9)]
    done = [0, 0.25, 0.5, 0.75, 1]
    assert found == pytest.approx([0.2 + 0.8 * (1 - math.sqrt(p)) for p in done])


def test_its_parts_are_torchs_own():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    kinds = torch.optim.lr_scheduler
    parts = [
        kinds.LinearLR(optimizer, start_factor=0.1, total_iters=5),
        kinds.ConstantLR(optimizer, factor=1.0),
        kinds.LinearLR(optimizer, start_factor=1.0, end_factor=0.05, total_iters=8),
    ]
    scheduler = kinds.SequentialLR(optimizer, parts, milestones=[5, 12])
    for update in range(20):
        ours = trapezoid(update, 20, 5, 0.4, start=0.1, final=0.05)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(1, 90),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.sampled_from([0.0, 0.1, 0.2, 0.65, 0.7]),
    st.sampled_from(["linear", "sqrt"]),
)
def test_it_is_exact_at_its_corners_and_full_between(updates, warm_up, decay, shape):
    trick = Trapezoid(warm_up=warm_up, decay=decay, start=0.3, final=0.1, shape=shape)
    found = [trick.schedule(5.0, Time(u, 3, updates)) for u in range(updates + 1)]
    rise, falls = (Fraction(str(share)) * updates for share in (warm_up, decay))
    for update, factor in enumerate(found):
        full = rise <= update <= updates - falls
        assert (factor == 1.0) == full
    assert found[-1] == (0.1 if decay else 1.0)
    assert found[0] == (0.3 if warm_up else 1.0) or (decay == 1.0)
    top = math.ceil(rise)
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)


def test_the_warm_up_counts_epochs_or_updates_too():
    times = [Time(update, 7, 70) for update in range(71)]
    ways = [
        Trapezoid(warm_up=0.2),
        Trapezoid(warm_up=2.0, unit="epoch"),
        Trapezoid(warm_up=14.0, unit="update"),
    ]
    one, *others = ([trick.schedule(0.5, time) for time in times] for trick in ways)
    assert others == [one, one]


def test_a_triangle_has_its_peak_at_the_end_of_the_warm_up():
    trick = Trapezoid(warm_up=0.25, decay=0.75, start=0.2, final=0.07)
    found = [trick.schedule(1.0, Time(update, 4, 8)) for update in range(9)]
    rises = [0.2, 0.6, 1.0]
    falls = [1 - 0.93 * k / 6 for k in range(1, 7)]
    assert found == pytest.approx([*rises, *falls])


def test_where_warm_up_and_decay_overlap_the_lower_counts_and_it_is_told():
    trick = Trapezoid(warm_up=8.0, decay=0.5, start=0.0, unit="epoch")
    found = [trick.schedule(1.0, Time(update, 1, 10)) for update in range(11)]
    assert found == pytest.approx([min(u / 8, (10 - u) / 5) for u in range(11)])
    assert trick.caveats(10, 1) == [
        "the warm-up ends after 8 of 10 epochs, the decay begins after 5: no rate is full."
    ]
    assert trick.caveats(16, 1) == []


def test_without_warm_up_and_decay_it_is_constant():
    trick = Trapezoid(warm_up=0.0, decay=0.0)
    assert {trick.schedule(0.3, Time(update, 3, 12)) for update in range(13)} == {1.0}


def test_a_second_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule"):
        Chain(Trapezoid(), WarmRestarts())


def test_it_is_drawn_as_it_trains():
    curve = trace("", settings_of("tricks=[trapezoid]", "epochs=4"), 5)
    times = [Time(update, 5, 20) for update in range(20)]
    assert curve.rates == pytest.approx([0.1 * Trapezoid().schedule(0, time) for time in times])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"warm_up": -0.1}, "Trapezoid.warm_up must be >= 0 and finite, got -0.1"),
        ({"decay": 1.1}, "Trapezoid.decay must be from 0 to 1, got 1.1"),
        ({"start": 2.0}, "Trapezoid.start must be from 0 to 1, got 2.0"),
        ({"final": -1.0}, "Trapezoid.final must be from 0 to 1, got -1.0"),
        ({"shape": "cosine"}, "Trapezoid.shape must be one of linear, sqrt, got 'cosine'"),
        ({"unit": "step"}, "Trapezoid.unit must be one of share, epoch, update, got 'step'"),
        ({"warm_up": 0.8, "decay": 0.3}, "must add up to 1 or less, got 0.8 and 0.3. Lower one"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Trapezoid(**options)


def test_the_plain_form_refuses_too():
    for update, updates in ((-1, 5), (0, 0)):
        with pytest.raises(ValueError, match=r"update must be >= 0 and updates > 0"):
            trapezoid(update, updates)
    with pytest.raises(ValueError, match=r"^final must be from 0 to 1"):
        trapezoid(0, 5, final=3.0)
