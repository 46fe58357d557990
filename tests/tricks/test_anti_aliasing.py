"""Anti-aliasing: the published networks, each kind of place, other people's models, refusals."""

import copy
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional as F

from runner.models import cifar_resnet
from tricks import AntiAliasing, BlurPool2d, Place, anti_alias, find_places

ORACLE = np.load(Path(__file__).parent.parent / "data" / "antialiased_networks.npz")


def seeded(build, **options):
    torch.manual_seed(0)
    return build(**options)


def small_resnet():
    """A network of our own with running statistics that are not those of its birth."""
    model = seeded(cifar_resnet, depth=8, width=4, channels=3, classes=5).double()
    model(noise(8, 3, 16, 16))
    return model.eval()


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(one, other, tolerance=1e-12):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# The paper's networks


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


# One place of each kind, by hand


def both(layers, x):
    """The output of a sequence, anti-aliased, and the layers it was made of, as they were."""
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers).double().eval()
    head, *rest = copy.deepcopy(plain)
    return anti_alias(plain)(x), head(x), rest


def test_a_convolution_is_blurred_after_the_norm_and_the_activation():
    layers = nn.Conv2d(8, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.SiLU(inplace=True)
    y, x, (conv, norm, act) = both(layers, noise(2, 3, 9, 12))
    dense = F.conv2d(x, conv.weight, conv.bias, padding=1)
    same(y, BlurPool2d(8)(act(norm(dense))))


def test_a_pointwise_convolution_without_activation_is_blurred_before():
    y, x, (conv,) = both([nn.Conv2d(8, 5, 1, 2)], noise(2, 3, 9, 12))
    same(y, F.conv2d(BlurPool2d(8)(x), conv.weight, conv.bias))


def test_a_larger_convolution_without_activation_keeps_its_stride_after_a_blur_without():
    for layer in (nn.Conv2d(8, 8, 2, 2, groups=8), nn.Conv2d(8, 5, 1, 2, padding=1)):
        y, x, (conv,) = both([layer], noise(2, 3, 9, 12))
        same(y, conv(BlurPool2d(8, stride=1)(x)))


def test_a_max_pool_keeps_its_kernel_and_padding():
    y, x, _ = both([nn.MaxPool2d(3, 2, padding=1)], noise(2, 3, 9, 12))
    same(y, BlurPool2d(8)(F.max_pool2d(x, 3, 1, padding=1)))


@pytest.mark.parametrize(
    ("pool", "rows"),
    [
        (nn.AvgPool2d(2), 4),
        (nn.AvgPool2d(2, ceil_mode=True), 5),
        (nn.AvgPool2d(3, 2, padding=1), 5),
    ],
)
def test_an_average_pool_becomes_the_blur_and_its_map_keeps_its_size(pool, rows):
    y, x, (_, conv) = both([pool, nn.Conv2d(8, 8, 1)], noise(2, 3, 9, 12))
    assert pool(x).shape[2] == rows
    same(y, conv(BlurPool2d(8)(x)[:, :, :rows]))


def test_the_blur_has_the_filter_and_the_border_that_were_asked_for():
    layers, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)).double(), noise(2, 3, 9, 12)
    expected = BlurPool2d(8, 5, 2, "zeros")(F.max_pool2d(layers[0](x), 2, 1))
    same(anti_alias(layers, 5, "zeros")(x), expected)


def test_the_mean_of_two_pixels_is_the_blur_of_two_taps():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(2)).double()
    x, y = noise(2, 3, 10, 13), layers(noise(2, 3, 10, 13))
    same(anti_alias(layers, filter_size=2)(x), y)


def test_the_first_convolution_is_changed_only_on_demand():
    model = seeded(torchvision.models.resnet18).eval()
    assert find_places(model)[0].layer == "maxpool"
    assert find_places(model, first=True)[0] == Place("conv1", "convolution", 2, "after", ("relu",))
    assert anti_alias(model).conv1.stride == (2, 2)


def test_an_average_pool_at_the_end_is_no_place():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)
            self.mean = nn.AvgPool2d(4)

        def forward(self, x):
            x = self.pool(self.conv(x))
            return self.mean(x).flatten(1) + F.avg_pool2d(x, 4).view(x.size(0), -1)

    assert [place.layer for place in find_places(Net())] == ["pool"]


# Where the hooks stand


class Shared(nn.Module):
    """A residual block that calls one ReLU at two places, or a function."""

    def __init__(self, activation):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 8, 3, 2, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 1)
        self.relu = activation

    def forward(self, x):
        y = self.relu(self.conv1(self.stem(x)))
        return self.relu(self.conv2(y) + self.conv3(y))


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), F.relu, torch.tanh])
def test_an_activation_that_is_shared_or_a_function_is_blurred_at_its_consumers(activation):
    model, x = seeded(Shared, activation=activation).double(), noise(2, 3, 12, 9)
    weight, bias = model.conv1.weight, model.conv1.bias
    y = BlurPool2d(8)(activation(F.conv2d(model.stem(x), weight, bias, padding=1)))
    expected = activation(model.conv2(y) + model.conv3(y))
    assert find_places(model) == [Place("conv1", "convolution", 2, "before", ("conv2", "conv3"))]
    same(anti_alias(model)(x), expected)


def test_an_activation_called_once_is_blurred_once_for_all_its_consumers():
    class Net(Shared):
        def forward(self, x):
            y = self.relu(self.conv1(self.stem(x)))
            return torch.cat([y, y * y.mean((2, 3), keepdim=True)], 1)

    assert find_places(Net(nn.ReLU())) == [Place("conv1", "convolution", 2, "after", ("relu",))]


def test_a_convolution_whose_result_goes_two_ways_is_blurred_before():
    class Net(Shared):
        def forward(self, x):
            y = self.conv1(self.stem(x))
            return self.conv2(self.relu(y)) + self.conv3(y)

    assert find_places(Net(nn.ReLU())) == [Place("conv1", "linear", 2, "before", ("conv1",))]


def test_a_pool_called_twice_is_blurred_twice():
    conv, pool = nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)
    x = noise(2, 3, 19, 19)
    y = anti_alias(nn.Sequential(conv, pool, nn.Conv2d(8, 4, 3), pool).double())
    half = BlurPool2d(8)(F.max_pool2d(conv(x), 2, 1))
    same(y(x), BlurPool2d(4)(F.max_pool2d(y[2](half), 2, 1)))


def test_a_subclass_that_computes_as_its_base_is_a_place_too():
    class Convolution(nn.Conv2d):
        pass

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Convolution(4, 4, 3, 2), nn.ReLU())
    assert find_places(model) == [Place("1", "convolution", 2, "after", ("2",))]


# Other people's models

MODELS = {
    "resnet50": {"max-pool": 1, "convolution": 3, "pointwise": 3},
    "vgg11_bn": {"max-pool": 5},
    "mobilenet_v2": {"convolution": 4},
    "densenet121": {"max-pool": 1, "average-pool": 3},
    "convnext_tiny": {"linear": 3},
    "efficientnet_b0": {"convolution": 4},
    "shufflenet_v2_x0_5": {"max-pool": 1, "linear": 6},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_torchvision_is_changed_in_every_place(name):
    with torch.device("meta"):
        places = find_places(torchvision.models.get_model(name))
    assert Counter(place.kind for place in places) == MODELS[name]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("regnetx_002", {"convolution": 4, "pointwise": 4}),
        ("resnet18d", {"max-pool": 1, "convolution": 3, "average-pool": 3}),
        ("efficientnet_b0", {"convolution": 4}),  # its norm calls the activation
        ("hrnet_w18_small", {"convolution": 12, "linear": 10}),
    ],
)
def test_a_model_of_timm_is_changed_in_every_place(name, kinds):
    timm = pytest.importorskip("timm", reason="timm is not installed: its models are skipped")
    assert Counter(place.kind for place in find_places(timm.create_model(name))) == kinds


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
    loss = model(noise(4, 3, 4, 4)).logsumexp(1).sum()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# An ordinary module


def test_parameters_and_keys_stay_and_checkpoints_fit_both_ways():
    plain, x = small_resnet(), noise(2, 3, 16, 16)
    parameters, keys = list(plain.parameters()), list(plain.state_dict())
    blurred = copy.deepcopy(plain)
    assert anti_alias(plain) is plain
    assert all(one is other for one, other in zip(plain.parameters(), parameters, strict=True))
    assert list(plain.state_dict()) == keys
    other = seeded(cifar_resnet, depth=8, width=4, channels=3, classes=5).double().eval()
    other.load_state_dict(plain.state_dict())
    same(other(x), blurred(x))
    anti_alias(blurred).load_state_dict(other.state_dict())
    same(blurred(x), plain(x))
    assert not torch.allclose(blurred(x), other(x))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_anti_aliased_too(again):
    model, x = anti_alias(small_resnet()), noise(2, 3, 16, 16)
    assert again(model)(x).equal(model(x))


def test_precision_and_memory_format_are_those_of_the_model():
    model, x = anti_alias(small_resnet()), noise(2, 3, 40, 40)
    y = model(x)
    model.to(memory_format=torch.channels_last)
    same(model(x.contiguous(memory_format=torch.channels_last)), y)
    assert model.float()(x.float()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(x.float()).double(), y, rtol=0.1, atol=0.1)


def test_to_read_the_graph_leaves_the_model_and_the_random_numbers_alone():
    class Drawing(nn.Module):
        def forward(self, x):
            self.seen = True
            return x * torch.rand(())

    model = nn.Sequential(Drawing(), *small_resnet().train().children())[:4]
    model.append(nn.MaxPool2d(2))
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    anti_alias(model)
    assert torch.get_rng_state().equal(state)
    assert all(module.training for module in model.modules())
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert not hasattr(model[0], "seen")


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_in_one_graph():
    model, x = anti_alias(small_resnet()), noise(2, 3, 16, 16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    same(compiled(x), model(x))


# Refusals


class Functional(nn.Module):
    """A convolution, then any function."""

    def __init__(self, function, *, stride=1):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, stride)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(self.stem(x)))


def after_stem(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers)


REFUSED = {
    "has nothing": (after_stem(nn.ReLU()), "found nothing to change in Sequential: it has no str"),
    "has only its first": (nn.Sequential(nn.Conv2d(3, 4, 3, 2)), "found nothing to change"),
    "is done": (anti_alias(after_stem(nn.MaxPool2d(2))), "Sequential must be anti-aliased once"),
    "branches": (
        Functional(lambda x: x if x.sum() > 0 else -x),
        "Functional must be traceable by torch.fx, got TraceError: symbolically traced",
    ),
    "is not square": (
        after_stem(nn.Conv2d(4, 4, 3, (1, 2))),
        r"Sequential\.1\.stride must be the same down and across, got \(1, 2\)",
    ),
    "rounds up": (after_stem(nn.MaxPool2d(2, ceil_mode=True)), r"Sequential\.1\.ceil_mode must be"),
    "gives indices": (
        after_stem(nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)),
        r"Sequential\.1\.return_indices must be False, got True",
    ),
    "has other windows": (
        after_stem(nn.AvgPool2d(3, 2), nn.ReLU()),
        r"Sequential\.1 must have kernel_size = stride .*got AvgPool2d\(kernel_size=3",
    ),
    "has another divisor": (
        after_stem(nn.AvgPool2d(2, divisor_override=1), nn.ReLU()),
        r"Sequential\.1 must have kernel_size = stride",
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
        r"activation after Functional\.conv must be .*got one that feeds flatten",
    ),
    "is returned": (Functional(F.relu, stride=2), "got one that feeds output"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_model_is_refused_that(reason):
    model, message = REFUSED[reason]
    before = repr(model)
    with pytest.raises(ValueError, match=message):
        anti_alias(model)
    assert repr(model) == before
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert hooks == (reason == "is done")


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

    with pytest.raises(
        ValueError, match=r"after Net\.conv1 must be .*got one that feeds (conv|bo)"
    ):
        anti_alias(Net())


def test_what_does_not_downsample_is_let_be():
    model = Functional(lambda x: F.max_pool2d(x[:, ::2], 3, stride=1)[::2])
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
        ({"padding_mode": "zero"}, r"AntiAliasing\.padding_mode must be zeros, .*got 'zero'"),
    ],
)
def test_a_parameter_out_of_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AntiAliasing(**fields)
    with pytest.raises(ValueError, match=message):
        anti_alias(small_resnet(), **fields)
