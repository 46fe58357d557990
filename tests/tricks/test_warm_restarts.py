"""Warm restarts: the published numbers, exact restarts, epochs and updates, and what is refused."""

import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricks import Time, WarmRestarts, warm_restarts

ORACLE = json.loads((Path(__file__).parent.parent / "data" / "warm_restarts.json").read_text())


@pytest.mark.parametrize("case", ORACLE, ids=lambda case: f"{case['kind'][:5]}-{case['T_0']}")
def test_the_schedule_gives_the_published_numbers(case):
    parameters = {key: value for key, value in case.items() if key not in ("kind", "lr")}
    ours = [warm_restarts(t, **parameters) for t in range(len(case["lr"]))]
    assert ours == pytest.approx(case["lr"], rel=0, abs=1e-9)


def test_the_formula_by_hand():
    options = {"T_0": 6, "T_mult": 2, "T_up": 2, "gamma": 0.5, "eta_min": 0.1, "eta_max": 0.9}
    rates = [warm_restarts(t, **options) for t in (0, 1, 2, 4, 6, 7, 8, 12, 15.9999999, 16)]
    expected = [0.1, 0.5, 0.9, 0.5, 0.1, 0.275, 0.45, 0.275, 0.1, 0.1]
    assert rates == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("T_0", "T_mult", "restarts"),
    [
        (10, 1, [10, 20, 10**15]),
        (1, 3, [1, 4, 13, 40, 121, 29524, (3**40 - 1) // 2]),
        (10, 3, [1210]),
        (10, 2.0, [10, 30, 70]),
        (4, 1.5, [4, 10, 19]),
        (10, 1.1, [10, 21]),
        (0.1, 1, [0.3, 0.7, 1, 10**6]),
        (0.1, 2, [0.3, 0.7]),
        (Fraction(7, 3), 2, [7, Fraction(49, 3)]),
    ],
)
def test_each_restart_is_exactly_at_the_peak_and_just_before_it_the_rate_is_lowest(
    T_0, T_mult, restarts
):
    for t in restarts:
        assert warm_restarts(t, T_0, T_mult, eta_min=0.3, eta_max=0.9) == 0.9
        before = Fraction(str(t)) - Fraction(1, 10**9)
        assert warm_restarts(before, T_0, T_mult, eta_min=0.3, eta_max=0.9) < 0.3 + 1e-9


lengths = st.fractions(Fraction(1, 4), 20, max_denominator=12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths,
    st.just(1) | st.fractions(1, 3, max_denominator=8),
    st.fractions(0, Fraction(9, 10), max_denominator=10),
    st.fractions(0, 300, max_denominator=12),
    st.sampled_from(["each", "first"]),
)
def test_the_cycle_is_the_one_that_adding_up_lengths_finds(T_0, T_mult, share, t, warmup):
    up, start, cosine, number = T_0 * share, Fraction(0), T_0 * (1 - share), 0
    while t >= start + up + cosine:
        start, cosine, number = start + up + cosine, cosine * T_mult, number + 1
        up = up if warmup == "each" else Fraction(0)
    since, peak = t - start, 0.9**number
    expected = (
        peak * since / up
        if since < up
        else (peak * (1 + math.cos(math.pi * float((since - up) / cosine))) / 2)
    )
    ours = warm_restarts(t, T_0, T_mult, T_0 * share, gamma=0.9, warmup=warmup)
    assert ours == pytest.approx(float(expected), rel=1e-12, abs=1e-12)


options = st.fixed_dictionaries(
    {
        "T_0": lengths,
        "T_mult": st.just(1) | st.fractions(1, 3, max_denominator=8),
        "gamma": st.floats(0.1, 1),
        "eta_min": st.floats(0, 0.5),
        "eta_max": st.floats(0.5, 2),
    }
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(options, st.fractions(0, Fraction(9, 10), max_denominator=10), st.integers(0, 9))
def test_within_a_cycle_the_rate_rises_to_the_peak_falls_and_stays_within_its_bounds(
    options, share, number
):
    options = {**options, "T_up": options["T_0"] * share}
    cosine, T_mult = options["T_0"] - options["T_up"], options["T_mult"]
    start = sum((cosine * T_mult**i + options["T_up"] for i in range(number)), Fraction(0))
    top = start + options["T_up"]
    rising = [start + options["T_up"] * Fraction(i, 8) for i in range(9)]
    falling = [top + cosine * T_mult**number * Fraction(i, 16) for i in range(16)]
    up, down = ([warm_restarts(t, **options) for t in times] for times in (rising, falling))
    rounding = 1e-15 * options["eta_max"]
    assert all(later >= earlier - rounding for earlier, later in pairwise(up))
    assert all(later <= earlier + rounding for earlier, later in pairwise(down))
    peak = max(options["eta_max"] * options["gamma"] ** number, options["eta_min"])
    assert down[0] == up[-1] == peak
    assert up[0] == (options["eta_min"] if share else peak)
    assert min(down) >= options["eta_min"] - rounding


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths, st.fractions(1, 3, max_denominator=8), st.integers(1, 50), st.integers(0, 2000))
def test_epochs_and_updates_are_one_schedule(T_0, T_mult, updates_per_epoch, update):
    epochs = WarmRestarts(T_0, T_mult, T_0 / 4, gamma=0.7)
    scaled = (T_0 * updates_per_epoch, T_mult, T_0 * updates_per_epoch / 4)
    updates = WarmRestarts(*scaled, gamma=0.7, unit="update")
    ours = epochs.schedule(1.0, Time(update, updates_per_epoch, 2000))
    assert ours == updates.schedule(1.0, Time(update, updates_per_epoch, 2000))


def test_a_restart_after_very_many_cycles_is_exact():
    start = 100 * (Fraction(1001, 1000) ** 5000 - 1) * 1000
    assert warm_restarts(start, 100, 1.001) == 1.0
    assert warm_restarts(start - Fraction(1, 10**9), 100, 1.001) < 1e-9


def test_with_a_warm_up_in_the_first_cycle_the_later_ones_are_shorter_by_it():
    options = {"T_0": 5, "T_up": 1, "T_mult": 2, "warmup": "first"}
    assert [warm_restarts(t, **options) for t in (0, 1, 5, 13, 29)] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert [warm_restarts(t, **{**options, "T_mult": 1}) for t in (0, 1, 5, 9)] == [0, 1, 1, 1]


def test_the_floor_and_the_peaks_are_exact_and_a_peak_never_sinks_below_the_floor():
    rates = [warm_restarts(10 * i, 10, gamma=0.5, eta_min=0.1, eta_max=0.3) for i in range(4)]
    assert rates == [0.3, 0.15, 0.1, 0.1]
    assert warm_restarts(35, 10, gamma=0.5, eta_min=0.1, eta_max=0.3) == pytest.approx(0.1)
    assert warm_restarts(0, 10, T_up=3, eta_min=0.1) == 0.1


def test_the_result_does_not_depend_on_what_was_asked_before():
    times = [0, 25, 3, 10**9, 7.5, 25, 0]
    ways = [(0.1, 1), (Fraction(0.1), 1), (10, 2), (10, 2.0), (3, 1.1)]
    forth = [warm_restarts(t, *way) for way in ways for t in times]
    back = [warm_restarts(t, *way) for way in reversed(ways) for t in reversed(times)]
    assert back == forth[::-1]


def test_a_float_counts_as_it_is_written_and_a_fraction_as_it_is():
    assert warm_restarts(0.3, 0.1) == 1.0
    assert warm_restarts(0.3, Fraction(0.1)) < 1e-9  # the float is a little more than 1/10


def test_epochs_and_updates_agree_to_the_bit_also_where_an_epoch_is_no_round_number():
    epochs = WarmRestarts(T_0=3, T_mult=1.5, T_up=0.5, gamma=0.7)
    updates = WarmRestarts(T_0=21, T_mult=1.5, T_up=3.5, gamma=0.7, unit="update")
    for update in range(200):
        time = Time(update, 7, 200)
        assert epochs.schedule(0.3, time) == updates.schedule(0.9, time)
    assert epochs.schedule(1.0, Time(21, 7, 200)) == 0.0  # exactly the start of the second warm-up
    assert WarmRestarts(T_0=1 / 3).schedule(0.0, Time(0, 3, 3)) == 1.0


def test_the_rate_changes_within_an_epoch_and_in_place_of_the_schedulers():
    trick = WarmRestarts(T_0=2, T_mult=1)
    assert [trick.schedule(0.123, Time(update, 2, 5)) for update in range(5)] == pytest.approx(
        [(1 + math.cos(math.pi * i / 4)) / 2 for i in (0, 1, 2, 3, 0)]
    )


@pytest.mark.parametrize(
    ("options", "length", "ends"),
    [
        ({}, 15, (15, 15)),
        ({}, 16, (15, 35)),
        ({}, 4, (0, 5)),
        ({"T_mult": 1.0}, 12, (10, 15)),
        ({"T_0": 10, "T_up": 2, "T_mult": 2}, 28, (28, 28)),
        ({"T_0": 10, "T_up": 2, "T_mult": 2, "warmup": "first"}, 27, (26, 58)),
    ],
)
def test_the_ends_of_cycles_next_to_a_length_of_training(options, length, ends):
    assert WarmRestarts(**options).cycle_ends(length) == ends


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T_0": 0}, "T_0 must be > 0 and finite, got 0"),
        ({"T_0": math.inf}, "T_0 must be > 0 and finite, got inf"),
        ({"T_mult": 0.5}, "T_mult must be >= 1 and finite, got 0.5"),
        ({"T_mult": math.nan}, "T_mult must be >= 1 and finite, got nan"),
        ({"T_up": 5.0}, r"T_up must be >= 0 and < T_0 \(5.0\), got 5.0"),
        ({"T_up": -1}, "T_up must be >= 0"),
        ({"gamma": 1.5}, "gamma must be > 0 and <= 1, got 1.5"),
        ({"eta_min": 2.0}, "eta_min must be >= 0 and <= 1.0, got 2.0"),
        ({"warmup": "last"}, "warmup must be each or first, got last"),
        ({"unit": "step"}, "unit must be epoch or update, got 'step'"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, message):
    with pytest.raises(ValueError, match=rf"^WarmRestarts\.{message}"):
        WarmRestarts(**options)


def test_the_plain_form_refuses_the_same_and_a_time_before_the_beginning():
    with pytest.raises(ValueError, match=r"^T_mult must be >= 1"):
        warm_restarts(0, 10, 0.5)
    with pytest.raises(ValueError, match=r"^t must be >= 0 and finite, got -1"):
        warm_restarts(-1, 10)
