"""Dirac initialisation: the first filters of each convolution begin as the identity.

It is part of the fastest trainings on CIFAR-10: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a
Single GPU", https://arxiv.org/abs/2404.00498, whose code is
https://github.com/KellerJordan/cifar10-airbench.

Where we differ: of a grouped convolution each group gets an identity of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tricks.layers import find_first, unwrapped
from tricks.trick import Trick

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


@torch.no_grad()
def dirac_init_(model: nn.Module) -> tuple[str, ...]:
    """Give the first filters of a model's convolutions the identity, in place.

    Of a convolution with M input channels and at least as many outputs, the first M filters become
    delta functions, so that output m begins as input m; the others, and biases, stay as they were.
    In each group of a grouped convolution these are the first M / groups filters of the group; a
    depthwise convolution begins as the identity.

    Changed are the convolutions (1d, 2d and 3d) of a kernel with odd sides, not all of them 1: with
    an even side there is no middle, and the identity would shift the map. Those of 1x1, as of
    shortcuts and squeeze-excite, mix channels, and the published networks have none. Left alone are
    also the first layer of the network, which gets the image, convolutions with fewer outputs than
    inputs, and transposed ones. A strided one begins as a subsampling. No random number is drawn.

    Args:
        model: Any module that `torch.fx` can trace, to find its first layer.

    Returns:
        The names of the convolutions that were changed.

    Raises:
        ValueError: If the model cannot be traced, has no such convolution, or the weight of one is
            computed from other parameters. The model is unchanged then.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, padding=1, bias=False))
    >>> dirac_init_(net)
    ('1',)
    >>> x = torch.rand(1, 4, 5, 5)
    >>> torch.equal(net[1](x)[:, :4], x)
    True
    """
    name = type(model).__name__
    try:
        first = find_first(model)
    except ValueError as error:
        raise ValueError(
            f"{error}. DiracInit leaves the first layer alone, which it cannot find so. Call "
            "dirac_init_ on the parts behind it, or drop the trick."
        ) from error
    layers = {
        key: layer
        for key, layer in unwrapped(model).named_modules()
        if key not in first and _has_an_identity(layer)
    }
    for key, layer in layers.items():
        weight = layer._parameters.get("weight")
        if weight is None or is_lazy(weight):
            raise ValueError(
                f"{name}.{key}.weight cannot be set: it is computed from other parameters "
                "(parametrized, pruned) or lazy. Initialise the model before the first, or after "
                "a batch went through the second; or drop dirac_init."
            )
    if not layers:
        raise ValueError(
            f"DiracInit found no convolution to change in {name}: behind the first layer it has "
            "none of a kernel with odd sides above 1 and at least as many outputs as inputs. Drop "
            "the trick."
        )
    for layer in layers.values():
        _set_identity(layer)
    return tuple(layers)


@final
@dataclass(frozen=True)
class DiracInit(Trick):
    """Let the first filters of convolutions begin as the identity (`initialize`), by `dirac_init_`.

    Raises:
        ValueError: In `initialize`, where `dirac_init_` refuses the model.

    >>> model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3))
    >>> DiracInit().initialize(model, [])
    >>> model[1].weight[0, 0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """

    def initialize(self, model: nn.Module, inputs: Iterable[Tensor]) -> None:  # noqa: ARG002
        """Set the filters; the inputs are not read."""
        dirac_init_(model)


def _has_an_identity(layer: nn.Module) -> TypeGuard[Convolution]:
    """Whether a module is a convolution that can begin as the identity, and should."""
    if not isinstance(layer, Convolution):
        return False
    sides = layer.kernel_size
    return (
        layer.out_channels >= layer.in_channels
        and all(side % 2 for side in sides)
        and max(sides) > 1
    )


def _set_identity(layer: Convolution) -> None:
    weight, inputs = layer.weight, layer.in_channels // layer.groups
    identity = nn.init.dirac_(weight.new_empty(inputs, *weight.shape[1:]))
    weight.unflatten(0, (layer.groups, -1))[:, :inputs] = identity
