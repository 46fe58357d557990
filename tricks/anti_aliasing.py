"""Anti-aliasing: blur before each subsampling, in the paper's places, on any traceable model.

Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019,
https://arxiv.org/abs/1904.11486
"""

import warnings
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tricks.blur_pool import PaddingMode, blur_pool, check_filter, is_known, is_too_small, pair
from tricks.downsampling import Place, Rounding, Strided, find_places
from tricks.trick import Trick

Pool = nn.MaxPool2d | nn.AvgPool2d


def anti_alias(
    model: nn.Module,
    filter_size: int = 4,
    padding_mode: PaddingMode = "reflect",
    first: bool = False,
) -> nn.Module:
    """Anti-alias a model in place, and give it back: layers keep every pixel, blurs subsample.

    | strided layer | becomes |
    | --- | --- |
    | convolution, norm, activation | convolution of stride 1, norm, activation, blur |
    | 1x1 convolution that no activation follows (a shortcut) | blur, the convolution of stride 1 |
    | larger convolution that no activation follows | blur of stride 1, the convolution as it is |
    | max-pool | max-pool of stride 1, blur |
    | average-pool | blur |
    | average-pool whose windows no blur stands for | average-pool of stride 1, blur |

    The model's first convolution, with those beside it that read the same map, stays as it is,
    unless asked for, and so does an average-pool whose result is flattened (a global one). Where a
    layer strides down or across only, the blur does too. The graph is read once, in evaluation
    mode, from a copy without hooks; the blurs are hooks. The model stays an ordinary module with
    the same parameters and `state_dict` keys, and every map but those within a changed place keeps
    its size: hooks of others see maps of the plain network's size there. It can be exported, and
    traced, for any number, height and width of images. To train it under `torch.compile`, take
    `dynamic=False`: inductor (torch 2.14) cannot order the strides of maps of variable size.

    Change a model before it is wrapped (`DistributedDataParallel`, FSDP) or compiled. Of a model
    that cannot be read, parts can be changed, as `anti_alias(model.backbone)`. A part has a first
    convolution of its own: take `first=True` where the part does not begin the network.

    Under `filter_size=1` the model is the plain one, but for the average-pools that become a blur.

    A map too small to be reflected (or wrapped) but once, as one of 2x2 under a filter of 4, is
    reflected as often as needed; one warning names its layer, except in a compiled model.

    Differs from the paper's code: a max-pool keeps its kernel (there, the ResNet's 3x3 becomes
    2x2), and the larger convolution without an activation, which the paper's networks have not.

    Args:
        model: Any module that `torch.fx` can trace.
        filter_size: Taps of the binomial filter a side, 1 to 7; 1 only subsamples.
        padding_mode: What lies beyond a map's border: zeros, reflect, replicate or circular.
        first: Whether to change the first convolution too, at the cost of its stride in time.

    Raises:
        ValueError: If an argument is out of range, or the model has nothing to change, a place that
            no hook reaches, or blurs already. It is unchanged then.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    >>> anti_alias(net)(torch.ones(1, 3, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """
    check_filter("AntiAliasing", filter_size, padding_mode)
    name = type(model).__name__
    for module in model.modules():
        hooks = *module._forward_hooks.values(), *module._forward_pre_hooks.values()
        if any(isinstance(hook, _Blur) for hook in hooks):
            raise ValueError(f"{name} is anti-aliased already. Call anti_alias only once.")
    places = find_places(model, first)
    if not places:
        raise ValueError(
            f"AntiAliasing found nothing to change in {name}: it has no strided convolution after "
            "its first and no strided pool. Use another model, set first=True, or drop the trick."
        )
    for place in places:
        _change(model, place, filter_size, padding_mode)
    return model


@final
@dataclass(frozen=True)
class AntiAliasing(Trick):
    """Anti-alias the model (`model`), by `anti_alias`: the fields are its arguments.

    Attributes:
        filter_size: Taps of the binomial filter a side, 1 to 7; 1 only subsamples.
        padding_mode: What lies beyond a map's border: zeros, reflect, replicate or circular.
        first: Whether to change the first convolution too.

    Raises:
        ValueError: If a value is out of its range; in `model`, where `anti_alias` refuses it.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    >>> AntiAliasing(filter_size=3).model(net)[2].stride
    (1, 1)
    """

    filter_size: int = 4
    padding_mode: PaddingMode = "reflect"
    first: bool = False

    def __post_init__(self) -> None:
        check_filter("AntiAliasing", self.filter_size, self.padding_mode)

    def model(self, model: nn.Module) -> nn.Module:
        """Give back the same model, with blurs."""
        return anti_alias(model, self.filter_size, self.padding_mode, self.first)


@dataclass
class _Blur:
    """A hook that blurs a module's output or, before the module, its input."""

    layer: str
    filter_size: tuple[int, int]
    stride: tuple[int, int]
    padding_mode: PaddingMode
    rounding: Rounding
    warned: bool = False

    def __call__(self, _: nn.Module, inputs: tuple[Tensor], output: Tensor | None = None) -> Tensor:
        x = inputs[0] if output is None else output
        if not self.warned and is_known(x.shape) and not torch.compiler.is_compiling():
            self._warn_if_small(x.shape)
        size = self._size(x.shape[-2], 0), self._size(x.shape[-1], 1)
        return blur_pool(x, self.filter_size, self.stride, self.padding_mode, size)

    def _size(self, pixels: int, side: int) -> int:
        """Give back how many rows (side 0) or columns the plain layer would give."""
        stride = self.stride[side]
        return pixels // stride if self.rounding == "down" else (pixels - 1) // stride + 1

    def _warn_if_small(self, shape: torch.Size) -> None:
        pairs = zip(shape[-2:], self.filter_size, strict=True)
        if any(is_too_small(pixels, taps, self.padding_mode) for pixels, taps in pairs):
            self.warned = True
            warnings.warn(
                f"The map at {self.layer} is {shape[-2]}x{shape[-1]}, too small for a blur of "
                f"filter_size={max(self.filter_size)}: its border is padded by "
                f"padding_mode={self.padding_mode!r} more than once. Use a smaller filter_size or "
                "larger images, or ignore this.",
                stacklevel=2,
            )


@dataclass
class _Overhang:
    """A hook on a pool in ceil_mode: the windows that hang over the map's far side, at stride 1.

    Of a max-pool it pads the input; of an average-pool, where such a window has a smaller divisor,
    it gives the output.
    """

    stride: tuple[int, int]

    def __call__(
        self, pool: Pool, inputs: tuple[Tensor], output: Tensor | None = None
    ) -> Tensor | None:
        x = inputs[0]
        down, across = (self._rows(pool, x.shape[side - 2], side) for side in (0, 1))
        if is_known(x.shape) and down == across == 0:
            return output
        if isinstance(pool, nn.MaxPool2d):
            return F.pad(x, (0, across, 0, down), value=-torch.inf)
        kernel, padding = pair(pool.kernel_size), pair(pool.padding)
        border = (padding[1], padding[1], padding[0], padding[0])
        counts = F.pad(
            torch.ones_like(x[..., :1, :, :]), border, value=float(pool.count_include_pad)
        )
        total, count = (
            F.avg_pool2d(F.pad(z, (0, across, 0, down)), kernel, 1, divisor_override=1)
            for z in (F.pad(x, border), counts)
        )
        return total / (pool.divisor_override or count)

    def _rows(self, pool: Pool, pixels: int, side: int) -> int:
        """Give back by how many rows the last window at the stride ends beyond that at stride 1.

        No window may begin beyond the map; without a branch, for maps of any size.
        """
        settings = pool.kernel_size, pool.padding, getattr(pool, "dilation", 1)
        kernel, padding, dilation = (pair(value)[side] for value in settings)
        stride, reach = self.stride[side], dilation * (kernel - 1)
        rows = (reach + 1 - pixels - 2 * padding) % stride
        within: int = rows * ((min(reach - padding, stride - 1) - rows) // stride + 1)
        return within


def _change(model: nn.Module, place: Place, filter_size: int, padding_mode: PaddingMode) -> None:
    """Let the layer of a place keep every pixel, and attach the blur."""
    layer = model.get_submodule(place.layer)
    assert isinstance(layer, Strided)
    down, across = (filter_size if side > 1 else 1 for side in place.stride)
    stride = (1, 1) if place.kind == "linear" else place.stride
    blur = _Blur(place.layer, (down, across), stride, padding_mode, place.rounding)
    if place.kind != "linear":
        layer.stride = (1, 1)
    if place.kind == "average-pool":
        assert isinstance(layer, nn.AvgPool2d)
        layer.kernel_size, layer.padding = (1, 1), (0, 0)
    for module in map(model.get_submodule, place.at):
        if place.side == "after":
            module.register_forward_hook(blur, prepend=True)  # so others see what flows on
        else:
            module.register_forward_pre_hook(blur, prepend=place.at != (place.layer,))
    if place.rounding == "ceil_mode":
        if isinstance(layer, nn.MaxPool2d):
            layer.register_forward_pre_hook(_Overhang(place.stride))
        else:
            layer.register_forward_hook(_Overhang(place.stride), prepend=True)
