"""Whitening: white outputs, airbench's filters, the frozen bias, and images that are refused."""

import copy
import math
import pickle
from itertools import pairwise

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from runner.models import cifar_resnet
from tricks import Chain, Time, Whitening, standardize_weights, whiten_


def images(count=60, channels=3, side=9, seed=0):
    """Smooth images with channels that depend on each other, in float32."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, channels, side + 2, side + 2, generator=generator)
    x = F.avg_pool2d(x, 3, 1) + 0.3 * x[..., 1:-1, 1:-1]
    mixed = x + 0.6 * x.roll(1, 1)
    return mixed + 0.5


def patches_of(convolution, x):
    """The patches that a convolution sees within an image, [patches, numbers], in float64."""
    (h, w), (a, b) = convolution.kernel_size, convolution.dilation
    rows = x.double().unfold(2, a * (h - 1) + 1, convolution.stride[0])
    both = rows.unfold(3, b * (w - 1) + 1, convolution.stride[1])[..., ::a, ::b]
    return both.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)


LAYERS = [
    nn.Conv2d(3, 24, 2),
    nn.Conv2d(3, 54, 3, padding=1),
    nn.Conv2d(1, 6, (1, 3), 2, padding=4, bias=False),
    nn.Conv2d(2, 24, (3, 2), (2, 1), dilation=(1, 2), padding_mode="circular"),
    nn.Conv2d(4, 8, 1),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_over_the_patches_the_outputs_have_the_identity_as_their_covariance(layer):
    layer = copy.deepcopy(layer).double()
    x = images(channels=layer.in_channels).double()
    bias = None if layer.bias is None else layer.bias.clone()
    whiten_(layer, x, eps=0)
    layer.padding = (0, 0)
    outputs = layer(x).transpose(0, 1).flatten(1)
    numbers = layer.weight[0].numel()
    covariance = torch.cov(outputs[: 2 * numbers : 2], correction=0)
    torch.testing.assert_close(covariance, torch.eye(numbers).double(), rtol=1e-6, atol=1e-6)
    assert torch.equal(layer.weight[::2], -layer.weight[1::2])
    assert bias is None or torch.equal(layer.bias, bias)


def by_hand(layer, x, eps):
    """w_i = e_i / sqrt(l_i + eps), the largest first, from the covariance of the patches."""
    values, vectors = torch.linalg.eigh(torch.cov(patches_of(layer, x).T, correction=0))
    return (vectors / (values + eps).sqrt()).T.flip(0)


@pytest.mark.parametrize("outputs", [24, 30, 23, 6, 1])
def test_the_filters_are_pairs_in_the_order_of_their_eigenvalues(outputs):
    layer, x = nn.Conv2d(3, outputs, 2), images()
    before = layer.weight.detach().clone()
    whiten_(layer, x, eps=0.01)
    expected = by_hand(layer, x, 0.01)
    for place, weight in enumerate(layer.weight.flatten(1).double()):
        number, negative = divmod(place, 2)
        if number >= 12:
            assert torch.equal(layer.weight[place], before[place])
            continue
        sign = -1 if negative else 1
        largest = weight[weight.abs().argmax()]
        assert largest.sign() == sign
        same = expected[number] * (expected[number] @ weight).sign()
        torch.testing.assert_close(weight, same, rtol=1e-4, atol=1e-5)


def test_airbenchs_covariance_is_about_zero_and_so_whitens_only_centred_images():
    x = images(side=12)
    layer = nn.Conv2d(3, 24, 2)

    def covariance(filters):
        return torch.cov(filters @ patches_of(layer, x).T, correction=0)

    patches = patches_of(layer, x)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    theirs = (vectors / values.sqrt()).T
    whiten_(layer, x, eps=0)
    ours = layer.weight[::2].flatten(1).double()
    one = torch.eye(12).double()
    torch.testing.assert_close(covariance(ours), one, rtol=1e-4, atol=1e-4)
    assert (covariance(theirs) - one).abs().max() > 0.1


def test_batches_are_read_as_far_as_the_first_samples():
    x = images()
    layers = [nn.Conv2d(3, 24, 2) for _ in range(3)]
    whiten_(layers[0], x[:40])
    whiten_(layers[1], x, samples=40)

    def batches():
        yield from (x[:25], x[25:50])
        raise AssertionError("one batch too many was read")

    whiten_(layers[2], batches(), samples=40)
    for layer in layers[1:]:
        torch.testing.assert_close(layer.weight, layers[0].weight)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_weight_is_frozen_if_asked_for(frozen):
    layer = nn.Conv2d(3, 24, 2)
    weight = layer.weight
    whiten_(layer, images(), frozen=frozen)
    assert layer.weight is weight
    assert weight.requires_grad != frozen
    assert layer.bias.requires_grad


def small(**options):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 2, **options),
        nn.GELU(),
        nn.Conv2d(24, 4, 2),
        nn.Flatten(),
        nn.Linear(196, 5),
    )


def begin(trick, kind=torch.optim.SGD, **options):
    model = trick.model(small())
    trick.initialize(model, [images()])
    known = {"lr": 0.1, "weight_decay": 0.1, **options}
    return model, kind(model.parameters(), **known)


def update(trick, model, optimizer, number):
    def compute():
        optimizer.zero_grad()
        loss = model(images(8, seed=number)).logsumexp(1).mean()
        loss.backward()
        return loss.detach()

    loss = trick.backward(compute, model)
    trick.gradients(model, optimizer, loss)
    optimizer.step()
    trick.weights(model, Time(number + 1, 2, 8))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}), (torch.optim.AdamW, {})],
)
def test_the_bias_is_trained_for_its_epochs_and_then_stands_still_to_the_bit(kind, options):
    trick = Whitening(bias_epochs=1.5)
    model, optimizer = begin(trick, kind, **options)
    biases, weights, others = [], [], []
    for number in range(6):
        biases.append(model[0].bias.detach().clone())
        weights.append(model[0].weight.detach().clone())
        others.append(model[2].bias.detach().clone())
        update(trick, model, optimizer, number)
    moved = [not torch.equal(one, two) for one, two in pairwise(biases)]
    assert moved == [True, True, True, False, False]
    assert torch.equal(biases[-1], model[0].bias)
    assert all(torch.equal(one, weights[0]) for one in weights)
    assert all(not torch.equal(one, two) for one, two in pairwise(others))
    assert model[0].bias.grad is None


@pytest.mark.parametrize(
    ("epochs", "moves"), [(0.0, [False, False]), (math.inf, [True, True]), (0.5, [True, False])]
)
def test_the_bias_is_trained_never_always_or_for_one_update(epochs, moves):
    trick = Whitening(bias_epochs=epochs)
    model, optimizer = begin(trick)
    for number, moved in enumerate(moves):
        before = model[0].bias.detach().clone()
        update(trick, model, optimizer, number)
        assert torch.equal(model[0].bias, before) != moved


def test_a_resume_knows_that_the_bias_is_frozen_and_computes_no_gradient_for_it():
    straight = Whitening(bias_epochs=1.0)
    model, optimizer = begin(straight, momentum=0.9)
    for number in range(4):
        if number == 3:
            states = [copy.deepcopy(each.state_dict()) for each in (straight, model, optimizer)]
        update(straight, model, optimizer, number)
    resumed = Whitening(bias_epochs=1.0)
    again = resumed.model(small())
    optimizer = torch.optim.SGD(again.parameters(), lr=1.0, momentum=0.9)
    for each, state in zip((resumed, again, optimizer), states, strict=True):
        each.load_state_dict(state)
    seen = []
    resumed.backward(lambda: seen.append(again[0].bias.requires_grad), again)
    assert seen == [False]
    update(resumed, again, optimizer, 3)
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    resumed.model(small())
    assert resumed.state_dict() == {"bias_is_frozen": False}


def test_the_gradient_of_a_frozen_bias_is_dropped_where_it_was_computed():
    trick = Whitening(bias_epochs=0)
    model, optimizer = begin(trick)
    model[0].bias.requires_grad_(True)  # as where ranks wait for every gradient
    model(images(8)).sum().backward()
    trick.gradients(model, optimizer, torch.tensor(1.0))
    assert model[0].bias.grad is None


@pytest.mark.parametrize("again", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_in_mid_training_goes_on_the_same(again):
    trick = Whitening(bias_epochs=1.0)
    run = (trick, *begin(trick))
    for number in range(2):
        update(*run, number)
    copied = again(run)
    for each in (run, copied):
        update(*each, 2)
    for one, two in zip(run[1].parameters(), copied[1].parameters(), strict=True):
        assert torch.equal(one, two)


class Prepared(nn.Module):
    """Normalises by itself, and draws random numbers, before its convolution."""

    def __init__(self):
        super().__init__()
        self.noise, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(3, affine=False)
        self.late, self.early = nn.Conv2d(24, 4, 2), nn.Conv2d(3, 24, 2)

    def forward(self, x):
        return self.late(self.early(self.noise(self.norm(3 * x - 1)))).mean((2, 3))


def test_the_patches_are_those_that_the_convolution_sees():
    model, expected, trick = Prepared(), nn.Conv2d(3, 24, 2), Whitening()
    before = copy.deepcopy(dict(model.norm.named_buffers()))
    state = torch.get_rng_state()
    trick.initialize(trick.model(model), [images(), images(seed=1)])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], b) for name, b in model.norm.named_buffers())
    assert all(module.training for module in model.modules())
    assert not model.early._forward_pre_hooks
    seen = [(3 * x - 1) / (1 + 1e-5) ** 0.5 for x in (images(), images(seed=1))]
    whiten_(expected, torch.cat(seen))
    torch.testing.assert_close(model.early.weight, expected.weight, rtol=1e-4, atol=1e-5)


def test_a_trained_model_is_loaded_without_images():
    trained = Whitening()
    model, _ = begin(trained)
    again = Chain(Whitening()).model(small())
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images(4)), model(images(4)))
    assert again.state_dict().keys() == small().state_dict().keys()


def test_the_log_tells_what_the_filters_leave_out():
    trick = Whitening()
    trick.model(small())
    assert trick.caveats(8, 2) == []
    trick.model(cifar_resnet(depth=8, width=15, channels=3, classes=5))
    (caveat,) = trick.caveats(8, 2)
    assert "keep 8 of 27 directions" in caveat
    assert "54 outputs would keep all" in caveat


def test_images_in_half_precision_and_channels_last_give_the_same_filters():
    x = images().bfloat16()
    layers = [nn.Conv2d(3, 24, 2) for _ in range(2)]
    whiten_(layers[0], x.float())
    whiten_(layers[1], x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(layers[0].weight, layers[1].weight)
    half = nn.Conv2d(3, 24, 2).bfloat16()
    whiten_(half, x)
    assert torch.equal(half.weight, layers[0].weight.bfloat16())


GREY = images(channels=1).expand(-1, 3, -1, -1)
REFUSED = {
    "constant": (
        torch.ones(60, 3, 9, 9),
        r"vary in all of their 12 directions, got 0: .* constant",
    ),
    "one colour each": (torch.randn(60, 3, 1, 1).expand(-1, -1, 9, 9), "12 directions, got 3"),
    "grey in three channels": (GREY, "12 directions, got 4: .*grey ones in one channel"),
    "too few": (images(3, side=3), "got 12 patches of 12 numbers. Take more samples"),
    "none": ([], "got 0 patches"),
    "too small": (
        images(60, side=1),
        r"images \[N, 3, H, W\] of at least 2x2, .* got \[60, 3, 1, 1\]",
    ),
    "of other channels": (images(channels=1), r"images \[N, 3, H, W\]"),
    "no maps": (torch.randn(9, 3), r"images \[N, 3, H, W\]"),
    "not finite": (images().log(), "needs finite images"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_images_are_refused_that_are(what):
    inputs, message = REFUSED[what]
    layer = nn.Conv2d(3, 24, 2)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match=message):
        whiten_(layer, inputs)
    assert torch.equal(layer.weight, before)
    assert layer.weight.requires_grad


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.one(x) + self.two(x)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


PLAIN = r"must be a plain nn\.Conv2d of one group"
MODELS = {
    "without a convolution": (nn.Sequential(nn.Flatten(), nn.Linear(3, 4)), "begins with 1"),
    "with two on the image": (Two(), "Two begins with one and two"),
    "without weights": (nn.Sequential(nn.ReLU()), "Sequential begins with none"),
    "of lines": (nn.Sequential(nn.Conv1d(3, 4, 3)), "one convolution that gets the image"),
    "in groups": (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)), rf"Sequential\.0 {PLAIN}"),
    "parametrized": (
        nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
        rf"Sequential\.0 {PLAIN}",
    ),
    "standardized": (
        standardize_weights(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))),
        rf"{PLAIN}, .* standardized",
    ),
    "out of reach": (nn.Sequential(Branching(), nn.Conv2d(3, 4, 3)), "Call whiten_ on it"),
}


@pytest.mark.parametrize("what", MODELS)
def test_a_model_is_refused_that_is(what):
    model, message = MODELS[what]
    with pytest.raises(ValueError, match=message):
        Whitening().model(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_layer_that_is_no_plain_convolution_is_refused():
    for layer in (nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(3, 24, 2), nn.Linear(3, 3)):
        with pytest.raises(ValueError, match=PLAIN):
            whiten_(layer, images())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eps": -1e-3}, r"Whitening\.eps must be >= 0 and finite, got -0\.001"),
        ({"eps": math.inf}, r"Whitening\.eps must be >= 0"),
        ({"samples": 0}, r"Whitening\.samples must be >= 1 \(images\), got 0"),
        ({"bias_epochs": -1.0}, r"Whitening\.bias_epochs must be >= 0 \(epochs\), got -1\.0"),
        ({"bias_epochs": math.nan}, r"Whitening\.bias_epochs must be >= 0"),
    ],
)
def test_a_parameter_out_of_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Whitening(**fields)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11", "mobilenet_v2", "shufflenet_v2_x0_5", "vit_b_16"]
)
def test_torchvisions_models_begin_with_white_filters(name):
    model, trick = torchvision.models.get_model(name), Whitening(samples=16, eps=1e-3)
    x = torch.randn(16, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    trick.initialize(trick.model(model), [x])
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    count = min(len(first.weight) // 2, first.weight[0].numel())
    filters = first.weight[: 2 * count : 2].flatten(1).double()
    outputs = torch.cov(filters @ patches_of(first, x).T)
    torch.testing.assert_close(outputs, torch.eye(count).double(), rtol=0, atol=0.01)
