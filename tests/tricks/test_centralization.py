"""Gradient centralization: the authors' numbers, every kind of weight, and what is refused."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from tests.tricks.centralization import network
from tricks import Centralization, centralize_

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
    optimizer = trick.optimizer(kind(model.parameters(), **options), model)
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
def test_of_any_convolution_each_output_channel_loses_its_mean(
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
                assert torch.equal(left, g)  # one weight of one input: it must keep learning
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


def test_a_model_with_nothing_to_centralize_is_refused():
    with pytest.raises(ValueError, match=r"found nothing to centralize in BatchNorm2d"):
        Centralization().model(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="found nothing to centralize in Linear"):
        Centralization(conv_only=True).model(nn.Linear(3, 3))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"exclude must name modules .* of Sequential, got 'fc'"):
        Centralization(exclude=("fc",)).model(network())
    with pytest.raises(ValueError, match=r"got 'fc'. Write \('fc',\)"):
        centralize_(network(), exclude="fc")
    with pytest.raises(TypeError, match=r"got a generator. Write centralize_\(model\)"):
        centralize_(network().parameters())
    with pytest.raises(ValueError, match=r"where must be one of .*, got 'decay'"):
        Centralization("decay")


def changed_by(act, model):
    """Give every parameter a gradient; name those that are changed."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.rand(parameter.shape, generator=generator)
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    act(model)
    return {n for n, p in model.named_parameters() if not torch.equal(p.grad, before[n])}


RENAMED = {
    "weight_norm": (nn.utils.weight_norm, "weight_v"),
    "weight_norm of inputs": (lambda layer: nn.utils.weight_norm(layer, dim=1), "weight_v"),
    "spectral_norm": (nn.utils.spectral_norm, "weight_orig"),
    "pruned": (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "weight_orig"),
    "pruned weight_norm": (
        lambda layer: prune.l1_unstructured(nn.utils.weight_norm(layer), "weight_v", 0.5),
        "weight_v_orig",
    ),
    "parametrized": (parametrizations.weight_norm, "parametrizations.weight.original1"),
    "parametrized of inputs": (
        lambda layer: parametrizations.weight_norm(layer, dim=1),
        "parametrizations.weight.original1",
    ),
    "parametrized spectral_norm": (
        parametrizations.spectral_norm, "parametrizations.weight.original",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 4, 3), lambda: nn.Linear(5, 1)])
@pytest.mark.parametrize("case", RENAMED)
def test_of_a_computed_weight_what_is_trained_for_it_is_centralized(case, make):
    rename, name = RENAMED[case]
    model = nn.Sequential(rename(make()), nn.Linear(2, 2))
    assert changed_by(centralize_, model) == {f"0.{name}", "1.weight"}
    gradient = model.get_parameter(f"0.{name}").grad
    assert gradient.flatten(1).mean(1).abs().max() < 1e-6
    assert Centralization().model(model) is model  # nothing to warn of
    kinds = nn.Conv2d if isinstance(model[0], nn.Conv2d) else nn.Linear
    only = changed_by(lambda m: centralize_(m, conv_only=True), model)
    assert only == ({f"0.{name}"} if kinds is nn.Conv2d else set())


@pytest.mark.parametrize("options", [{}, {"kdim": 3, "vdim": 5}])
def test_query_key_and_value_of_attention_are_linear_layers(options):
    model = nn.MultiheadAttention(4, 2, add_bias_kv=True, **options)
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight") if options else ("in_proj_weight",)
    assert changed_by(centralize_, model) == {*names, "out_proj.weight"}
    for name in names:
        assert model.get_parameter(name).grad.mean(1).abs().max() < 1e-6
    assert changed_by(lambda m: centralize_(m, conv_only=True), model) == set()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_model_is_centralized_as_what_it_was():
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Flatten(), nn.Linear(6, 2)
    )
    scripted = torch.jit.script(copy.deepcopy(plain))
    for model in (plain, scripted):
        assert changed_by(centralize_, model) == {"0.weight", "1.weight", "3.weight"}
    for one, other in zip(plain.parameters(), scripted.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert Centralization().model(scripted) is scripted
    traced = torch.jit.trace(plain[:2], torch.zeros(1, 3, 8, 8))
    assert changed_by(centralize_, traced) == {"0.weight"}  # which channels are a group is lost
    with pytest.warns(UserWarning, match=r"skips 1\.weight of "):
        Centralization().model(traced)


class Experts(nn.Module):
    """A convolution of its own kind."""

    def __init__(self):
        super().__init__()
        self.kernel, self.scale = nn.Parameter(torch.rand(2, 27)), nn.Parameter(torch.rand(4, 1, 1))


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (nn.LSTM(4, 4), ["weight_ih_l0", "weight_hh_l0"]),
        (nn.Bilinear(3, 4, 5), ["weight"]),
        (torchvision.ops.DeformConv2d(3, 4, 3), ["weight"]),
        (Experts(), ["kernel"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_of_other_modules_are_left_alone_and_named_unless_they_are_excluded(layer, names):
    model = nn.Sequential(layer, nn.Linear(4, 4))
    assert changed_by(centralize_, model) == {"1.weight"}
    listed = ", ".join(f"0.{name}" for name in names)
    with pytest.warns(UserWarning, match=rf"skips {listed} of Sequential:"):
        Centralization().model(model)
    Centralization(exclude=("0",)).model(model)
    Centralization(exclude=tuple(f"0.{name}" for name in names)).model(model)


def test_what_is_left_alone_by_choice_or_nature_is_not_warned_of():
    convolution = nn.Conv2d(3, 4, 3)
    for layer in (nn.Linear(4, 4), nn.MultiheadAttention(4, 2)):
        Centralization(conv_only=True).model(nn.Sequential(convolution, layer))
    for layer in (nn.Embedding(4, 3), nn.LayerNorm([3, 4, 5]), nn.BatchNorm2d(3), nn.PReLU(3)):
        Centralization().model(nn.Sequential(convolution, layer))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", [nn.Linear(4096, 2), nn.ConvTranspose1d(512, 4, 3, groups=2)])
def test_the_means_of_half_precision_are_rounded_once(layer, dtype):
    layer = copy.deepcopy(layer).to(dtype)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(layer.weight.shape, generator=generator)
    layer.weight.grad = (1.001 + 0.01 * noise).to(dtype)
    exact = copy.deepcopy(layer).double()
    exact.weight.grad = layer.weight.grad.double()
    centralize_(layer)
    centralize_(exact)
    assert layer.weight.grad.dtype == dtype
    torch.testing.assert_close(
        layer.weight.grad.double(), exact.weight.grad, rtol=torch.finfo(dtype).eps, atol=1e-6
    )
