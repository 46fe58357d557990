"""Anti-aliasing: blur before each subsampling, in the paper's places, on any traceable model.

Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019,
https://arxiv.org/abs/1904.11486
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from tricks.blur_pool import PaddingMode, blur_pool, check_filter
from tricks.downsampling import Place, Strided, find_places
from tricks.trick import Trick


def anti_alias(
    model: nn.Module,
    filter_size: int = 4,
    padding_mode: PaddingMode = "reflect",
    first: bool = False,
) -> nn.Module:
    """Anti-alias a model in place: each strided layer keeps every pixel, and a blur subsamples.

    | strided layer | becomes |
    | --- | --- |
    | convolution, norm, activation | convolution of stride 1, norm, activation, blur |
    | 1x1 convolution that no activation follows (a shortcut) | blur, the convolution of stride 1 |
    | larger convolution that no activation follows | blur of stride 1, the convolution as it is |
    | max-pool | max-pool of stride 1, blur |
    | average-pool | blur |

    The model's first convolution stays as it is, unless asked for, and so does an average-pool
    whose result is flattened (a global one). The graph is read once, in evaluation mode; the blurs
    are hooks. The model stays an ordinary module with the same parameters and `state_dict` keys,
    and every map but those within a changed place keeps its size.

    Differs from the paper's code: a max-pool keeps its kernel (there, the ResNet's 3x3 becomes
    2x2), and the larger convolution without an activation, which the paper's networks have not.

    Args:
        model: Any module that `torch.fx` can trace.
        filter_size: Taps of the binomial filter a side, 1 to 7; 1 only subsamples.
        padding_mode: What lies beyond a map's border: zeros, reflect, replicate or circular.
        first: Whether to change the first convolution too, at the cost of its stride in time.

    Returns:
        The model itself.

    Raises:
        ValueError: If an argument is out of range, or the model has nothing to change, a place that
            no hook reaches, or hooks already. It is unchanged then.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    >>> anti_alias(net)(torch.ones(1, 3, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """
    check_filter("AntiAliasing", filter_size, padding_mode)
    name = type(model).__name__
    if any(isinstance(hook, _Blur) for hook in _hooks(model)):
        raise ValueError(
            f"{name} must be anti-aliased once, got an anti-aliased one. Call anti_alias once."
        )
    places = find_places(model, first)
    if not places:
        raise ValueError(
            f"AntiAliasing found nothing to change in {name}: it has no strided convolution after "
            "its first and no strided pool. Take another model, set first=True, or drop the trick."
        )
    for place in places:
        _change(model, place, filter_size, padding_mode)
    return model


@final
@dataclass(frozen=True)
class AntiAliasing(Trick):
    """The model anti-aliased, by `anti_alias`: https://arxiv.org/abs/1904.11486.

    Fields: see `anti_alias`.
    """

    filter_size: int = 4
    padding_mode: PaddingMode = "reflect"
    first: bool = False

    def __post_init__(self) -> None:
        check_filter("AntiAliasing", self.filter_size, self.padding_mode)

    def model(self, model: nn.Module) -> nn.Module:
        """Give back the same model, with blurs."""
        return anti_alias(model, self.filter_size, self.padding_mode, self.first)


@dataclass(frozen=True)
class _Blur:
    """A hook that blurs a module's output or, before the module, its input."""

    filter_size: int
    stride: int
    padding_mode: PaddingMode
    rounds_down: bool

    def __call__(self, _: nn.Module, inputs: tuple[Tensor], output: Tensor | None = None) -> Tensor:
        x = inputs[0] if output is None else output
        y = blur_pool(x, self.filter_size, self.stride, self.padding_mode)
        if not self.rounds_down:
            return y
        height, width = x.shape[-2:]
        return y[..., : height // self.stride, : width // self.stride]


def _change(model: nn.Module, place: Place, filter_size: int, padding_mode: PaddingMode) -> None:
    """Let the layer of a place keep every pixel, and attach the blur."""
    layer = model.get_submodule(place.layer)
    assert isinstance(layer, Strided)
    stride = 1 if place.kind == "linear" else place.stride
    blur = _Blur(filter_size, stride, padding_mode, place.rounds_down)
    if place.kind != "linear":
        layer.stride = (1, 1)
    if isinstance(layer, nn.AvgPool2d):
        layer.kernel_size, layer.padding = (1, 1), (0, 0)
    for module in map(model.get_submodule, place.at):
        if place.side == "after":
            module.register_forward_hook(blur)
        else:
            module.register_forward_pre_hook(blur)


def _hooks(model: nn.Module) -> Iterable[Any]:
    for module in model.modules():
        yield from module._forward_hooks.values()
        yield from module._forward_pre_hooks.values()
