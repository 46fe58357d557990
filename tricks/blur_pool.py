"""Blur and subsample a map: the layer of which anti-aliased networks are made.

Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019,
https://arxiv.org/abs/1904.11486
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tricks.trick import require_one_of

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]

LARGEST_FILTER = 7

SMALL_MAP = 256
"""Pixels of a map up to which one product with both matrices' product takes less time than two."""


def blur_pool(
    x: Tensor,
    filter_size: int | tuple[int, int] = 4,
    stride: int | tuple[int, int] = 2,
    padding_mode: PaddingMode = "reflect",
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Blur a map with a binomial filter of m taps a side and keep every stride-th pixel.

    `y[i, j] = sum_kl f[k] f[l] x[s i + k - p, s j + l - p]`, with `f[k] = C(m - 1, k) / 2^(m - 1)`
    and `p = floor((m - 1) / 2)`; beyond the far border lie `ceil((m - 1) / 2)` pixels.

    The filter is separable, so each side's blur, its padding and its stride are one matrix, and
    the map is multiplied by both. On a CPU this takes less time than to pad and to convolve, and
    on CUDA it is deterministic, which the backward pass of torch's own padding is not.

    Differs from the paper's code: a map smaller than its padding is reflected (or wrapped) as often
    as it takes, as `numpy.pad` does; a single pixel repeats. torch's padding refuses such maps.

    Args:
        x: [..., H, W], floating point; a map in channels_last gives one in channels_last.
        filter_size: m, the taps a side, 1 to 7, or (down, across); 1 only subsamples.
        stride: s, in pixels, or (down, across).
        padding_mode: What lies beyond the border, by torch's names.
        size: (H', W') of the result; pixels further out see more of what lies beyond the border.

    Returns:
        [..., H', W'], by default [..., ceil(H / s), ceil(W / s)].

    Raises:
        ValueError: If the map is quantized.

    >>> blur_pool(torch.tensor([[0.0, 4.0, 0.0, 4.0]]), filter_size=3)
    tensor([[2., 2.]])
    """
    if x.is_quantized:
        raise ValueError(
            "A blur takes no quantized map, and convert_fx loses the blurs of layers that it "
            "fuses. Quantize the program that torch.export.export gives instead."
        )
    height, width = x.shape[-2:]
    filters, strides = pair(filter_size), pair(stride)
    sizes = size or ((height - 1) // strides[0] + 1, (width - 1) // strides[1] + 1)
    down, across = zip((height, width), sizes, filters, strides, strict=True)
    if not is_known(x.shape):
        return _blur_matrix(*down, padding_mode, x) @ x @ _blur_matrix(*across, padding_mode, x).T
    innermost = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    channels_last = innermost and not x.is_contiguous()  # else either may be meant
    halves = filters == strides == (2, 2) and (height, width) == (2 * sizes[0], 2 * sizes[1])
    if halves and channels_last:
        return F.avg_pool2d(x, 2)  # the same by the fastest way; in other memory formats it is not
    rows = _blur_matrix(*down, padding_mode, x)
    columns = rows if across == down else _blur_matrix(*across, padding_mode, x)
    if channels_last:
        y = (rows @ x.permute(0, 2, 3, 1).flatten(2)).reshape(len(x), len(rows), width, x.shape[1])
        return (columns @ y).permute(0, 3, 1, 2)
    if height * width <= SMALL_MAP:
        y = x.flatten(-2) @ torch.kron(rows, columns).T
        return y.reshape(*x.shape[:-2], len(rows), len(columns))
    return rows @ x @ columns.T


class BlurPool2d(nn.Module):
    """`blur_pool` as a layer: [N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)].

    It has no parameter and no buffer: its `state_dict` is empty.

    Args:
        channels: C, the channels of the maps.
        filter_size: Taps of the binomial filter a side, 1 to 7.
        stride: Pixels from one kept pixel to the next, >= 1.
        padding_mode: What lies beyond the border: zeros, reflect, replicate or circular.

    Raises:
        ValueError: If an argument is out of its range, or a map has other channels.

    >>> BlurPool2d(16)(torch.ones(1, 16, 8, 8)).shape
    torch.Size([1, 16, 4, 4])
    """

    def __init__(
        self,
        channels: int,
        filter_size: int = 4,
        stride: int = 2,
        padding_mode: PaddingMode = "reflect",
    ) -> None:
        super().__init__()
        check_filter("BlurPool2d", filter_size, padding_mode)
        for name, value in (("channels", channels), ("stride", stride)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"BlurPool2d.{name} must be an integer >= 1, got {value}.")
        self.channels = channels
        self.filter_size = filter_size
        self.stride = stride
        self.padding_mode = padding_mode

    def forward(self, x: Tensor) -> Tensor:
        """Blur and subsample the maps."""
        if x.shape[-3] != self.channels:
            raise ValueError(
                f"The input of BlurPool2d must have {self.channels} channels, got {x.shape[-3]}. "
                "Give BlurPool2d the channels of the layer before it."
            )
        return blur_pool(x, self.filter_size, self.stride, self.padding_mode)

    def extra_repr(self) -> str:
        """Name the arguments, in the layer's line of a printed model."""
        return (
            f"{self.channels}, filter_size={self.filter_size}, stride={self.stride}, "
            f"padding_mode={self.padding_mode!r}"
        )


def check_filter(owner: str, filter_size: float, padding_mode: str) -> None:
    """Refuse a filter that does not exist, in the name of the owner of the two parameters."""
    if not isinstance(filter_size, int) or not 1 <= filter_size <= LARGEST_FILTER:
        raise ValueError(
            f"{owner}.filter_size must be 1 to {LARGEST_FILTER} (taps a side), got {filter_size}. "
            "The paper uses 2, 3 and 5."
        )
    remedy = " The paper uses reflect."
    require_one_of(f"{owner}.padding_mode", padding_mode, PaddingMode, remedy)


def is_too_small(pixels: int, filter_size: int, padding_mode: PaddingMode) -> bool:
    """Whether a line is reflected or wrapped more than once, where torch's padding refuses."""
    most = {"reflect": pixels - 1, "circular": pixels}.get(padding_mode, filter_size)
    return filter_size // 2 > most


def is_known(shape: torch.Size) -> bool:
    """Whether branches may depend on height and width: not in a graph recorded for any size."""
    return not torch.compiler.is_exporting() and type(shape[-2]) is type(shape[-1]) is int


def pair(value: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Give back a setting of a layer as (down, across): torch takes one number, or a pair."""
    return (value[0], value[-1]) if isinstance(value, tuple | list) else (value, value)


def _blur_matrix(
    pixels: int, size: int, filter_size: int, stride: int, padding_mode: PaddingMode, like: Tensor
) -> Tensor:
    """Give back the matrix [size, pixels] that blurs and subsamples a line of pixels.

    A binomial filter of m taps is the sum of two neighbours, taken m - 1 times, and scaled: so the
    matrix comes from the padded unit lines, without bringing taps to the device, which would wait.
    """
    before, last = (filter_size - 1) // 2, stride * (size - 1)
    padded = torch.arange(-before, last + filter_size - before, device=like.device)
    line = torch.arange(pixels, device=like.device)
    # ONNX takes no remainder by a size
    end: Any = pixels - 1 if is_known(like.shape) else line[-1:]
    lines = (_source(padded, end, padding_mode)[:, None] == line).to(like.dtype)
    for _ in range(filter_size - 1):
        lines = lines[:-1] + lines[1:]
    return lines[::stride] / 2.0 ** (filter_size - 1)


def _source(position: Tensor, end: Tensor, padding_mode: PaddingMode) -> Tensor:
    """Give back which pixel of a line from 0 to `end` a position within or beyond it shows."""
    if padding_mode == "reflect":
        return end - (position % (2 * end + (end == 0)) - end).abs()
    if padding_mode == "circular":
        return position % (end + 1)
    if padding_mode == "replicate":
        return end - (end - position.clamp(min=0)).clamp(min=0)
    return position
