"""Norms and biases can be exempt from weight decay; every optimizer of the config is built."""

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from runner.build import build, build_optimizer
from runner.errors import UserError
from runner.models import cifar_resnet
from runner.optimizers import SAME_BITS, TOGETHER, parameter_groups, refuse_unusable, step_together_
from tests.conftest import settings

CONF = Path(__file__).parents[2] / "conf" / "optimizer"


def exempt(model):
    """Return the names of the parameters without weight decay."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, decay_norms_and_biases=False)
    assert sorted(names[p] for group in groups for p in group["params"]) == sorted(names.values())
    return [names[p] for group in groups if group.get("weight_decay") == 0 for p in group["params"]]


def test_one_group_is_that_of_the_models_parameters():
    model = cifar_resnet(depth=8, width=2, channels=1, classes=3)
    (group,) = parameter_groups(model, decay_norms_and_biases=True)
    assert list(group) == ["params"]
    assert all(a is b for a, b in zip(group["params"], model.parameters(), strict=True))


def test_in_a_resnet_only_weights_of_convolutions_and_classifier_decay():
    model = cifar_resnet(depth=14, width=2, channels=1, classes=3)
    decayed = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    all_names = [name for name, _ in model.named_parameters()]
    assert exempt(model) == [name for name in all_names if name not in decayed]


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.BatchNorm3d(4),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
        nn.LayerNorm((4, 4, 4)),
        nn.InstanceNorm2d(4, affine=True),
    ],
    ids=lambda norm: str(norm).split("(")[0],
)
def test_no_parameter_of_a_norm_decays(norm):
    assert exempt(nn.Sequential(norm)) == [f"0.{name}" for name, _ in norm.named_parameters()]


def test_biases_are_found_under_every_name_in_torch():
    assert exempt(nn.MultiheadAttention(4, 2, add_bias_kv=True)) == [
        "in_proj_bias",
        "bias_k",
        "bias_v",
        "out_proj.bias",
    ]
    assert exempt(nn.LSTM(2, 3)) == ["bias_ih_l0", "bias_hh_l0"]


def test_a_vector_that_is_not_a_bias_decays():
    model = nn.Linear(3, 2)
    model.unbiased_scale = nn.Parameter(torch.ones(2))
    assert exempt(model) == ["bias"]


def test_a_shared_parameter_comes_once():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight, second.bias = first.weight, first.bias
    groups = parameter_groups(nn.Sequential(first, second), decay_norms_and_biases=False)
    assert [[p.shape for p in group["params"]] for group in groups] == [[(3, 3)], [(3,)]]


def test_a_model_without_norms_and_biases_has_one_group():
    (group,) = parameter_groups(nn.Linear(2, 2, bias=False), decay_norms_and_biases=False)
    assert list(group) == ["params"]


def test_without_gradients_the_weights_shrink_and_the_rest_is_constant():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    groups = parameter_groups(model, decay_norms_and_biases=False)
    torch.optim.SGD(groups, lr=0.5, weight_decay=0.5).step()
    for name, parameter in model.named_parameters():
        kept = 0.75 if name == "0.weight" else 1.0
        torch.testing.assert_close(parameter.detach(), kept * before[name], msg=name)


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
@pytest.mark.parametrize("decay", [True, False])
def test_every_optimizer_of_the_config_is_built_from_its_keys_and_steps(file, decay):
    node = OmegaConf.to_container(OmegaConf.load(file))
    module, _, name = node.pop("_target_").rpartition(".")
    assert (module, node.pop("decay_norms_and_biases")) == ("torch.optim", True)
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    optimizer = getattr(torch.optim, name)(parameter_groups(model, decay), **node)
    assert [group["weight_decay"] for group in optimizer.param_groups] == (
        [node["weight_decay"]] if decay else [node["weight_decay"], 0.0]
    )
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


TORCH = [
    name
    for name, thing in vars(torch.optim).items()
    if isinstance(thing, type) and issubclass(thing, torch.optim.Optimizer)
    if name not in ("Optimizer", "LBFGS", "SparseAdam", "Muon")  # Muon refuses convolutions itself
]


USUAL = cache(lambda: settings("optimizer=torch", "model.width=2", "device=cpu"))


def of_torch(name, **options):
    """Give back a run with an optimizer of torch."""
    target = f"torch.optim.{name}"
    node = {"_target_": target, "lr": 1e-3, "decay_norms_and_biases": True, **options}
    return dataclasses.replace(USUAL(), optimizer=node)


@pytest.mark.parametrize("name", TORCH)
def test_every_other_optimizer_of_torch_makes_the_loops_steps(name):
    model = cifar_resnet(depth=8, width=2, channels=1, classes=3)
    optimizer = build_optimizer(of_torch(name), model)
    model(torch.randn(2, 1, 8, 8)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("LBFGS", {}, "LBFGS cannot be used, because its step needs a closure: the loop computes "),
        ("SparseAdam", {}, "cannot make a step: SparseAdam does not support dense gradients"),
        ("Adam", {"capturable": True}, "Adam with these options cannot make a step: If"),
        ("SGD", {"differentiable": True}, "SGD with these options cannot make a step: "),
    ],
)
def test_an_optimizer_that_the_loop_cannot_step_is_refused_before_the_run(name, options, told):
    with pytest.raises(UserError, match=r"^optimizer: .*\. Use optimizer=sgd") as refusal:
        build(of_torch(name, **options))
    assert told in str(refusal.value)


class Searching(torch.optim.SGD):
    def step(self, closure):
        raise AssertionError(closure)


class Rateless(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"rate": 0.1})

    def step(self, closure=None):
        raise AssertionError(closure)


def test_an_optimizer_of_ones_own_is_asked_and_not_tried():
    weights = [nn.Parameter(torch.zeros(2))]
    with pytest.raises(UserError, match="Searching cannot be used, because its step needs a clos"):
        refuse_unusable(Searching(weights), Searching)
    with pytest.raises(UserError, match="Rateless cannot be used, because it has no learning rate"):
        refuse_unusable(Rateless(weights), Rateless)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", SAME_BITS)
def test_steps_of_all_parameters_together_are_the_same_to_the_bit(name, decay):
    more = {"momentum": 0.9, "nesterov": True} if name == "SGD" else {}
    ends = []
    for together in (False, True):
        torch.manual_seed(0)
        model = cifar_resnet(depth=8, width=2, channels=1, classes=3)
        kind = getattr(torch.optim, name)
        optimizer = kind(model.parameters(), lr=0.01, weight_decay=decay, **more)
        if together:
            step_together_(optimizer)
            assert optimizer.param_groups[0]["foreach"]
        for _ in range(5):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        ends.append([*model.parameters(), *optimizer.state_dict()["state"].values()])
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_large_networks_other_optimizers_and_what_the_config_sets_step_as_they_would():
    small, large = nn.Linear(2, 2), nn.Linear(TOGETHER, 1)
    for optimizer in (
        torch.optim.SGD(large.parameters()),
        torch.optim.NAdam(small.parameters()),
        torch.optim.SGD(small.parameters(), foreach=False),
        torch.optim.SGD(small.parameters(), fused=True),
        torch.optim.SGD(small.parameters(), lr=torch.tensor(0.1)),
    ):
        before = optimizer.param_groups[0]["foreach"]
        step_together_(optimizer)
        assert optimizer.param_groups[0]["foreach"] is before
