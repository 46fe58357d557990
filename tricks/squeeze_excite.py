"""Squeeze and excitation: each residual branch weighs its channels by what the whole image shows.

Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, https://arxiv.org/abs/1709.01507

Where we differ: at least `min_channels` hidden units; in the paper's ratio 64 channels had 4.
https://github.com/huggingface/pytorch-image-models has at least 8 too, and rounds to a multiple.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from tricks.layers import LAYERS
from tricks.residual import Block, Exit, attach_, exit_of, find_blocks
from tricks.trick import Trick, derive_seed

KNOWN = {
    "cbammodule", "cecamodule", "channelattn", "channelattention", "ecamodule",
    "effectivesemodule", "lightcbammodule", "lightchannelattn", "semodule", "seblock", "selayer",
    "squeezeandexcitation", "squeezeexcitation", "squeezeexcite",
}  # fmt: skip
"""Classes that weigh channels, in lower case."""


def squeeze_excite(model: nn.Module, reduction: int = 16, min_channels: int = 8) -> nn.Module:
    """Let the residual branches of a model weigh their channels, and give the model back.

    Of a branch's result x [N, C, H, W], before it is added to the shortcut,

        squeeze z = mean of x over H and W [N, C]
        excite  s = sigmoid(W2 relu(W1 z + b1) + b2) [N, C]
        result  x * s,

    with max(C // reduction, min_channels) hidden units, but C at most. This is the paper's
    SE-ResNet; blocks without a shortcut are left alone.

    Hooks multiply; each block gets a module `squeeze_excite`, a `ChannelAttention`. What was in the
    `state_dict` keeps its keys. The new weights are drawn as `nn.Linear` draws its own, by
    generators that depend on torch's initial seed and the place; no other random number moves.

    Args:
        model: Any module with residual blocks that `torch.fx` can trace, not yet compiled or
            wrapped.
        reduction: How many channels there are for a hidden unit, >= 1.
        min_channels: The fewest hidden units, >= 1.

    Raises:
        ValueError: If a value is out of its range, or the model has no residual block, weighs
            channels already, or has a branch that is no map [N, C, H, W] or that no hook reaches.
            It is unchanged then.

    >>> from torchvision.models import resnet18
    >>> model = squeeze_excite(resnet18())
    >>> model.layer4[1].squeeze_excite
    ChannelAttention(
      (reduce): Linear(in_features=512, out_features=32, bias=True)
      (expand): Linear(in_features=32, out_features=512, bias=True)
    )
    """
    _check("", reduction, min_channels)
    name = type(model).__name__
    for inner, module in model.named_modules():
        if isinstance(module, ChannelAttention):
            raise ValueError(f"{name} has squeeze_excite already. Call squeeze_excite only once.")
        if type(module).__name__.lower() in KNOWN:
            raise ValueError(
                f"{name}.{inner} is a {type(module).__name__}: the network weighs its channels "
                "already. Use one that does not, such as a ResNet, or drop the trick."
            )
    blocks = find_blocks(model, "SqueezeExcite", "squeeze_excite")
    places = {(exit_ := _exit(model, block)).name: (block, exit_.shape[1]) for block in blocks}
    for end, (block, channels) in places.items():
        hidden = min(channels, max(channels // reduction, min_channels))
        attention = ChannelAttention(channels, hidden).train(model.training)
        seed = derive_seed(torch.initial_seed(), "squeeze_excite", end)
        attention.draw_(torch.Generator().manual_seed(seed))
        own = [p for layer in block.layers for p in model.get_submodule(layer).parameters()]
        like = next((p for p in own if p.is_floating_point()), torch.empty(0))
        attach_(model, block, end, "squeeze_excite", attention.to(like.device, like.dtype))
    return model


@final
@dataclass(frozen=True)
class SqueezeExcite(Trick):
    """Let residual branches weigh their channels (`model`), by `squeeze_excite`.

    Attributes:
        reduction: How many channels there are for a hidden unit, >= 1.
        min_channels: The fewest hidden units, >= 1.

    Raises:
        ValueError: If a value is out of its range; in `model`, where `squeeze_excite` refuses it.

    >>> from torchvision.models import resnet18
    >>> model = SqueezeExcite(reduction=8).model(resnet18())
    >>> model.layer1[0].squeeze_excite.reduce.out_features
    8
    """

    after: ClassVar[tuple[str, ...]] = ("AntiAliasing", "GhostBatchNorm")

    reduction: int = 16
    min_channels: int = 8

    def __post_init__(self) -> None:
        _check("SqueezeExcite.", self.reduction, self.min_channels)

    def model(self, model: nn.Module) -> nn.Module:
        """Give back the same model, with the modules."""
        return squeeze_excite(model, self.reduction, self.min_channels)


class ChannelAttention(nn.Module):
    """Multiplies each channel of a map by a number between 0 and 1, from the means of all.

    Its weights are not drawn yet.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = skip_init(nn.Linear, channels, hidden)
        self.expand = skip_init(nn.Linear, hidden, channels)

    def draw_(self, generator: torch.Generator) -> None:
        """Draw the weights and biases as `nn.Linear` does, from a generator on the CPU."""
        for layer in (self.reduce, self.expand):
            nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=generator)
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        hidden = F.relu(self.reduce(x.mean((2, 3))))
        scale: Tensor = self.expand(hidden).sigmoid()
        return x * scale[:, :, None, None]


def _exit(model: nn.Module, block: Block) -> Exit:
    """Give back the last module of a branch whose result is a map from which nothing is dropped."""
    name = type(model).__name__
    nearest = exit_of(block, name)
    where = ".".join(filter(None, (name, block.owner)))
    modules = [model.get_submodule(layer) for layer in block.layers]
    units = [m.out_features if isinstance(m, nn.Linear) else None for m in modules if _is_layer(m)]
    maps = [end for end in block.exits if _is_map(end.shape, units[-1] if units else None)]
    if not maps:
        raise ValueError(
            f"The branch of {where} must give a map [N, C, H, W], got {list(nearest.shape)[1:]} of "
            f"each sample from {nearest.name}. Use a convolutional network, or drop the trick."
        )
    if all(end.dropped for end in maps):
        raise ValueError(
            f"The branch of {where} is dropped or has dropout before {maps[-1].name}, where its "
            "channels would be weighed: the means would be others in training. Build the model "
            "without."
        )
    return next(end for end in maps if not end.dropped)


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, LAYERS)


def _is_map(shape: torch.Size, units: int | None) -> bool:
    """Whether a result is [N, C, H, W]; after a linear layer its units tell where C stands."""
    return len(shape) == 4 and (units is None or (shape[1] == units and shape[3] != units))


def _check(where: str, reduction: int, min_channels: int) -> None:
    for name, value in (("reduction", reduction), ("min_channels", min_channels)):
        if not value >= 1:
            raise ValueError(f"{where}{name} must be >= 1 (channels), got {value}.")
