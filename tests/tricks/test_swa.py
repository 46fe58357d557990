"""Stochastic weight averaging: torch's average, which weights are taken, the rate, refusals."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from tests.tricks.averaging import (
    INPUTS,
    begin,
    close,
    evaluated,
    network,
    same,
    snapshot,
    steps,
    train,
)
from tricks import Swa, Time, WarmRestarts, equal_average_


def taken(updates, per_epoch, skipped=(), **options):
    """Give back the updates whose weights are in the average."""
    trick, model, found = Swa(**options), nn.Linear(1, 1), []
    for update in range(1, updates + 1):
        if update not in skipped:
            trick.weights(model, Time(update, per_epoch, updates))
            found += [update] * (trick.report()["averaged_share"] == 1.0)
    assert trick.state_dict()["count"] == len(found)
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [30, 35, 40]),
        ({"start": 0.0}, [5, 10, 15, 20, 25, 30, 35, 40]),
        ({"start": 0.76}, [35, 40]),
        ({"start": 0.5, "every": 2}, [20, 30, 40]),
        ({"every": 3}, [30]),
        ({"every": 0.5}, [30, 33, 35, 38, 40]),
        ({"every": 4, "unit": "update"}, [32, 36, 40]),
        ({"every": 0.1, "unit": "update", "start": 0.9}, [36, 37, 38, 39, 40]),
        ({"every": 9}, []),
    ],
)
def test_the_weights_at_ends_of_epochs_from_the_start_on_are_taken(options, expected):
    assert taken(40, 5, **options) == expected


def test_three_times_a_tenth_is_not_more_than_three_tenths():
    assert taken(10, 10, start=0.3, every=0.1) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert taken(3000, 1000, start=0.7, every=0.1)[0] == 2100


def test_an_end_of_an_epoch_that_is_left_out_is_made_up_for():
    assert taken(40, 5, skipped=(30, 35, 36)) == [31, 37, 40]


def test_the_average_and_its_batch_norm_are_torchs():
    model = network()
    model[3] = nn.Identity()  # dropout, which torch's statistics are with, and ours without
    trick, torchs = Swa(start=0.5), AveragedModel(model)
    for update in steps(model, 16):
        trick.weights(model, Time(update, 4, 16))
        if update in (8, 12, 16):
            torchs.update_parameters(model)
    update_bn(INPUTS, torchs)
    close(evaluated(trick, model), torchs.module.state_dict(), rtol=1e-5, atol=1e-6)


def test_the_plain_form_by_hand():
    model, averages = nn.Linear(1, 1), {}
    for count, weight in enumerate((3.0, 6.0, 12.0), start=1):
        nn.init.constant_(model.weight, weight)
        equal_average_(averages, model, count)
    assert averages["weight"].item() == pytest.approx(7.0)


def test_the_average_of_many_equals_their_mean():
    model, averages = nn.Linear(1, 1), {}
    for count in range(1, 1001):
        nn.init.constant_(model.weight, float(count))
        equal_average_(averages, model, count)
    assert averages["weight"].item() == pytest.approx(500.5, rel=1e-5)


def test_until_there_is_an_average_the_model_is_evaluated_as_it_is():
    model, trick = network(), Swa(start=0.5)
    states = train(trick, model, 7, updates=16)
    assert same(evaluated(trick, model, inputs=[]), states[-1])


def test_an_average_of_one_is_those_weights_with_batch_norm_computed_anew():
    model, trick = network(), Swa(start=0.9)
    states = train(trick, model, 8)
    found = evaluated(trick, model)
    changed = {name for name, value in found.items() if not torch.equal(value, states[-1][name])}
    assert changed == {
        f"{place}.{name}"
        for place in (1, 5)
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_training_goes_on_to_the_bit_as_without_an_evaluation():
    model, trick = network(), Swa(start=0.0)
    before = train(trick, model, 8)[-1]
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    assert not same(evaluated(trick, model), before)
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.training


def test_a_training_resumes_to_the_same_average():
    model, trick = network(), Swa(start=0.0)
    train(trick, model, 6, updates=12)
    again, other = Swa(start=0.0), copy.deepcopy(model)
    again.model(other)
    again.load_state_dict(trick.state_dict())
    for each, trained in ((trick, model), (again, other)):
        torch.manual_seed(1)
        train(each, trained, 6, first=6)
    assert same(evaluated(trick, model), evaluated(again, other))
    assert again.state_dict()["count"] == 3


def test_a_second_training_begins_anew():
    trick = Swa(start=0.0)
    train(trick, begin(trick, network()), 8)
    assert trick.report() == {"averaged_share": 1.0}
    model = begin(trick, nn.Linear(1, 1))
    assert trick.report() == {}
    with pytest.raises(ValueError, match=r"no average before its first update\. Call its `w"):
        evaluated(trick, model)


def test_the_rate_is_constant_from_the_start_on_and_else_the_schedulers():
    trick = Swa(start=0.75, rate=0.5)
    factors = [trick.schedule(0.1, Time(update, 5, 8)) for update in range(8)]
    assert factors == [0.1] * 6 + [0.5] * 2
    assert {Swa().schedule(0.1, Time(update, 5, 8)) for update in range(8)} == {0.1}


def test_a_cyclic_rate_is_lowest_where_the_weights_are_taken():
    """By warm restarts of an epoch; the first update of a cycle is at its peak."""
    restarts = WarmRestarts(T_0=1, T_mult=1)
    for update in taken(40, 5):
        rates = [restarts.schedule(1.0, Time(u, 5, 40)) for u in range(update - 5, update + 1)]
        assert rates[-2] == min(rates)
        assert rates[-1] == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"the average is of 3 sets of weights, the first after epoch 6 of 8; before, the"),
        ({"every": 0.5}, r"of 5 sets of weights, the first after epoch 6 of 8"),
        ({"start": 0.9}, r"of one set of weights alone, after epoch 8 of 8; lower every, or start"),
        ({"every": 9}, r"no weights are averaged in so short a training; lower every, or start"),
    ],
)
def test_what_is_averaged_is_told(options, words):
    (caveat,) = Swa(**options).caveats(40, 5)
    assert words in caveat
    count = len(taken(40, 5, **options))
    assert f"{count} sets" in caveat or count < 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": -0.1}, r"start must be from 0 to < 1, a share of the training, got -0\.1"),
        ({"start": 1.0}, r"start must be from 0 to < 1"),
        ({"start": math.nan}, r"start must be"),
        ({"every": 0.0}, r"every must be > 0 \(epochs\)"),
        ({"every": math.inf}, r"every must be > 0"),
        ({"rate": 0.0}, r"rate must be > 0 and finite, or None, got 0\.0"),
        ({"unit": "step"}, r"unit must be one of epoch, update, got 'step'"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, words):
    with pytest.raises(ValueError, match=rf"Swa\.{words}"):
        Swa(**options)


def test_a_count_below_one_is_refused():
    with pytest.raises(ValueError, match=r"count must be >= 1, these weights included, got 0"):
        equal_average_({}, nn.Linear(1, 1), 0)
