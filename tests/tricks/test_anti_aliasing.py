"""Anti-aliasing: the published networks, the trick's parameters, models that are refused."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional as F

from tests.tricks.anti_aliasing import Shared, after_stem, noise, same, small_resnet
from tricks import AntiAliasing, anti_alias, find_places

ORACLE = np.load(Path(__file__).parent.parent / "data" / "antialiased_networks.npz")


def published_weights_(model):
    """Fill a model with the oracle's weights, which a formula gives."""
    tensors = [kv for kv in model.state_dict().items() if "num_batches" not in kv[0]]
    for k, (name, tensor) in enumerate(tensors):
        v = torch.sin(0.37 * torch.arange(tensor.numel(), dtype=torch.float64) + 1.7 * k)
        v = v.view_as(tensor)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * v)
        elif name.endswith("running_mean"):
            tensor.copy_(0.1 * v)
        elif tensor.dim() == 1:
            tensor.copy_(1 + 0.1 * v if name.endswith("weight") else 0.05 * v)
        else:
            tensor.copy_(v * (2 / tensor[0].numel()) ** 0.5)


@pytest.mark.parametrize("case", ["plain", "filter3", "filter4"])
def test_resnet18_gives_the_published_logits(case):
    model = torchvision.models.resnet18(num_classes=10).double().eval()
    published_weights_(model)
    if case != "plain":
        anti_alias(model, filter_size=int(case[-1]))
    g = torch.arange(2 * 3 * 96 * 96, dtype=torch.float64)
    x = torch.cos(0.011 * g + 0.3 * torch.sin(0.0007 * g)).view(2, 3, 96, 96)
    with torch.no_grad():
        same(model(x), torch.tensor(ORACLE[f"resnet18/{case}"]), 1e-9)


def test_a_shift_by_one_pixel_moves_the_output_less_than_in_the_plain_network():
    image = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1).double() / 255 - 0.5
    corners = [(r, c) for r in (100, 180, 260, 340) for c in (50, 200, 350, 500)]
    here, there = (
        torch.stack([image[:, r : r + 64, c + d : c + d + 64] for r, c in corners]) for d in (0, 1)
    )

    def movement(model):
        with torch.no_grad():
            one, other = model(here), model(there)
        return ((one - other).norm(dim=1) / (one - one.mean(0)).norm(dim=1)).mean().item()

    plain = small_resnet()
    moved = [movement(anti_alias(copy.deepcopy(plain), size)) for size in (1, 2, 3, 5)]
    assert moved[0] == pytest.approx(movement(plain))
    assert moved[1] < 0.8 * moved[0]
    assert max(moved[2:]) < moved[1]


class Functional(nn.Module):
    """A convolution, then any function."""

    def __init__(self, function, *, stride=1):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, stride)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(self.stem(x)))


class Uncopyable(nn.Identity):
    def __deepcopy__(self, _):
        raise RuntimeError("no copies")


REFUSED = {
    "has nothing": (after_stem(nn.ReLU()), "found nothing to change in Sequential: it has no str"),
    "has only its first": (nn.Sequential(nn.Conv2d(3, 4, 3, 2)), "found nothing to change"),
    "is done": (anti_alias(after_stem(nn.MaxPool2d(2))), "Sequential is anti-aliased already"),
    "branches": (
        Functional(lambda x: x if x.sum() > 0 else -x),
        "Functional cannot be traced by torch.fx: TraceError: symbolically traced",
    ),
    "gives indices": (
        after_stem(nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)),
        r"Sequential\.1\.return_indices must be False, got True",
    ),
    "is done by pre-hooks alone": (
        anti_alias(after_stem(nn.Conv2d(4, 4, 3, 2))),
        "Sequential is anti-aliased already",
    ),
    "is compiled": (
        torch.compile(after_stem(nn.MaxPool2d(2)), backend="eager"),
        r"A compiled model cannot be changed.*Write torch.compile\(anti_alias",
    ),
    "branches within": (
        after_stem(nn.Sequential(Functional(lambda x: x if x.sum() > 0 else -x))),
        r"Sequential\.1\.0 cannot be traced by torch.fx: TraceError",
    ),
    "cannot be copied": (
        after_stem(nn.MaxPool2d(2), Uncopyable()),
        "Sequential cannot be copied by copy.deepcopy, .*: RuntimeError: no copies",
    ),
    "pools by a function within": (
        after_stem(Functional(lambda x: F.max_pool2d(x, 2))),
        r"Sequential\.1 must downsample by modules, got the function maxpool2d",
    ),
    "has another layer": (
        after_stem(nn.LPPool2d(2, 2)),
        r"Sequential\.1 must be a Conv2d, MaxPool2d or AvgPool2d, got a LPPool2d with a stride",
    ),
    "pools by a function": (
        Functional(lambda x: F.max_pool2d(x, 2)),
        r"Functional must downsample by modules, got the function maxpool2d \(node max_pool2d\)",
    ),
    "averages by a function": (
        Functional(lambda x: F.avg_pool2d(x, 3, stride=2).relu()),
        "got the function avgpool2d",
    ),
    "convolves by a function": (
        Functional(lambda x: F.conv2d(x, torch.ones(4, 4, 1, 1), None, 2)),
        "got the function conv2d",
    ),
    "slices": (Functional(lambda x: x[:, :, ::2, ::2]), r"got a slice with a step \(node getitem"),
    "slices from behind": (Functional(lambda x: x[..., ::2]), "got a slice with a step"),
    "is out of reach": (
        Functional(lambda x: F.relu(x).flatten(1), stride=2),
        r"activation after Functional\.conv, which feeds flatten\. It must be a module",
    ),
    "is returned": (Functional(F.relu, stride=2), "which feeds output"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_model_is_refused_that(reason):
    model, message = REFUSED[reason]
    before = repr(model)
    with pytest.raises(ValueError, match=message):
        anti_alias(model)
    assert repr(model) == before
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert hooks == reason.startswith("is done")


@pytest.mark.parametrize(
    "use",
    [
        lambda net, y: net.conv2(net.conv2(y)),  # the second call wants no blur
        lambda net, y: net.conv2(input=y),  # a hook sees positional arguments only
        lambda net, y: net.both(y, y),
    ],
)
def test_a_consumer_that_no_hook_fits_is_refused(use):
    class Net(Shared):
        def __init__(self):
            super().__init__(nn.ReLU())
            self.both = nn.Bilinear(1, 1, 1)

        def forward(self, x):
            return self.relu(use(self, self.relu(self.conv1(self.stem(x)))))

    with pytest.raises(ValueError, match=r"activation after Net\.conv1, which feeds (conv|bo)"):
        anti_alias(Net())


def test_what_does_not_downsample_is_left_alone():
    weight, bias = torch.ones(2, 2, 1, 1), torch.ones(2)
    model = Functional(
        lambda x: F.conv2d(F.max_pool2d(x[:, ::2], 3, stride=1)[::2], weight, bias)[()]
    )
    model = nn.Sequential(model, nn.ConvTranspose2d(2, 2, 3, 2), nn.MaxPool2d(2))
    assert [place.layer for place in find_places(model)] == ["2"]


def test_the_trick_calls_the_function_with_its_fields():
    model, x = small_resnet(), noise(2, 3, 16, 16)
    expected = anti_alias(copy.deepcopy(model), 3, "circular", first=True)(x)
    trick = AntiAliasing(filter_size=3, padding_mode="circular", first=True)
    assert trick.model(model) is model
    same(model(x), expected)
    assert repr(AntiAliasing()) == (
        "AntiAliasing(filter_size=4, padding_mode='reflect', first=False)"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"filter_size": 8}, r"AntiAliasing\.filter_size must be 1 to 7 .*got 8"),
        (
            {"padding_mode": "zero"},
            r"AntiAliasing\.padding_mode must be one of .*got 'zero'",
        ),
    ],
)
def test_a_parameter_out_of_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AntiAliasing(**fields)
    with pytest.raises(ValueError, match=message):
        anti_alias(small_resnet(), **fields)
