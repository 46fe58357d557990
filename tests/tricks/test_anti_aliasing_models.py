"""Anti-aliasing of models from torchvision and timm, and of maps too small for the filter."""

import re
import warnings
from collections import Counter
from functools import partial

import pytest
import torch
import torchvision
from torch import fx, nn
from torch.nn import functional as F

from runner.anti_alias import build_model
from tests.conftest import few
from tests.tricks.anti_aliasing import after_stem, noise, same, seeded, small_resnet
from tricks import AntiAliasing, anti_alias, find_places


class Rule(fx.Interpreter):
    """The paper's rule, applied while the graph of a plain model runs: no hook, no module changed.

    A strided layer gives every pixel. Its stride travels with the map, through norms, to the
    activation, and the blur takes it there. The layers without activation are given by name.
    """

    def __init__(self, model, linear):
        super().__init__(model, graph=fx.Tracer().trace(model))
        self.linear = re.compile(linear)
        self.layers = dict(model.named_modules())
        self.first = next(m for m in self.layers.values() if isinstance(m, nn.Conv2d))
        self.waiting = {}  # nodes, and the size of the map that the plain layer gives

    def run_node(self, node):
        layer = self.layers.get(node.target) if node.op == "call_module" else None
        strided = isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
        if strided and layer is not self.first and layer.stride not in (1, (1, 1)):
            (x,), _ = self.fetch_args_kwargs_from_env(node)
            return self.strided(node, layer, x)
        y = super().run_node(node)
        source = next((n for n in node.all_input_nodes if n in self.waiting), None)
        if source is None or node.target is getattr:
            return y
        name = (type(layer).__name__ if layer else str(node.target)).lower()
        if re.search("relu|silu", name):
            return self.blur(y, self.waiting[source])
        assert re.search("norm|identity", name), f"{name} stands before the activation"
        self.waiting[node] = self.waiting[source]
        return y

    def strided(self, node, layer, x):
        size = layer(x).shape[2:]
        if isinstance(layer, nn.MaxPool2d):
            dense = F.max_pool2d(x, layer.kernel_size, 1, layer.padding, layer.dilation)
            return self.blur(dense, size)
        if isinstance(layer, nn.AvgPool2d):
            return self.blur(x, size)
        dense = partial(
            F.conv2d, weight=layer.weight, bias=layer.bias, padding=layer.padding,
            dilation=layer.dilation, groups=layer.groups,
        )  # fmt: skip
        if not self.linear.search(node.target):
            self.waiting[node] = size
            return dense(x)
        if layer.kernel_size == (1, 1):
            return dense(self.blur(x, size))
        return layer(self.blur(x, x.shape[2:], stride=1))

    @staticmethod
    def blur(x, size, stride=2):
        taps = torch.tensor([1, 3, 3, 1], dtype=x.dtype) / 8
        weight = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
        y = F.conv2d(F.pad(x, (1, 3, 1, 3), "reflect"), weight, stride=stride, groups=x.shape[1])
        return y[:, :, : size[0], : size[1]]


MODELS = {  # with the strided convolutions that no activation follows, by their names
    "resnet18": ("downsample", {"max-pool": 1, "convolution": 3, "pointwise": 3}),
    "resnet34": ("downsample", {"max-pool": 1, "convolution": 3, "pointwise": 3}),
    "resnet50": ("downsample", {"max-pool": 1, "convolution": 3, "pointwise": 3}),
    "vgg11_bn": ("none", {"max-pool": 5}),
    "mobilenet_v2": ("none", {"convolution": 4}),
    "densenet121": ("none", {"max-pool": 1, "average-pool": 3}),
    "regnet_y_400mf": ("proj", {"convolution": 4, "pointwise": 4}),
    "convnext_tiny": ("features", {"linear": 3}),
    "efficientnet_b0": ("none", {"convolution": 4}),
    "shufflenet_v2_x0_5": ("branch1.0|branch2.3", {"max-pool": 1, "linear": 6}),
    "timm/regnetx_002": ("downsample", {"convolution": 4, "pointwise": 4}),
    "timm/resnet18d": ("none", {"max-pool": 1, "convolution": 3, "average-pool": 3}),
    "timm/efficientnet_b0": ("none", {"convolution": 4}),  # its norm calls the activation
    # chosen last, unseen while the code was written
    "timm/dla34": ("none", {"max-pool": 6, "convolution": 5}),
    "timm/cspdarknet53": ("none", {"convolution": 5}),
    "timm/ghostnet_100": ("conv_dw|shortcut", {"linear": 8}),
}


QUICK = ("resnet18", "densenet121", "shufflenet_v2_x0_5", "timm/resnet18d", "timm/ghostnet_100")


@pytest.mark.parametrize("name", few(MODELS, QUICK))
def test_a_model_of_others_gives_what_the_rule_gives(name):
    if name.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is not installed: its models are skipped")
    linear, kinds = MODELS[name]
    torch.manual_seed(0)
    model = build_model(name, channels=3).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(noise(3, 3, 96, 96))  # statistics with which the numbers keep their size
    model.eval()
    assert Counter(place.kind for place in find_places(model)) == kinds
    x = noise(1, 3, 96, 96)
    with torch.no_grad():
        plain, expected = model(x), Rule(model, linear).run(x)
        blurred = anti_alias(model)(x)
    same(blurred, expected, 1e-9)
    assert (blurred - plain).norm() > 0.01 * plain.norm()


@pytest.mark.parametrize("name", ["resnet18", "regnet_x_400mf", "shufflenet_v2_x0_5"])
def test_filter_size_one_is_the_plain_network(name):
    model = seeded(torchvision.models.get_model, name=name).double().eval()
    x = noise(2, 3, 63, 70)
    with torch.no_grad():
        plain = model(x)
        same(anti_alias(model, filter_size=1)(x), plain, 1e-9)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_maps_of_one_pixel_pass(padding_mode):
    model = AntiAliasing(7, padding_mode).model(small_resnet().train())
    with warnings.catch_warnings(action="ignore"):
        loss = model(noise(4, 3, 4, 4)).logsumexp(1).sum()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("padding_mode", "size", "small"),
    [("reflect", 2, True), ("reflect", 3, False), ("circular", 1, True), ("circular", 2, False)],
)
def test_a_map_that_is_too_small_is_warned_of_once_and_its_layer_named(padding_mode, size, small):
    torch_refuses = False
    try:
        F.pad(noise(1, 1, size, size), (1, 2, 1, 2), padding_mode)
    except RuntimeError:
        torch_refuses = True
    assert torch_refuses == small
    model = anti_alias(after_stem(nn.ReLU(), nn.MaxPool2d(2, 2, padding=1)), 4, padding_mode)
    model[2].kernel_size, model[2].padding = 1, 0  # the map at the blur is that of the stem
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(2):
            model(torch.randn(1, 3, size + 2, size + 2))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == small
    assert all(f"The map at 2 is {size}x{size}, too small" in message for message in messages)


def test_only_the_side_that_strides_counts_as_small():
    model = anti_alias(after_stem(nn.ReLU(), nn.MaxPool2d(1, (1, 2))))
    model(torch.ones(1, 3, 4, 9))  # two rows, which are not blurred
    with pytest.warns(UserWarning, match=r"at 2 is 7x2, .* filter_size=4"):
        model(torch.ones(1, 3, 9, 4))
