"""No decay: which parameters are norms and biases, how groups are split, and what is refused."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrize
from torchvision.models import swin_t

from tests.tricks.optimizers import filled
from tricks import Muon, NoDecay, exempt_from_decay_, norms_and_biases

SGD = torch.optim.SGD


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def exempt(model):
    found = norms_and_biases(model)
    return [name for name, parameter in model.named_parameters() if parameter in found]


def without_decay(optimizer, model):
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    return [name for name, parameter in model.named_parameters() if decay[parameter] == 0]


@pytest.mark.parametrize("kind", [SGD, torch.optim.AdamW])
def test_without_gradients_the_weights_shrink_and_norms_and_biases_stand_still(kind):
    model = network()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    NoDecay().optimizer(kind(model.parameters(), lr=0.5, weight_decay=0.5), model).step()
    for name, parameter in model.named_parameters():
        kept = 0.75 if name in ("0.weight", "3.weight") else 1.0
        torch.testing.assert_close(parameter.detach(), kept * before[name], msg=name)


def test_each_group_is_split_and_keeps_its_other_options():
    model = network()
    conv, norm, _, linear = model
    groups = [
        {"params": conv.parameters(), "lr": 0.2, "momentum": 0.5},
        {"params": norm.parameters(), "lr": 0.3},
        {"params": [linear.weight], "lr": 0.4},
        {"params": [linear.bias], "lr": 0.5, "weight_decay": 0.0},
    ]
    optimizer = SGD(groups, lr=0.1, weight_decay=0.01, momentum=0.9)
    exempt_from_decay_(optimizer, model)
    split = [
        ([conv.weight], 0.2, 0.5, 0.01),
        ([norm.weight, norm.bias], 0.3, 0.9, 0.0),
        ([linear.weight], 0.4, 0.9, 0.01),
        ([linear.bias], 0.5, 0.9, 0.0),
        ([conv.bias], 0.2, 0.5, 0.0),
    ]
    found = [
        (group["params"], group["lr"], group["momentum"], group["weight_decay"])
        for group in optimizer.param_groups
    ]
    assert [options for _, *options in found] == [options for _, *options in split]
    for (ours, *_), (expected, *_) in zip(found, split, strict=True):
        assert all(a is b for a, b in zip(ours, expected, strict=True))


def test_names_and_states_go_along():
    model = filled(network())
    optimizer = SGD(model.named_parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    optimizer.step()
    state = optimizer.state[model[0].bias]
    exempt_from_decay_(optimizer, model)
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert names == ["0.weight", "3.weight", "0.bias", "1.weight", "1.bias", "3.bias"]
    assert optimizer.state[model[0].bias] is state


def test_a_scale_is_no_bias_and_a_bias_table_is_one():
    with torch.device("meta"):  # without numbers
        model, swin = timm.create_model("convnext_atto", num_classes=2), swin_t()
    names = [n for n, p in model.named_parameters() if p.ndim < 2 and n not in exempt(model)]
    assert names
    assert {name.rpartition(".")[2] for name in names} == {"gamma"}
    tables = [name for name in exempt(swin) if dict(swin.named_parameters())[name].ndim > 1]
    assert tables
    assert all(name.endswith("relative_position_bias_table") for name in tables)


@pytest.mark.parametrize("norm", ["RmsNorm", "RmsNormAct2d", "EvoNorm2dB0", "GroupNorm1"])
def test_norms_of_others_are_known_by_their_name(norm):
    layer = getattr(timm.layers, norm)(4)
    assert exempt(layer) == [name for name, _ in layer.named_parameters()]


class NormLinear(nn.Linear):
    """A linear layer of normalised weights: no norm."""


def test_a_layer_with_norm_in_its_name_is_no_norm():
    assert exempt(NormLinear(2, 2)) == ["bias"]


def test_what_a_norm_or_a_bias_is_computed_from_counts():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    parametrize.register_parametrization(model[0], "bias", nn.Softplus())
    parametrize.register_parametrization(model[0], "weight", nn.Softplus())
    parametrize.register_parametrization(model[1], "weight", nn.Softplus())
    assert exempt(model) == [
        "0.parametrizations.bias.original",
        "1.bias",
        "1.parametrizations.weight.original",
    ]


@pytest.mark.parametrize("order", [(NoDecay(), Muon(exclude=())), (Muon(exclude=()), NoDecay())])
def test_beside_muon_either_may_be_first(order):
    model = filled(network())
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    for trick in order:
        optimizer = trick.optimizer(optimizer, model)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert set(held) == set(model.parameters())
    assert len(held) == 6
    before = model[0].bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model[0].bias.detach(), before - 0.1 * model[0].bias.grad)
    assert not {"0.bias", "1.weight", "1.bias", "3.bias"} - {*without_decay(optimizer, model)}


def frozen():
    model = network()
    for parameter in norms_and_biases(model):
        parameter.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "decay", "told"),
    [
        (network, 0.0, "no weight decay on a norm or bias of Sequential in SGD. Give it a weight"),
        (lambda: nn.Linear(2, 2, bias=False), 0.1, "no norm and no bias that is trained in Linear"),
        (frozen, 0.1, "no norm and no bias that is trained in Sequential. Switch the trick off"),
    ],
)
def test_where_nothing_would_change_it_is_refused(model, decay, told):
    model = model()
    with pytest.raises(ValueError, match=told):
        NoDecay().optimizer(SGD(model.parameters(), lr=0.1, weight_decay=decay), model)


def test_a_second_time_is_refused():
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    NoDecay().optimizer(optimizer, model)
    with pytest.raises(ValueError, match="no weight decay on a norm or bias"):
        NoDecay().optimizer(optimizer, model)
