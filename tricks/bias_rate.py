"""A learning rate of their own for the biases of norms.

Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, https://arxiv.org/abs/2404.00498,
with a factor of 64; the author's code is https://github.com/KellerJordan/cifar10-airbench.
"""

from dataclasses import dataclass
from typing import Literal, final

from torch import nn
from torch.optim import Optimizer

from tricks.groups import Group, split_groups_
from tricks.trick import Trick, require_one_of
from tricks.weights import is_bias, is_norm, owned_parameters

Biases = Literal["norms", "all"]


def scale_bias_rates_(
    optimizer: Optimizer, model: nn.Module, factor: float = 64.0, biases: Biases = "norms"
) -> None:
    """Multiply the learning rate of biases by a factor, in parameter groups of their own.

    Their weight decay is divided by it, as in the author's code: the share lr * weight_decay, which
    an update of SGD or AdamW takes off, stays as it was.

    Args:
        optimizer: Of the model's parameters. Each of its groups with such biases and other
            parameters is split: the new groups are behind the old ones.
        model: The model.
        factor: The factor, > 0.
        biases: Those of `norms`, or `all`.

    Raises:
        ValueError: If a value is out of its range, or the optimizer trains no such bias.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.64)
    >>> scale_bias_rates_(optimizer, model)
    >>> [(len(g["params"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    [(3, 0.1, 0.64), (1, 6.4, 0.01)]
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"factor must be > 0 and finite, got {factor}.")
    require_one_of("biases", biases, Biases)
    chosen = {
        parameter
        for module, name, parameter in owned_parameters(model)
        if is_bias(name) and (biases == "all" or is_norm(module)) and parameter.requires_grad
    }
    held = {p for group in optimizer.param_groups for p in group["params"]}
    if held.isdisjoint(chosen):
        what = "bias of a norm" if biases == "norms" else "bias"
        raise ValueError(
            f"BiasRate found no {what} in {type(model).__name__} that the optimizer trains. "
            f"{'Set biases=all, or switch' if biases == 'norms' else 'Switch'} the trick off."
        )

    def change(group: Group) -> Group:
        rates: Group = {
            name: group[name] * factor for name in ("lr", "initial_lr") if name in group
        }
        decay = group.get("weight_decay")
        return {**rates, "weight_decay": decay / factor} if decay else rates

    split_groups_(optimizer, chosen, change)


@final
@dataclass(frozen=True)
class BiasRate(Trick):
    """Give the biases of norms a learning rate of their own (`optimizer`).

    See `scale_bias_rates_`. The scheduler multiplies it as it does the others.

    Attributes:
        factor: What the learning rate is multiplied by, and the weight decay divided by, > 0.
        biases: Those of `norms`, or `all`.

    Raises:
        ValueError: If a value is out of its range; in `optimizer`, if it trains no such bias.
    """

    factor: float = 64.0
    biases: Biases = "norms"

    def __post_init__(self) -> None:
        if not 0 < self.factor < float("inf"):
            raise ValueError(f"BiasRate.factor must be > 0 and finite, got {self.factor}.")
        require_one_of("BiasRate.biases", self.biases, Biases)

    def optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        """Split the groups of the optimizer."""
        scale_bias_rates_(optimizer, model, self.factor, self.biases)
        return optimizer
