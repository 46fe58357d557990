"""Anti-aliasing of each kind of layer, by hand; every map keeps its size."""

import copy
import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.tricks.anti_aliasing import noise, same
from tricks import BlurPool2d, anti_alias, find_places


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


@pytest.mark.parametrize("pool", [nn.AvgPool2d(3, 2), nn.AvgPool2d(2, divisor_override=3)])
def test_an_average_pool_that_no_blur_stands_for_is_treated_as_a_max_pool(pool):
    y, x, (plain, conv) = both([pool, nn.Conv2d(8, 8, 1)], noise(2, 3, 9, 12))
    dense = copy.deepcopy(plain)
    dense.stride = 1
    same(y, conv(BlurPool2d(8)(dense(x))))


def test_where_a_layer_strides_across_only_the_blur_does_too():
    for layers in (
        [nn.Conv2d(8, 8, 3, (1, 2), padding=1), nn.ReLU()],
        [nn.Conv2d(8, 5, 1, (1, 2))],
        [nn.Conv2d(8, 8, 3, (1, 2), padding=1)],
        [nn.MaxPool2d(3, (1, 2), padding=1)],
    ):
        y, x, (layer, *rest) = both(layers, noise(2, 3, 9, 12))
        stride, layer.stride = layer.stride, 1

        def blur(z, s=2):  # by hand, each row for itself
            taps = torch.tensor([1, 3, 3, 1], dtype=z.dtype) / 8
            padded = F.pad(z, (1, 2, 0, 0), "reflect")
            return F.conv2d(padded, taps.expand(z.shape[1], 1, 1, 4), None, (1, s), 0, 1, len(z[0]))

        if rest or isinstance(layer, nn.MaxPool2d):
            expected = blur(nn.Sequential(layer, *rest)(x))
        elif layer.kernel_size == (1, 1):
            expected = layer(blur(x))
        else:
            layer.stride = stride
            expected = layer(blur(x, 1))
        same(y, expected)


def test_a_ceil_mode_window_that_hangs_over_the_border_sees_the_pixels_that_are_there():
    y, x, _ = both([nn.MaxPool2d(2, 2, ceil_mode=True)], noise(2, 3, 9, 12))
    dense = F.max_pool2d(F.pad(x, (0, 0, 0, 1), value=-torch.inf), 2, 1)  # windows at 0 to 8
    assert y.shape[2:] == (5, 6)
    same(y, BlurPool2d(8)(dense))


@pytest.mark.parametrize("kind", ["max-pool", "average-pool", "average-pool without border"])
def test_a_pool_under_filter_size_one_is_the_plain_pool(kind):
    """In full, since few sizes tell the terms of the formula apart."""
    sizes = [noise(1, 2, size, size + 2) for size in (7, 8, 9)]
    for kernel, stride, padding, dilation, ceil in itertools.product(
        (1, 2, 3, 4), ((2, 2), (3, 3), (1, 2), (3, 2)), (0, 1), (1, 2), (False, True)
    ):
        if padding > kernel // 2 or (dilation > 1 and kind != "max-pool"):
            continue
        if kind == "max-pool":
            pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
        else:
            pool = nn.AvgPool2d(kernel, stride, padding, ceil, kind == "average-pool")
        model = nn.Sequential(nn.Conv2d(2, 2, 1).double(), pool, nn.ReLU())
        plain = [model(x) for x in sizes]
        (place,) = find_places(model)
        if place.kind != "average-pool":  # which the blur stands for
            anti_alias(model, 1)
            for x, expected in zip(sizes, plain, strict=True):
                same(model(x), expected)


sides = st.integers(1, 3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from([nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d]),
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
    st.integers(1, 2),
    st.booleans(),
    st.tuples(st.integers(5, 12), st.integers(5, 12)),
    st.integers(1, 7),
)
def test_every_map_keeps_its_size(kind, kernel, stride, padding, dilation, ceil, size, taps):
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    if stride == (1, 1):
        return
    if kind is nn.Conv2d:
        layer = nn.Conv2d(8, 8, kernel, stride, padding, dilation)
    elif kind is nn.MaxPool2d:
        layer = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    else:
        layer = nn.AvgPool2d(kernel, stride, padding, ceil)
    model = nn.Sequential(nn.Conv2d(1, 8, 1), layer, nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    x = torch.ones(1, 1, *size)
    rows = model(x).shape
    with warnings.catch_warnings(action="ignore"):  # small maps are not the matter here
        assert anti_alias(model, taps)(x).shape == rows


@pytest.mark.parametrize(
    ("pool", "kind", "rounding"),
    [
        (nn.AvgPool2d(2), "average-pool", "down"),
        (nn.AvgPool2d(2, ceil_mode=True), "average-pool", "up"),
        (nn.AvgPool2d((3, 1), 2, (1, 0)), "average-pool", "up"),
        (nn.AvgPool2d((3, 1), 2, (1, 0), ceil_mode=True), "other average-pool", "ceil_mode"),
        (nn.AvgPool2d((3, 2), 2, (1, 0)), "other average-pool", "up"),
        (nn.AvgPool2d((1, 3), 2, (0, 0)), "other average-pool", "up"),
    ],
)
def test_which_average_pools_a_blur_stands_for(pool, kind, rounding):
    (place,) = find_places(nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.ReLU()))
    assert (place.kind, place.rounding) == (kind, rounding)
