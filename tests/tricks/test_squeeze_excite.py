"""Squeeze and excitation: the formula, timm's module, where it stands, and what is refused."""

import copy

import pytest
import torch
import torchvision
from timm.layers import SEModule
from timm.models import resnet
from torch import nn

from tests.tricks.residual import Residual, Weighed, branch, conv, network, noise, small
from tricks import SqueezeExcite, anti_alias, squeeze_excite
from tricks.squeeze_excite import ChannelAttention


def attentions(model):
    return [m for m in model.modules() if isinstance(m, ChannelAttention)]


def test_the_formula_by_hand():
    attention = ChannelAttention(channels=2, hidden=1)
    with torch.no_grad():
        attention.reduce.weight.copy_(torch.tensor([[1.0, -1.0]]))
        attention.reduce.bias.fill_(0.5)
        attention.expand.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        attention.expand.bias.copy_(torch.tensor([0.0, 1.0]))
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # means 2 and 1: hidden 1.5
    expected = x * torch.tensor([3.0, -0.5]).sigmoid().view(1, 2, 1, 1)
    torch.testing.assert_close(attention(x), expected)


def test_it_is_the_module_of_timm():
    ours = ChannelAttention(64, 8)
    ours.draw_(torch.Generator().manual_seed(0))
    theirs = SEModule(64)
    theirs.load_state_dict(
        {
            f"fc{k}.{name}": value.view(*value.shape, *[1, 1] * (name == "weight"))
            for k, layer in ((1, ours.reduce), (2, ours.expand))
            for name, value in layer.state_dict().items()
        }
    )
    x = noise(3, 64, 5, 7)
    torch.testing.assert_close(ours(x), theirs(x))


def test_it_stands_where_the_se_resnet_of_timm_has_it():
    options = {"layers": (1, 1, 1, 1), "channels": (8, 16, 16, 32), "num_classes": 5}
    attention = {"block_args": {"attn_layer": "se"}}
    theirs = resnet.ResNet(resnet.BasicBlock, **options, **attention).eval()
    ours = squeeze_excite(resnet.ResNet(resnet.BasicBlock, **options).eval())
    names = {"reduce": "fc1", "expand": "fc2", "squeeze_excite": "se"}
    state = {}
    for key, value in ours.state_dict().items():
        new = ".".join(names.get(part, part) for part in key.split("."))
        attends = "squeeze_excite" in key and key.endswith("weight")
        state[new] = value[..., None, None] if attends else value
    theirs.load_state_dict(state)
    x = noise(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_a_gate_that_is_open_leaves_the_network_as_it_is():
    model, plain = squeeze_excite(small()).eval(), small().eval()
    for attention in attentions(model):
        nn.init.zeros_(attention.expand.weight)
        nn.init.constant_(attention.expand.bias, 100)
    x = noise(2, 3, 16, 16)
    torch.testing.assert_close(model(x), plain(x))


def test_it_weighs_channels_by_the_image():
    """The paper's claim: the weights of the channels depend on the image."""
    model = squeeze_excite(small()).eval()
    seen = []
    attentions(model)[0].expand.register_forward_hook(lambda *call: seen.append(call[2].sigmoid()))
    model(noise(2, 3, 16, 16))
    (weights,) = seen
    assert not torch.allclose(weights[0], weights[1], rtol=1e-3)
    assert ((weights > 0) & (weights < 1)).all()


@pytest.mark.parametrize(
    ("channels", "options", "hidden"),
    [
        (256, {}, 16),
        (64, {}, 8),
        (4, {}, 4),
        (64, {"min_channels": 1}, 4),
        (64, {"reduction": 2}, 32),
        (40, {"min_channels": 1}, 2),
        (8, {"reduction": 16, "min_channels": 1}, 1),
    ],
)
def test_the_hidden_units(channels, options, hidden):
    block = Residual(nn.Conv2d(channels, channels, 1))
    model = squeeze_excite(nn.Sequential(nn.Conv2d(3, channels, 1), block), **options)
    assert model[1].squeeze_excite.reduce.out_features == hidden


def test_what_was_there_keeps_its_parameters_and_keys():
    model = small()
    before = dict(model.named_parameters())
    keys = list(model.state_dict())
    assert SqueezeExcite().model(model) is model
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert [key for key in model.state_dict() if "squeeze_excite" not in key] == keys


def test_the_new_weights_depend_on_the_seed_and_the_place_and_move_no_random_number():
    models = []
    for seed in (0, 0, 1):
        model = network(Residual(branch()), Residual(branch()))
        torch.manual_seed(seed)
        torch.rand(5 if len(models) == 1 else 1)
        state = torch.get_rng_state()
        models.append(squeeze_excite(model))
        assert torch.equal(torch.get_rng_state(), state)
    weights = [[a.reduce.weight for a in attentions(model)] for model in models]
    assert all(map(torch.equal, weights[0], weights[1]))
    assert not torch.equal(weights[0][0], weights[2][0])
    assert not torch.equal(weights[0][0], weights[0][1])
    bound = weights[0][0].shape[1] ** -0.5
    assert bound / 2 < weights[0][0].abs().max() < bound


def test_anti_aliasing_may_come_before_or_after():
    one = anti_alias(squeeze_excite(small().eval()))
    torch.manual_seed(0)
    other = squeeze_excite(anti_alias(small().eval()))
    x = noise(2, 3, 16, 16)
    assert torch.equal(one(x), other(x))
    assert not torch.allclose(one(x), squeeze_excite(small().eval())(x))


def test_a_block_that_is_called_twice_has_one_attention():
    block = Residual(branch())
    model = squeeze_excite(network(block, block))
    assert len(attentions(model)) == 1
    assert model[2].squeeze_excite is model[3].squeeze_excite


class Contained(nn.Sequential):
    """A container that adds its own input: what it held more, it would call."""

    def forward(self, x):
        return x + super().forward(x)


def test_a_container_holds_no_module_that_it_would_call():
    model = squeeze_excite(network(Contained(conv(), nn.BatchNorm2d(4))))
    assert len(model[2]) == 2
    assert model[2][1].squeeze_excite.expand.out_features == 4
    model(noise(2, 3, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_new_weights_have_the_type_of_the_layers(dtype):
    model = squeeze_excite(small().to(dtype))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model(noise(2, 3, 16, 16).to(dtype)).dtype == dtype


def test_it_stands_before_a_drop():
    drop = torchvision.ops.StochasticDepth(0.5, "row")
    model = squeeze_excite(network(Residual(branch(nn.BatchNorm2d(4), drop))))
    seen = []
    attentions(model)[0].register_forward_hook(lambda *call: seen.append(call[1][0]))
    model(noise(2, 3, 8, 8))
    assert all(sample.any() for sample in seen[0])


@pytest.mark.slow
def test_copies_and_compiled_models_compute_the_same():
    model = squeeze_excite(small()).eval()
    x = noise(2, 3, 16, 16)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)


class Tokens(nn.Module):
    """A branch on a map whose channels are last."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        return (x + self.linear(x)).permute(0, 3, 1, 2)


class Dropped(nn.Module):
    """A branch that is reached only behind its dropout."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop = conv(), nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(torch.sigmoid(self.conv(x)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 8, 1), Tokens()),
            r"Sequential\.1 must give a map \[N, C, H, W\], got \[224, 224, 8\] of each sample",
        ),
        (network(Weighed()), r"No hook reaches the branch of Sequential\.2 alone: it ends in the"),
        (nn.Sequential(nn.Conv2d(3, 8, 1)), "SqueezeExcite found no residual block in Sequential"),
        (
            network(Residual(branch(SEModule(4)))),
            r"Sequential\.2\.branch\.4 is a SEModule: the network weighs its channels already",
        ),
        (
            network(Dropped()),
            r"Sequential\.2 is dropped or has dropout before 2\.drop, where its channels",
        ),
        (squeeze_excite(small()), "CifarResNet has squeeze_excite already"),
    ],
    ids=["channels last", "functions", "no block", "has it", "dropout", "twice"],
)
def test_refusals(model, message):
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        squeeze_excite(model)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": 0}, r"SqueezeExcite\.reduction must be >= 1 \(channels\), got 0"),
        ({"min_channels": 0}, r"SqueezeExcite\.min_channels must be >= 1 \(channels\), got 0"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SqueezeExcite(**options)
