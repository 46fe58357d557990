"""No weight decay on norms and biases: it is meant for the weights of convolutions and the like.

He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks", CVPR 2019,
section 3.1, https://arxiv.org/abs/1812.01187.

Where we differ from the usual code: norms and biases are known by their module and their name. By
their dimensions, one or less, a layer scale would pass for a bias, and a bias table for a weight.
"""

from dataclasses import dataclass
from typing import final

from torch import nn
from torch.optim import Optimizer

from tricks.groups import split_groups_
from tricks.trick import Trick
from tricks.weights import is_bias, is_norm, owned_parameters


def norms_and_biases(model: nn.Module) -> set[nn.Parameter]:
    """Give back the parameters of normalisation layers, and every bias.

    By the type of their module, one of torch's norms or one whose class is named as a norm, and by
    their name: `bias`, or one of its words, as in `in_proj_bias`.

    >>> layer, norm = nn.Linear(2, 3), nn.BatchNorm1d(3)
    >>> norms_and_biases(nn.Sequential(layer, norm)) == {layer.bias, norm.weight, norm.bias}
    True
    """
    owned = owned_parameters(model)
    return {p for module, name, p in owned if is_norm(module) or is_bias(name)}


def exempt_from_decay_(optimizer: Optimizer, model: nn.Module) -> None:
    """Set the weight decay of norms and biases to 0, in parameter groups of their own.

    Args:
        optimizer: Of the model's parameters. Each of its groups with such parameters and others is
            split: the new groups are behind the old ones, with the same options.
        model: The model.

    Raises:
        ValueError: If nothing would change: the model has no norm and no bias that is trained, or
            none of them decays.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    >>> exempt_from_decay_(optimizer, model)
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(1, 0.01), (3, 0.0)]
    """
    exempt = norms_and_biases(model)
    trained = {p for p in exempt if p.requires_grad}
    if not trained:
        raise ValueError(
            f"NoDecay found no norm and no bias that is trained in {type(model).__name__}. "
            "Switch the trick off."
        )
    decaying = [group for group in optimizer.param_groups if group.get("weight_decay")]
    if not any(p in trained for group in decaying for p in group["params"]):
        raise ValueError(
            f"NoDecay found no weight decay on a norm or bias of {type(model).__name__} in "
            f"{type(optimizer).__name__}. Give it a weight_decay (with "
            "decay_norms_and_biases=true in a config), or switch the trick off."
        )
    split_groups_(optimizer, exempt, lambda _: {"weight_decay": 0.0}, decaying)


@final
@dataclass(frozen=True)
class NoDecay(Trick):
    """Take norms and biases out of the weight decay (`optimizer`).

    See `exempt_from_decay_`. It has no parameters.

    Raises:
        ValueError: In `optimizer`, if nothing would change.
    """

    def optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        """Split the groups of the optimizer."""
        exempt_from_decay_(optimizer, model)
        return optimizer
