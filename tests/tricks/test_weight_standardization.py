"""Weight standardization: the formula, timm's layer, which convolutions, what still works."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torchvision.ops import SqueezeExcitation

from runner.models import cifar_resnet
from tricks import (
    Centralization,
    Muon,
    WeightStandardization,
    Whitening,
    anti_alias,
    standardize,
    standardize_weights,
)
from tricks.downsampling import find_places
from tricks.tracing import takes_its_stride

CASES = [
    (nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4), (6, 9)),
    (nn.Conv2d(6, 4, (3, 2), 2, 1, dilation=2), nn.BatchNorm2d(4), (6, 9, 9)),
    (nn.Conv2d(6, 4, 3, groups=2, bias=False), nn.GroupNorm(2, 4), (6, 5, 5)),
    (nn.Conv2d(6, 4, 3, padding=2, padding_mode="reflect"), nn.InstanceNorm2d(4), (6, 5, 5)),
    (nn.Conv3d(6, 4, 2), nn.BatchNorm3d(4), (6, 3, 3, 3)),
]
each_convolution = pytest.mark.parametrize(
    ("layer", "norm", "shape"), CASES, ids=lambda value: str(value)
)


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(weight, eps):
    units = [w - w.mean() for w in weight]
    return torch.stack([w / (w.square().mean() + eps).sqrt() for w in units])


@each_convolution
def test_a_convolution_takes_the_standardized_weights_of_each_output_channel(layer, norm, shape):
    plain, x = copy.deepcopy(layer).double(), noise(2, *shape)
    model = standardize_weights(nn.Sequential(copy.deepcopy(plain), copy.deepcopy(norm)), eps=1e-3)
    with torch.no_grad():
        plain.weight.copy_(by_hand(plain.weight, 1e-3))
    torch.testing.assert_close(model[0](x), plain(x))
    assert takes_its_stride(model[0]) == isinstance(plain, nn.Conv2d)


def test_eps_is_under_the_root_and_the_variance_that_of_the_paper():
    weight = noise(3, 2, 3, 3)
    rows = standardize(weight, 1e-12).flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(3).double())
    torch.testing.assert_close(rows.var(1, correction=0), torch.ones(3).double())
    std, mean = torch.std_mean(weight, (1, 2, 3), keepdim=True)  # as the authors' code has it
    theirs = (weight - mean) / (std + 1e-5)
    torch.testing.assert_close(theirs * (18 / 17) ** 0.5, standardize(weight), rtol=1e-4, atol=0)
    constant = torch.ones(2, 3, requires_grad=True)
    standardize(constant).square().sum().backward()
    assert constant.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_moments_of_half_precision_are_taken_in_float32(dtype):
    weight = (0.02 * noise(4, 512, 3, 3) + 0.1).to(dtype)
    expected = by_hand(weight.double(), 1e-6)
    torch.testing.assert_close(standardize(weight).double(), expected, rtol=0.01, atol=0.01)
    assert standardize(weight).dtype == dtype


def test_the_gradient_has_no_part_along_the_mean_or_the_scale_of_a_filter():
    layer = nn.Conv2d(3, 4, 3)
    model = standardize_weights(nn.Sequential(layer, nn.GroupNorm(2, 4)).double(), eps=1e-12)
    model(noise(2, 3, 6, 6)).pow(3).sum().backward()
    rows, gradient = layer.weight.detach().flatten(1), layer.weight.grad.flatten(1)
    assert gradient.norm() > 0.1
    torch.testing.assert_close(gradient.sum(1), torch.zeros(4).double())
    torch.testing.assert_close((gradient * rows).sum(1), torch.zeros(4).double())


def test_scale_and_shift_of_a_filter_change_nothing():
    model, x = standardize_weights(network().double()).train(), noise(4, 3, 8, 8)
    y = model(x)
    with torch.no_grad():
        model.stage1[0].conv1.weight.mul_(7).add_(0.3)
    torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-6)


def network():
    torch.manual_seed(0)
    return cifar_resnet(depth=8, width=4, channels=3, classes=5)


def standardized(model):
    return {n for n, m in model.named_modules() if "standardized" in m.extra_repr()}


def convolutions(model):
    return {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def after_norm(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *layers)


class Forked(nn.Module):
    """A convolution that a norm and something else read."""

    def __init__(self, other, norm=None):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.conv, self.norm = nn.Conv2d(4, 4, 1), norm or nn.BatchNorm2d(4)
        self.other = other

    def forward(self, x):
        y = self.conv(self.stem_norm(self.stem(x)))
        torch._assert(y.ndim == 4, "a map")
        return self.norm(y) + self.other(y)


CHOICES = {
    "a residual network": (network(), convolutions(network())),
    "behind activation and pool": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.MaxPool2d(2), nn.BatchNorm2d(4)),
        {"0"},
    ),
    "a classifier": (after_norm(nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1)), {"0"}),
    "no norm before the next": (after_norm(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)), {"0"}),
    "squeeze-excite": (after_norm(SqueezeExcitation(4, 2), nn.BatchNorm2d(4)), {"0"}),
    "depthwise": (after_norm(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), {"0"}),
    "one weight a unit": (
        nn.Sequential(
            *(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)), *(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
        ),
        {"2"},
    ),
    "a grey image": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), {"0"}),
    "transposed": (after_norm(nn.ConvTranspose2d(4, 4, 2), nn.BatchNorm2d(4)), {"0"}),
    "a saturating activation": (
        after_norm(nn.Conv2d(4, 4, 1), nn.Tanh(), nn.BatchNorm2d(4)),
        {"0"},
    ),
    "the output reads it too": (Forked(nn.ReLU()), {"stem"}),
    "another norm reads it too": (Forked(nn.BatchNorm2d(4)), {"stem", "conv"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOICES)
def test_the_convolutions_are_those_that_a_norm_follows(case):
    model, names = CHOICES[case]
    assert standardized(standardize_weights(copy.deepcopy(model))) == names


def test_a_convolution_is_left_alone_if_one_of_its_calls_meets_no_norm():
    class Net(Forked):
        def forward(self, x):
            return self.conv(F.relu(self.norm(self.conv(self.stem_norm(self.stem(x))))))

    assert standardized(standardize_weights(Net(None))) == {"stem"}


def test_functions_are_norms_too():
    class Net(Forked):
        def forward(self, x):
            return F.group_norm(F.relu(self.conv(F.layer_norm(self.stem(x), (2, 2)))), 2)

    assert standardized(standardize_weights(Net(None))) == {"stem", "conv"}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_parameters_and_keys_stay_and_copies_standardize_too(again):
    model, x = network(), noise(4, 3, 8, 8).float()
    parameters, keys = list(model.parameters()), list(model.state_dict())
    plain = copy.deepcopy(model)
    assert standardize_weights(model) is model
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == keys
    assert isinstance(model.conv, nn.Conv2d)
    assert torch.equal(again(model)(x), model(x))
    assert not torch.allclose(plain(x), model(x))
    other = standardize_weights(network())
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_in_one_graph_also_its_gradients():
    model, x = (
        standardize_weights(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))),
        noise(2, 3, 6, 6).float(),
    )
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    for each in (model, compiled):
        each(x).pow(3).sum().backward()
    for one, other in zip(model.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["export", "onnx"])
def test_an_exported_network_gives_the_same(form, tmp_path):
    model, x = standardize_weights(network()).eval(), noise(2, 3, 8, 8).float()
    if form == "export":
        y = torch.export.export(model, (x,)).module()(x)
    else:
        runtime = pytest.importorskip("onnxruntime")
        torch.onnx.export(model, (x,), str(tmp_path / "net.onnx"), dynamo=True, verbose=False)
        session = runtime.InferenceSession(tmp_path / "net.onnx")
        y = torch.tensor(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-5)


def test_under_autocast_and_in_channels_last_the_network_is_the_same():
    model, x = standardize_weights(network()), noise(4, 3, 8, 8).float()
    y = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(x).float(), y, rtol=0.1, atol=0.1)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), y)


@pytest.mark.parametrize("order", ["before", "after"])
def test_anti_aliasing_finds_its_places_before_and_after(order):
    x = noise(2, 3, 16, 16).float()
    model = network()
    places = find_places(model)
    if order == "before":
        standardize_weights(anti_alias(model))
    else:
        standardize_weights(model)
        assert find_places(model) == places
        anti_alias(model)
    reference = anti_alias(network())
    with torch.no_grad():
        for module in reference.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(standardize(module.weight))
    torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-5)
    assert fx.symbolic_trace(model).conv is model.conv


def test_tricks_of_the_weights_change_those_that_are_trained():
    model = standardize_weights(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = model.stage1[0].conv1.weight
    model(noise(4, 3, 8, 8).float()).logsumexp(1).sum().backward()
    weight.grad.add_(1)
    Centralization("gradient").gradients(model, optimizer, torch.tensor(1.0))
    torch.testing.assert_close(weight.grad.mean((1, 2, 3)), torch.zeros(4))
    before = weight.detach().clone()
    Muon().optimizer(optimizer, model).step()
    singular = torch.linalg.svdvals((weight.detach() - before).flatten(1))
    assert singular.max() < 1.5 * singular.min()


def test_a_whitened_convolution_is_left_alone():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    )
    assert standardized(standardize_weights(Whitening(frozen=False).model(model))) == {"2"}
    assert WeightStandardization.after == ("Whitening",)


class Padding(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


def pruned():
    layer = nn.Conv2d(3, 4, 3)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    return layer


REFUSED = {
    "standardized": (standardize_weights(after_norm()), r"Sequential\.0 is standardized already"),
    "without norms": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "no convolution in Sequential"),
    "without convolutions": (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "no convolution"),
    "padding by itself": (
        nn.Sequential(Padding(3, 4, 3), nn.BatchNorm2d(4)),
        r"Sequential\.0 is a Padding whose forward or weight .* Make it a plain convolution",
    ),
    "parametrized": (
        nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
        r"Sequential\.0 is a ParametrizedConv2d whose",
    ),
    "pruned": (nn.Sequential(pruned(), nn.BatchNorm2d(4)), r"Sequential\.0 is a Conv2d whose"),
    "lazy": (nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4)), "is a LazyConv2d whose"),
    "out of reach": (
        Forked(lambda y: y if y.sum() > 0 else -y),
        "Forked cannot be traced .* Write standardize_weights for the parts",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_model_is_refused_that_is(reason):
    model, message = REFUSED[reason]
    before = repr(model)
    with pytest.raises(ValueError, match=message):
        standardize_weights(model)
    assert repr(model) == before


@pytest.mark.parametrize("eps", [0, -1, float("nan"), float("inf")])
def test_an_eps_out_of_range_is_refused(eps):
    with pytest.raises(ValueError, match=r"WeightStandardization\.eps must be > 0 and finite"):
        WeightStandardization(eps)
    with pytest.raises(ValueError, match="eps must be > 0"):
        standardize_weights(network(), eps)


NETWORKS = {"resnet18": 20, "mobilenet_v3_small": 23, "regnet_y_400mf": 53, "densenet121": 120}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_of_torchvisions_models_the_convolutions_before_norms_are_changed(name):
    model = standardize_weights(torchvision.models.get_model(name))
    assert len(standardized(model)) == NETWORKS[name]
    y = model(torch.randn(2, 3, 64, 64))
    y.logsumexp(1).sum().backward()
    assert y.isfinite().all()


@pytest.mark.slow
def test_timms_layer_gives_the_same_and_is_refused_as_standardized():
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    theirs = layers.StdConv2d(6, 4, 3, groups=2, bias=True)
    ours = nn.Conv2d(6, 4, 3, padding=1, groups=2)
    ours.load_state_dict(theirs.state_dict())
    model, x = standardize_weights(nn.Sequential(ours, nn.BatchNorm2d(4))), torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(model[0](x), theirs(x))
    with pytest.raises(ValueError, match="is a StdConv2d whose forward"):
        standardize_weights(nn.Sequential(theirs, nn.BatchNorm2d(4)))
