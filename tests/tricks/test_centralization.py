"""Gradient centralization: the authors' numbers, every kind of weight, each place, clipping."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import get_total_norm, parametrizations

from tricks import Centralization, Chain, Clipping, centralize_

ORACLE = np.load(Path(__file__).parent.parent / "data" / "gradient_centralization.npz")
NAMES = [key.removeprefix("init/") for key in ORACLE if key.startswith("init/")]


class Published(nn.Module):
    """A model with the oracle's parameters; it is never called."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.conv1d = nn.Conv1d(6, 4, 5, bias=False)
        self.linear = nn.Linear(24, 5)
        self.norm = nn.LayerNorm(6, bias=False)
        self.double()
        self.load_state_dict({name: torch.tensor(ORACLE[f"init/{name}"]) for name in NAMES})


SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.05}
CASES = {
    "sgd": (torch.optim.SGD, SGD, Centralization()),
    "sgd_nesterov": (
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        Centralization(),
    ),
    "sgd_conv_only": (torch.optim.SGD, SGD, Centralization(conv_only=True, exclude=("conv1d",))),
    "adam_update": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.05}, Centralization("update")),
    "adam_gradient": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.05}, Centralization()),
}


@pytest.mark.parametrize("case", CASES)
def test_twelve_steps_give_the_authors_weights(case):
    kind, options, trick = CASES[case]
    model = trick.model(Published())
    optimizer = trick.optimizer(kind(model.parameters(), **options))
    for step in range(12):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.tensor(ORACLE[f"grads/{name}"][step])
        trick.gradients(model, optimizer, torch.tensor(1.0))
        optimizer.step()
    for name, parameter in model.named_parameters():
        final = ORACLE[f"final/{case}/{name}"]
        np.testing.assert_allclose(parameter.detach().numpy(), final, rtol=0, atol=1e-9)


LAYERS = [
    (nn.Conv1d(4, 6, 3), (4, 9)),
    (nn.Conv2d(4, 6, 3, groups=2), (4, 7, 7)),
    (nn.Conv2d(4, 4, 3, groups=4), (4, 7, 7)),
    (nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
    (nn.ConvTranspose1d(4, 6, 3), (4, 5)),
    (nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 3, 3)),
    (nn.ConvTranspose2d(6, 6, 2, groups=6), (6, 3, 3)),
    (nn.ConvTranspose3d(4, 2, 2), (4, 3, 3, 3)),
    (nn.Linear(5, 3), (5,)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: str(value))
def test_each_output_loses_the_mean_over_just_the_weights_it_depends_on(layer, shape):
    layer = copy.deepcopy(layer)
    before = torch.randn_like(layer.weight)
    layer.weight.grad, layer.bias.grad = before.clone(), torch.ones_like(layer.bias)
    centralize_(layer)
    outputs = layer(torch.rand(1, *shape) + 0.5)[0]
    assert torch.equal(layer.bias.grad, torch.ones_like(layer.bias))
    for output in outputs:
        (reach,) = torch.autograd.grad(output.sum(), layer.weight, retain_graph=True)
        unit = reach != 0
        torch.testing.assert_close(layer.weight.grad[unit], before[unit] - before[unit].mean())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from([nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.integers(0, 99),
)
def test_of_any_convolution_each_output_channel_keeps_all_but_its_mean(
    kind, groups, in_per_group, out_per_group, kernel, dtype, seed
):
    layer = kind(groups * in_per_group, groups * out_per_group, kernel, groups=groups, dtype=dtype)
    before = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(seed))
    layer.weight.grad = before.to(dtype)
    before = layer.weight.grad.clone()
    centralize_(layer)
    tolerance = 8 * torch.finfo(dtype).eps
    for group in range(groups):
        for out in range(out_per_group):
            # transposed weights are [in, out per group, ...], the others [out, in per group, ...]
            if "Transpose" in kind.__name__:
                unit = slice(group * in_per_group, (group + 1) * in_per_group), out
            else:
                unit = group * out_per_group + out
            g, left = before[unit].double(), layer.weight.grad[unit].double()
            if g.numel() == 1:
                assert torch.equal(left, g)  # one weight of one input: it must go on learning
            else:
                torch.testing.assert_close(left, g - g.mean(), rtol=0, atol=4 * tolerance)


def test_what_is_centred_stays_as_it_is():
    layer = nn.Linear(2, 1)
    layer.weight.grad = torch.tensor([[1.5, -1.5]])
    centralize_(layer)
    assert torch.equal(layer.weight.grad, torch.tensor([[1.5, -1.5]]))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Embedding(4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.PReLU(3),
        nn.Linear(1, 4),
        nn.Conv2d(4, 4, 1, groups=4),
        nn.ConvTranspose2d(4, 4, 1, groups=4),
        nn.ConvTranspose2d(1, 4, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["gradient", "update"])
def test_embeddings_norms_and_units_of_one_weight_are_never_touched(layer, where):
    model = nn.ModuleList([copy.deepcopy(layer), nn.Linear(3, 3)])
    before = {parameter: torch.rand_like(parameter) for parameter in model[0].parameters()}
    for parameter, gradient in before.items():
        parameter.grad = gradient.clone()
    old = copy.deepcopy(model[0].state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    Centralization(where).gradients(model, optimizer, torch.tensor(1.0))
    optimizer.step()
    for name, parameter in model[0].named_parameters():
        assert torch.equal(parameter, old[name] - before[parameter])


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_weight_shared_with_an_embedding_is_left_alone(kind):
    model = nn.Sequential(kind(4, 3), nn.Linear(3, 4, bias=False), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model[0].weight.grad = torch.rand(4, 3)
    before = model[0].weight.grad.clone()
    centralize_(model)
    assert torch.equal(model[0].weight.grad, before)


def test_of_weight_normalization_the_direction_is_centralized_and_the_magnitude_is_not():
    layer = parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    layer(torch.randn(1, 2, 5, 5)).square().sum().backward()
    magnitude, direction = layer.parametrizations.weight.parameters()
    expected = magnitude.grad.clone()
    direction.grad.add_(1.0)
    centralize_(layer)
    assert torch.equal(magnitude.grad, expected)
    assert direction.grad.mean((1, 2, 3)).abs().max() < 1e-6


def test_a_magnitude_of_one_number_for_all_is_no_weight():
    layer = parametrizations.weight_norm(nn.Linear(3, 2), dim=None)
    layer(torch.randn(1, 3)).sum().backward()
    centralize_(layer)
    magnitude, direction = layer.parametrizations.weight.parameters()
    assert magnitude.ndim == 0
    assert direction.grad.mean(1).abs().max() < 1e-6


@pytest.mark.parametrize("where", ["gradient_and_decay", "update"])
def test_a_weight_without_a_gradient_keeps_its_bits(where):
    """Frozen from the beginning, or dropped by another between the trick and the step."""
    for drop in (False, True):
        model, trick = network(), Centralization(where)
        model[4].weight.requires_grad_(drop)
        before = model[4].weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        backward(model, 0)
        trick.gradients(model, optimizer, torch.tensor(1.0))
        if drop:
            model[4].weight.grad = None
        optimizer.step()
        assert torch.equal(model[4].weight, before)


def test_conv_only_and_exclude_leave_out_what_they_say_under_any_of_its_names():
    def changed(**options):
        model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 3)))
        model.append(model[0])
        for parameter in model.parameters():
            parameter.grad = torch.arange(parameter.numel()).float().reshape(parameter.shape)
        before = {name: p.grad.clone() for name, p in model.named_parameters()}
        centralize_(model, **options)
        return {n for n, p in model.named_parameters() if not torch.equal(p.grad, before[n])}

    assert changed() == {"0.weight", "1.0.weight", "1.1.weight"}
    assert changed(conv_only=True) == {"0.weight"}
    assert changed(exclude=("1",)) == {"0.weight"}
    assert changed(exclude=("1.0", "1.1.weight")) == {"0.weight"}
    assert changed(exclude=("2",)) == {"1.0.weight", "1.1.weight"}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Tanh(), nn.ConvTranspose2d(6, 4, 3, groups=2), nn.Flatten(),
        nn.Linear(4 * 6 * 6, 5),
    ).double()  # fmt: skip


def backward(model, step, scale=1.0):
    model.zero_grad()
    inputs = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step)).double()
    (model(inputs).square().mean() * scale).backward()


def means(model):
    convolution, transposed, linear = (model[i].weight.detach() for i in (0, 2, 4))
    return [
        convolution.mean((1, 2, 3)),
        transposed.reshape(2, 3, 2, 3, 3).mean((1, 3, 4)),
        linear.mean(1),
    ]


def drift(trick, kind=torch.optim.SGD, steps=10, **options):
    """Train; give back the most that the mean of a unit has moved."""
    model = trick.model(network())
    optimizer = trick.optimizer(kind(model.parameters(), **options))
    start = means(model)
    for step in range(steps):
        backward(model, step)
        trick.gradients(model, optimizer, torch.tensor(1.0))
        optimizer.step()
    return max((a - b).abs().max().item() for a, b in zip(means(model), start, strict=True))


def test_with_clipping_the_norm_is_the_bound_and_the_means_of_the_filters_stand_still():
    chain = Chain(Centralization(), Clipping(max_norm=1e-2))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    start = means(model)
    for step in range(30):
        backward(model, step, scale=100.0)
        chain.gradients(model, optimizer, torch.tensor(1.0))
        norm = get_total_norm([p.grad for p in model.parameters()])
        assert norm.item() == pytest.approx(1e-2, abs=1e-6)
        optimizer.step()
    for now, then in zip(means(model), start, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=1e-15)


@pytest.mark.parametrize("form", ["foreach", "fused"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_with_decay_in_the_gradient_the_means_stand_still_in_every_form_of_sgd(kind, options, form):
    options = {"lr": 0.1, "weight_decay": 0.05, **options}
    for on in (False, True):
        assert drift(Centralization(), kind, **options, **{form: on}) < 1e-15


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("where", ["gradient_and_decay", "update"])
def test_gradients_made_within_the_step_give_what_those_made_before_it_give(where, by_name):
    results = []
    for within in (False, True):
        model, trick = network(), Centralization(where)
        optimizer = trick.optimizer(
            torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
        )
        start = means(model)
        for step in range(3):

            def closure(model=model, trick=trick, optimizer=optimizer, step=step):
                backward(model, step)
                trick.gradients(model, optimizer, torch.tensor(1.0))
                return torch.tensor(float(step))

            if not within:
                closure()
                optimizer.step()
            elif by_name:
                assert optimizer.step(closure=closure).item() == step
            else:
                assert optimizer.step(closure).item() == step
        for now, then in zip(means(model), start, strict=True):
            torch.testing.assert_close(now, then, rtol=0, atol=1e-15)
        results.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_the_gradient_alone_lets_weight_decay_move_the_means():
    assert drift(Centralization("gradient"), lr=0.1, weight_decay=0.05) > 1e-4
    assert drift(Centralization("gradient"), lr=0.1) < 1e-15


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_the_decay_of_each_group_is_taken_off_with_its_own_sign(kind, maximize):
    """Checked against the gradient that a plain optimizer without decay would have to be given."""
    model, plain, trick = network(), network(), Centralization()
    decays = [0.05, 0.0, 0.2]
    groups = zip((model[0], model[2], model[4]), decays, strict=True)
    options = {"lr": 0.01, "maximize": maximize}
    optimizer = kind([{"params": m.parameters(), "weight_decay": d} for m, d in groups], **options)
    expected = kind(plain.parameters(), **options)
    for step in range(3):
        for each in (model, plain):
            backward(each, step)
        trick.gradients(model, optimizer, torch.tensor(1.0))
        optimizer.step()
        sign = -1 if maximize else 1
        for layer, decay in zip((plain[0], plain[2], plain[4]), decays, strict=True):
            layer.weight.grad.add_(layer.weight.detach(), alpha=sign * decay)
            layer.bias.grad.add_(layer.bias.detach(), alpha=sign * decay)
        centralize_(plain)
        expected.step()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.05}),
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "foreach": True}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "fused": True}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.Adam, {"weight_decay": 0.05, "foreach": True}),
        (torch.optim.NAdam, {}),
        (torch.optim.Adafactor, {}),
        (torch.optim.Adagrad, {"fused": True}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {"weight_decay": 0.1, "fused": True}),
        (torch.optim.RMSprop, {"weight_decay": 0.1}),
        (torch.optim.Rprop, {}),
    ],
)
def test_the_update_keeps_the_means_with_any_optimizer(kind, options):
    assert drift(Centralization("update"), kind, lr=0.01, **options) < 1e-14


def test_the_update_changes_nothing_else():
    model, plain = network(), network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    expected = torch.optim.Adam(plain.parameters(), lr=0.01)
    backward(model, 0)
    backward(plain, 0)
    Centralization("update").gradients(model, optimizer, torch.tensor(1.0))
    optimizer.step()
    expected.step()
    change = model[4].weight - plain[4].weight
    torch.testing.assert_close(change, change.mean(1, keepdim=True).expand_as(change))
    assert torch.equal(model[4].bias, plain[4].bias)


@pytest.mark.parametrize("where", ["gradient_and_decay", "update"])
def test_one_hook_serves_a_whole_training(where):
    model, trick = network(), Centralization(where)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        trick.gradients(model, optimizer, torch.tensor(1.0))
        optimizer.step()
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    assert sum(map(len, hooks)) == 1


def after_steps(where, act):
    model, trick = network(), Centralization(where)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    for step in range(3):
        backward(model, step)
        act(trick, model, optimizer)
        optimizer.step()
    return list(model.parameters())


@pytest.mark.parametrize("where", ["gradient_and_decay", "update"])
def test_a_step_left_out_in_between_changes_nothing(where):
    def once(trick, model, optimizer):
        trick.gradients(model, optimizer, torch.tensor(1.0))

    def twice(trick, model, optimizer):
        once(trick, model, optimizer)  # whose step is left out
        once(trick, model, optimizer)

    for one, other in zip(after_steps(where, once), after_steps(where, twice), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


@pytest.mark.parametrize("where", ["gradient_and_decay", "update"])
def test_a_step_without_the_trick_is_the_optimizers_own(where):
    model, plain = network(), network()
    trick = Centralization(where)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.05)
    backward(model, 0)
    trick.gradients(model, optimizer, torch.tensor(1.0))
    optimizer.step()
    plain.load_state_dict(model.state_dict())
    expected = torch.optim.SGD(plain.parameters(), lr=0.1, weight_decay=0.05)
    for each, its in ((model, optimizer), (plain, expected)):
        backward(each, 1)
        its.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True)
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("where", ["gradient", "gradient_and_decay", "update"])
def test_a_loss_scaler_changes_nothing_also_over_an_overflow(where, fused):
    results = []
    for scale in (None, 2.0**10):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        model, trick = network(), Centralization(where)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05, fused=fused
        )
        for step in range(4):
            backward(model, step, scale=scaler.scale(torch.ones(())))
            if step == 2:
                if scale is None:
                    continue
                model[0].weight.grad[0, 0, 0, 0] = torch.inf
            scaler.unscale_(optimizer)
            trick.gradients(model, optimizer, torch.tensor(1.0))
            scaler.step(optimizer)
            scaler.update()
        results.append(list(model.parameters()))
    for plain, scaled in zip(*results, strict=True):
        torch.testing.assert_close(plain, scaled, rtol=0, atol=1e-15)


class OwnSGD(torch.optim.SGD):
    """An optimizer that may do anything with its weight decay."""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.AdamW, {}),
        (torch.optim.Adam, {"weight_decay": 0.01, "decoupled_weight_decay": True}),
        (torch.optim.RAdam, {"weight_decay": 0.01, "decoupled_weight_decay": True}),
        (torch.optim.Adafactor, {"weight_decay": 0.01}),
        (OwnSGD, {"lr": 0.1, "weight_decay": 0.01}),
    ],
)
def test_a_weight_decay_that_is_not_known_to_be_coupled_is_refused_by_name(kind, options):
    model = network()
    optimizer = kind(model.parameters(), **options)
    message = rf"must have an optimizer .* got {kind.__name__} .*decay of 0\.01.* where=update"
    with pytest.raises(ValueError, match=message):
        Centralization().optimizer(optimizer)
    with pytest.raises(ValueError, match=message):
        Centralization().gradients(model, optimizer, torch.tensor(1.0))
    for where in ("gradient", "update"):
        assert Centralization(where).optimizer(optimizer) is optimizer


def test_without_weight_decay_any_optimizer_will_do():
    assert drift(Centralization(), OwnSGD, lr=0.1, weight_decay=0.0) < 1e-15
    Centralization().optimizer(torch.optim.AdamW(network().parameters(), weight_decay=0.0))


def test_a_model_with_nothing_to_centralize_is_refused():
    with pytest.raises(
        ValueError, match=r"must find a convolution or a linear layer .*BatchNorm2d"
    ):
        Centralization().model(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="must find"):
        Centralization(conv_only=True).model(nn.Linear(3, 3))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"exclude must name modules .* of Sequential, got 'fc'"):
        Centralization(exclude=("fc",)).model(network())
    with pytest.raises(ValueError, match=r"got the text 'fc'. Write \('fc',\)"):
        centralize_(network(), exclude="fc")
    with pytest.raises(TypeError, match=r"got a generator. Write centralize_\(model\)"):
        centralize_(network().parameters())
    with pytest.raises(ValueError, match=r"where must be one of .*, got 'decay'"):
        Centralization("decay")
