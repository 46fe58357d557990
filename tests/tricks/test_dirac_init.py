"""Dirac initialisation: the identity by what it does, torch's own, which convolutions, refusals."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from runner.models import cifar_resnet
from tricks import DiracInit, WeightStandardization, dirac_init_

LAYERS = [
    (nn.Conv1d(4, 6, 3, padding=1), (4, 9)),
    (nn.Conv2d(4, 4, 3, padding="same", bias=False), (4, 5, 5)),
    (nn.Conv2d(4, 6, (1, 5), padding=(0, 2)), (4, 5, 7)),
    (nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2), (4, 6, 6)),
    (nn.Conv2d(4, 8, 3, padding=1, groups=4), (4, 6, 6)),
    (nn.Conv3d(2, 3, 3, padding=1), (2, 4, 3, 3)),
]


def behind(*layers, stem=None):
    return nn.Sequential(stem or nn.Conv2d(3, 4, 1), *layers)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: str(value))
def test_in_each_group_the_first_outputs_are_the_inputs_and_the_rest_is_as_it_was(layer, shape):
    layer, x = copy.deepcopy(layer), torch.randn(2, *shape)
    model = behind(layer, stem=nn.Linear(2, 2))
    before = copy.deepcopy(layer)
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        assert dirac_init_(model) == ("1",)
        assert torch.equal(torch.get_rng_state(), state)
    y, plain = layer(x), before(x)
    if layer.bias is not None:
        assert torch.equal(layer.bias, before.bias)
        bias = layer.bias.view(-1, *[1] * (x.ndim - 2))
        y, plain = y - bias, plain - bias
    inputs = layer.in_channels // layer.groups
    groups = (tensor.chunk(layer.groups, 1) for tensor in (x, y, plain))
    for given, found, other in zip(*groups, strict=True):
        torch.testing.assert_close(found[:, :inputs], given)
        assert torch.equal(found[:, inputs:], other[:, inputs:])
        assert not torch.allclose(other[:, :inputs], given)


def test_without_groups_it_is_torchs_own_on_the_first_filters():
    layer = nn.Conv2d(4, 7, 3)
    expected = layer.weight.detach().clone()
    nn.init.dirac_(expected[:4])
    dirac_init_(behind(layer))
    assert torch.equal(layer.weight, expected)


def test_a_strided_one_begins_as_a_subsampling():
    layer, x = nn.Conv2d(4, 8, 3, 2, padding=1, bias=False), torch.randn(1, 4, 8, 8)
    dirac_init_(behind(layer))
    assert torch.equal(layer(x)[:, :4], x[..., ::2, ::2])


def test_precision_and_memory_format_are_those_of_the_weight():
    layer = nn.Conv2d(4, 4, 3).half().to(memory_format=torch.channels_last)
    weight = layer.weight
    dirac_init_(behind(layer))
    assert layer.weight is weight
    assert weight.requires_grad
    assert weight.dtype == torch.float16
    assert weight.is_contiguous(memory_format=torch.channels_last)


LEFT_ALONE = {
    "fewer outputs than inputs": nn.Conv2d(4, 3, 3),
    "an even side": nn.Conv2d(4, 4, (3, 2)),
    "a pointwise one": nn.Conv2d(4, 4, 1),
    "a transposed one": nn.ConvTranspose2d(4, 4, 3),
    "the first": nn.Identity(),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone_is(case):
    model = behind(LEFT_ALONE[case], stem=nn.Conv2d(3, 4, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"DiracInit found no convolution .* Drop the trick"):
        dirac_init_(model)
    assert dirac_init_(model.append(nn.Conv2d(4, 4, 3))) == ("2",)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_the_first_is_that_of_the_computation():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.late, self.early = nn.Conv2d(4, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.late(self.early(x))

    assert dirac_init_(Net()) == ("late",)


def test_the_trick_initialises_and_reads_no_input():
    torch.manual_seed(0)
    model = cifar_resnet(depth=8, width=4, channels=3, classes=5)
    other = copy.deepcopy(model)
    DiracInit().initialize(model, iter(()))
    assert DiracInit().model(model) is model
    names = dirac_init_(other)
    assert names == tuple(
        f"stage{stage}.0.conv{number}" for stage in (1, 2, 3) for number in (1, 2)
    )
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_convolution_that_standardizes_its_weight_is_initialised_too():
    model = behind(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    assert dirac_init_(WeightStandardization().model(model)) == ("1",)


REFUSED = {
    "is parametrized": (
        behind(parametrizations.weight_norm(nn.Conv2d(4, 4, 3))),
        r"Sequential\.1\.weight cannot be set: .* Initialise the model before",
    ),
    "is lazy": (behind(nn.LazyConv2d(4, 3)), r"Sequential\.1\.weight cannot be set"),
}


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


REFUSED["cannot be traced"] = (
    behind(Branching(), nn.Conv2d(4, 4, 3)),
    "Sequential cannot be traced .* DiracInit leaves .* Call dirac_init_ on the parts",
)


@pytest.mark.parametrize("reason", REFUSED)
def test_a_model_is_refused_that(reason):
    model, message = REFUSED[reason]
    with pytest.raises(ValueError, match=message):
        dirac_init_(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 16), ("mobilenet_v2", 17), ("shufflenet_v2_x0_5", 19), ("vgg11", 7)],
)
def test_of_torchvisions_models_the_spatial_convolutions_begin_so(name, count):
    model = torchvision.models.get_model(name)
    names = dirac_init_(model)
    assert len(names) == count
    for layer in map(model.get_submodule, names):
        inputs = layer.in_channels // layer.groups
        assert layer.weight[:inputs].sum() == inputs
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 3, 64, 64)).isfinite().all()
