"""The exponential average: the formula by hand, the random start, batch norm, what is refused."""

import copy
import math

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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
from tricks import Ema, Time, exponential_average_, recompute_batch_norm_


def mean(states, weights):
    """The weighted mean of states; of integers, the last."""
    total = sum(weights)
    return {
        name: sum(w * s[name].double() for w, s in zip(weights, states, strict=True))
        .div(total)
        .to(last.dtype)
        if last.is_floating_point()
        else last
        for name, last in states[-1].items()
    }


@pytest.mark.parametrize("half_life", [0.1, 1.0, 1e6])
def test_the_average_is_the_weighted_mean_of_the_weights_after_each_update(half_life):
    model, trick = network(), Ema(half_life)
    states = train(trick, model, 10)[1:]
    shares = [0.5 ** ((10 - update) / (4 * half_life)) for update in range(1, 11)]
    close(evaluated(trick, model), mean(states, shares), rtol=1e-5, atol=1e-6)


def test_after_the_first_update_the_average_is_the_weights():
    model, trick = network(), Ema(100.0)
    (_, state) = train(trick, model, 1)
    assert same(evaluated(trick, model), state)


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 6.0), (0.5, 5.0), (1.0, 4.5)])
def test_the_plain_form_by_hand(decay, expected):
    model, averages = nn.Linear(1, 1), {}
    for update, weight in enumerate((3.0, 6.0), start=1):
        nn.init.constant_(model.weight, weight)
        exponential_average_(averages, model, decay, update)
    assert averages["weight"].item() == pytest.approx(expected)


def test_weights_of_a_half_life_ago_count_half():
    counted = {}
    for at in (4, 8):
        model, trick = nn.Linear(1, 1, bias=False).double(), Ema(0.5)
        for update in range(1, 13):
            nn.init.constant_(model.weight, float(update == at))
            trick.weights(model, Time(update, 8, 12))
        counted[at] = evaluated(trick, model)["weight"].item()
    assert counted[4] / counted[8] == pytest.approx(0.5)


def share_of_the_start(average):
    """What the first weights count in an average of 200 updates at 0.999."""
    model = nn.init.constant_((layer := nn.Linear(1, 1, bias=False)).weight, 1.0) is None or layer
    find, update_ = average(model)
    nn.init.constant_(model.weight, 0.0)
    for update in range(1, 201):
        update_(model, update)
    return find().item()


def test_the_random_start_is_forgotten_where_timms_average_holds_82_percent_of_it():
    def timms(model):
        ema = ModelEmaV3(model, decay=0.999)
        return lambda: ema.module.weight, lambda model, _: ema.update(model)

    def ours(_):
        averages = {}
        return (
            lambda: averages["weight"],
            lambda model, update: exponential_average_(averages, model, 0.999, update),
        )

    assert share_of_the_start(timms) == pytest.approx(0.999**200, abs=1e-3)
    assert round(0.999**200, 2) == 0.82
    assert share_of_the_start(ours) == 0.0


def test_timms_average_told_the_step_is_ours_once_both_have_forgotten_their_start():
    model, averages = network(), {}
    ema = ModelEmaV3(model, decay=0.5)
    for update in steps(model, 30):
        ema.update(model, step=update)
        exponential_average_(averages, model, 0.5, update)
    for name, value in ema.module.state_dict().items():
        torch.testing.assert_close(averages[name], value, rtol=1e-5, atol=1e-6)


def test_the_statistics_of_batch_norm_are_averaged_which_torchs_default_leaves_out():
    model, averages = network(), {}
    kinds = {
        use: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=use)
        for use in (True, False)
    }
    for update in steps(model, 30):
        exponential_average_(averages, model, 0.5, update)
        for each in kinds.values():
            each.update_parameters(model)
    torchs = {use: each.module.state_dict() for use, each in kinds.items()}
    name = "1.running_var"
    torch.testing.assert_close(averages[name], torchs[True][name], rtol=1e-5, atol=1e-6)
    assert torch.equal(torchs[False][name], model.state_dict()[name])  # the raw model's
    assert (averages[name] - torchs[False][name]).abs().max() > 1e-4


def test_recomputed_statistics_are_those_of_the_average():
    model, trick = network(), Ema(0.5, batch_norm="recompute")
    train(trick, model, 6)
    other = copy.deepcopy(model)
    other.load_state_dict(evaluated(trick, model))
    recompute_batch_norm_(other, INPUTS)
    assert same(other.state_dict(), evaluated(trick, model))


@pytest.mark.parametrize("batch_norm", ["average", "recompute"])
def test_training_goes_on_to_the_bit_as_without_an_evaluation(batch_norm):
    plain, model, trick = network(), network(), Ema(0.5, batch_norm)
    torch.manual_seed(1)
    assert [*steps(plain, 3)] == [1, 2, 3]
    torch.manual_seed(1)
    for update in steps(model, 3):
        trick.weights(model, Time(update, 4, 3))
        assert not same(evaluated(trick, model), snapshot(model)) or update == 1
    assert model.training
    assert same(snapshot(model), snapshot(plain))
    assert not same(evaluated(trick, model), snapshot(model))


def test_a_training_resumes_to_the_same_average():
    model, trick = network(), Ema(0.5)
    train(trick, model, 3)
    again, other = Ema(0.5), copy.deepcopy(model)
    again.model(other)
    again.load_state_dict(trick.state_dict())
    for each, trained in ((trick, model), (again, other)):
        torch.manual_seed(1)
        train(each, trained, 2, first=3)
    assert same(evaluated(trick, model), evaluated(again, other))
    assert trick.state_dict()["updates"] == 5


def test_a_second_training_begins_anew():
    trick = Ema()
    train(trick, begin(trick, network()), 2)
    with pytest.raises(
        ValueError, match=r"no average before its first update\. Call its `weights`"
    ):
        evaluated(trick, begin(trick, nn.Linear(1, 1)))


@pytest.mark.parametrize("half_life", [0.0, -1.0, math.inf, math.nan])
def test_a_half_life_out_of_its_range_is_refused(half_life):
    with pytest.raises(ValueError, match=rf"Ema.half_life must be > 0 .*, got {half_life}"):
        Ema(half_life)


def test_arguments_out_of_their_range_are_refused():
    with pytest.raises(
        ValueError, match=r"Ema\.batch_norm must be one of average, recompute, got 'x'"
    ):
        Ema(batch_norm="x")
    for decay in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="decay must be from 0 to 1"):
            exponential_average_({}, nn.Linear(1, 1), decay, 1)
    with pytest.raises(ValueError, match="update must be >= 1, the first, got 0"):
        exponential_average_({}, nn.Linear(1, 1), 0.5, 0)


def test_an_average_of_half_precision_weights_moves_by_less_than_their_rounding():
    model, trick = nn.Linear(1, 1, bias=False).bfloat16(), Ema(100.0)
    for update in range(1, 101):
        nn.init.constant_(model.weight, 1.0 + (update > 50))
        trick.weights(model, Time(update, 4, 100))
    found = trick.state_dict()["averages"]["weight"]
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(1.5, abs=0.05)
