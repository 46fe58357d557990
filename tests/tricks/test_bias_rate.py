"""The rate of norm biases: groups, decay, ratios under a schedule, and what is refused."""

import pytest
import torch
from torch import nn

from tests.tricks.optimizers import filled
from tricks import BiasRate, Muon, NoDecay, scale_bias_rates_, scale_learning_rates_

SGD = torch.optim.SGD


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def rates(optimizer, model):
    """Give back the learning rate and the weight decay of each parameter, by its name."""
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {name: found[parameter] for name, parameter in model.named_parameters()}


def test_the_biases_of_norms_have_a_rate_of_their_own():
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.64)
    optimizer = BiasRate().optimizer(optimizer, model)
    expected = dict.fromkeys(dict(model.named_parameters()), (0.1, 0.64))
    assert rates(optimizer, model) == {**expected, "1.bias": (6.4, 0.01)}


def test_a_group_of_nothing_else_is_changed_as_it_is():
    model = network()
    rest = [p for p in model.parameters() if p is not model[1].bias]
    optimizer = SGD([{"params": rest}, {"params": [model[1].bias], "lr": 0.2}], lr=0.1)
    scale_bias_rates_(optimizer, model, 3.0)
    assert [(len(g["params"]), g["lr"]) for g in optimizer.param_groups] == [
        (5, 0.1),
        (1, pytest.approx(0.6)),
    ]


def test_all_biases_may_have_it():
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.0)
    scale_bias_rates_(optimizer, model, 2.0, "all")
    fast = [name for name, (rate, _) in rates(optimizer, model).items() if rate == 0.2]
    assert fast == ["0.bias", "1.bias", "3.bias"]


@pytest.mark.parametrize("kind", [SGD, torch.optim.AdamW])
def test_the_share_that_the_decay_takes_off_stays(kind):
    model = network()
    nn.init.ones_(model[1].bias)
    before = model[1].bias.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = kind(model.parameters(), lr=0.5, weight_decay=0.1)
    BiasRate(factor=8.0).optimizer(optimizer, model).step()
    torch.testing.assert_close(model[1].bias.detach(), 0.95 * before)


def test_the_update_is_so_many_times_as_large():
    steps = []
    for factor in (1.0, 64.0):
        model = filled(network())
        before = model[1].bias.detach().clone()
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        BiasRate(factor=factor).optimizer(optimizer, model).step()
        steps.append(model[1].bias.detach() - before)
    torch.testing.assert_close(steps[1], 64 * steps[0])


def test_a_factor_of_one_changes_no_bit():
    plain, split = filled(network()), filled(network())
    split.load_state_dict(plain.state_dict())
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    SGD(plain.parameters(), **options).step()
    BiasRate(factor=1.0).optimizer(SGD(split.parameters(), **options), split).step()
    for mine, theirs in zip(split.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_schedule_keeps_the_ratio_also_one_that_has_begun():
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    scale_learning_rates_(optimizer, 0.5)
    BiasRate(factor=10.0).optimizer(optimizer, model)
    for factor in (0.5, 0.25):
        scale_learning_rates_(optimizer, factor)
        found = [group["lr"] for group in optimizer.param_groups]
        assert found == pytest.approx([0.1 * factor, factor])


def test_a_rate_that_is_a_tensor_is_not_shared():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1), foreach=False)
    BiasRate(factor=2.0).optimizer(optimizer, model)
    for factor in (1.0, 0.5):
        scale_learning_rates_(optimizer, factor)
        found = [float(group["lr"]) for group in optimizer.param_groups]
        assert found == pytest.approx([0.1 * factor, 0.2 * factor])


@pytest.mark.parametrize("first", [BiasRate(), NoDecay(), Muon(exclude=())])
def test_beside_no_decay_and_muon_any_may_be_first(first):
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.64)
    for trick in sorted((BiasRate(), NoDecay(), Muon(exclude=())), key=lambda t: t != first):
        optimizer = trick.optimizer(optimizer, model)
    found = rates(optimizer, model)
    assert found["1.bias"] == (6.4, 0.0)
    assert found["1.weight"] == (0.1, 0.0)
    assert found["0.weight"] == (0.02, 0.0)


def frozen():
    model = network()
    model[1].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (lambda: nn.Linear(2, 2), {}, "no bias of a norm in Linear that .* Set biases=all, or swi"),
        (frozen, {}, "no bias of a norm in Sequential that the optimizer trains"),
        (lambda: nn.Linear(2, 2, bias=False), {"biases": "all"}, "no bias in Linear .* Switch the"),
    ],
)
def test_a_model_without_such_biases_is_refused(model, options, told):
    model = model()
    with pytest.raises(ValueError, match=told):
        BiasRate(**options).optimizer(SGD(model.parameters(), lr=0.1), model)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"factor": 0.0}, "BiasRate.factor must be > 0 and finite, got 0.0"),
        ({"factor": float("inf")}, "BiasRate.factor must be > 0 and finite, got inf"),
        ({"biases": "norm"}, "BiasRate.biases must be one of norms, all, got 'norm'"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        BiasRate(**options)


def test_the_plain_form_refuses_too():
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"^factor must be > 0"):
        scale_bias_rates_(optimizer, model, -1.0)
    with pytest.raises(ValueError, match=r"^biases must be one of"):
        scale_bias_rates_(optimizer, model, 2.0, "none")
    assert len(optimizer.param_groups) == 1
