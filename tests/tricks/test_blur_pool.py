"""The blur layer: the published numbers, the formula by hand, gradients, small maps, refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tricks import BlurPool2d
from tricks.blur_pool import SMALL_MAP, blur_pool

ORACLE = np.load(Path(__file__).parent.parent / "data" / "blur_pool.npz")
CASES = [key for key in ORACLE if key.startswith("output/")]
LARGE = (2, 3, 21, 18)  # more pixels than a small map: another order of the products


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_hand(x, size, stride, padding_mode):
    """Pad, then convolve each channel with the outer product of binomial coefficients."""
    taps = torch.tensor([math.comb(size - 1, k) for k in range(size)], dtype=x.dtype)
    weight = (torch.outer(taps, taps) / 4 ** (size - 1)).expand(x.shape[1], 1, size, size)
    before, after = (size - 1) // 2, math.ceil((size - 1) / 2)
    mode = "constant" if padding_mode == "zeros" else padding_mode
    padded = F.pad(x, (before, after, before, after), mode=mode)
    return F.conv2d(padded, weight, stride=stride, groups=x.shape[1])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_filter_stride_and_border_gives_the_published_numbers(memory_format):
    assert len(CASES) == 3 * 7 * 3 * 3
    for case in CASES:
        _, shape, size, stride, pad = case.split("/")
        x = torch.tensor(ORACLE[f"input/{shape}"]).contiguous(memory_format=memory_format)
        mode = "zeros" if pad == "zero" else pad
        layer = BlurPool2d(3, int(size[4:]), int(stride[6:]), mode)
        torch.testing.assert_close(layer(x), torch.tensor(ORACLE[case]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_a_large_map_is_padded_and_convolved(padding_mode, memory_format):
    x = double(*LARGE).contiguous(memory_format=memory_format)
    assert x.shape[2] * x.shape[3] > SMALL_MAP
    for size in range(1, 8):
        for stride in (1, 2, 3):
            y = blur_pool(x, size, stride, padding_mode)
            hand = by_hand(x, size, stride, padding_mode)
            torch.testing.assert_close(y, hand, rtol=0, atol=1e-12)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(7, 20), st.integers(7, 20)),
    st.integers(1, 7),
    st.integers(1, 4),
    st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_any_map_is_padded_and_convolved(shape, size, stride, padding_mode, dtype, memory_format):
    x = double(*shape).to(dtype).contiguous(memory_format=memory_format)
    y = blur_pool(x, size, stride, padding_mode)
    assert y.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps * x.abs().max().item()
    expected = by_hand(x.double(), size, stride, padding_mode)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)


def test_down_and_across_may_differ_and_a_size_may_be_asked_for():
    x = double(*LARGE)
    by_rows = blur_pool(x, (3, 1), (2, 1))
    torch.testing.assert_close(by_rows[..., ::3], blur_pool(x, (3, 1), (2, 3)))
    columns = blur_pool(x.transpose(2, 3), (1, 3), (1, 2)).transpose(2, 3)
    torch.testing.assert_close(by_rows, columns)
    square = x[..., :6, :6].contiguous(memory_format=torch.channels_last)
    by_three = blur_pool(square, 2, 3, "zeros", (3, 3))  # half the map, and yet no average-pool
    torch.testing.assert_close(by_three[..., :2, :2], blur_pool(square, 2, 3, "zeros"))
    unequal = blur_pool(square, 3, 2, "zeros", (3, 2))
    torch.testing.assert_close(unequal, blur_pool(square, 3, 2, "zeros")[..., :2])
    larger = blur_pool(x, 3, 2, "zeros", (12, 8))  # one row beyond the map, one column left out
    padded = F.pad(x, (1, 1, 1, 3))
    expected = blur_pool(padded, 3, 1, "zeros")[:, :, 1::2, 1::2][:, :, :12, :8]
    torch.testing.assert_close(larger, expected)


def test_a_blur_keeps_the_memory_format():
    assert BlurPool2d(3)(double(*LARGE)).is_contiguous()
    channels_last = double(*LARGE).contiguous(memory_format=torch.channels_last)
    assert BlurPool2d(3)(channels_last).is_contiguous(memory_format=torch.channels_last)


def test_filter_size_one_only_subsamples():
    x = double(*LARGE)
    for stride in (1, 2, 3):
        assert BlurPool2d(3, 1, stride)(x).equal(x[:, :, ::stride, ::stride])


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_a_constant_map_stays_constant_up_to_its_border(padding_mode):
    for side in (1, 2, 3, 40):
        y = BlurPool2d(1, 7, 2, padding_mode)(torch.full((1, 1, side, side), 3.0))
        assert y.eq(3.0).all()
        assert y.shape == (1, 1, (side + 1) // 2, (side + 1) // 2)


def test_a_map_smaller_than_its_padding_reflects_and_wraps_as_numpy_does():
    for mode, numpy_mode in (("reflect", "reflect"), ("circular", "wrap"), ("replicate", "edge")):
        for side in (1, 2, 3):
            x = double(1, 1, side, side)
            padded = torch.tensor(np.pad(x[0, 0].numpy(), ((3, 3), (3, 3)), mode=numpy_mode))
            hand = by_hand(padded[None, None], 7, 1, "zeros")[..., 3:-3, 3:-3]
            y = BlurPool2d(1, 7, 1, mode)(x)
            torch.testing.assert_close(y, hand, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 2, 5, 4), (1, 2, 17, 16)])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_the_gradient_is_the_numerical_one(shape, padding_mode):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = double(*shape).contiguous(memory_format=memory_format).requires_grad_()
        assert torch.autograd.gradcheck(BlurPool2d(2, 4, 2, padding_mode), x, fast_mode=True)


def test_half_precision_loses_no_more_than_its_rounding():
    x = double(*LARGE).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = blur_pool(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), blur_pool(x), rtol=0, atol=0.02)


def test_a_blur_in_inference_mode_leaves_nothing_that_training_could_trip_over():
    layer, x = BlurPool2d(3), double(*LARGE).requires_grad_()
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert x.grad.isfinite().all()


def test_the_layer_has_no_state():
    assert not BlurPool2d(3).state_dict()
    assert not list(BlurPool2d(3).buffers())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, r"BlurPool2d\.channels must be an integer >= 1, got 0"),
        ({"channels": 3, "stride": 0}, r"BlurPool2d\.stride must be an integer >= 1, got 0"),
        ({"channels": 3, "filter_size": 8}, r"BlurPool2d\.filter_size must be 1 to 7 .*got 8"),
        ({"channels": 3, "filter_size": 0}, r"BlurPool2d\.filter_size must be 1 to 7 .*got 0"),
        ({"channels": 3, "padding_mode": "zero"}, r"padding_mode must be one of zeros, .* got"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlurPool2d(**arguments)


@pytest.mark.filterwarnings("ignore:.*quantize:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
def test_a_quantized_map_is_refused():
    x = torch.quantize_per_tensor(double(*LARGE).float(), 0.1, 0, torch.qint8)
    with pytest.raises(ValueError, match="takes no quantized map, and convert_fx loses"):
        blur_pool(x)


def test_a_map_with_other_channels_is_refused():
    with pytest.raises(ValueError, match="must have 4 channels, got 3"):
        BlurPool2d(4)(double(*LARGE))
