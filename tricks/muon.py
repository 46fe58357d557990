"""Muon: the momentum of hidden weights, orthogonalized; the rest stays with another optimizer.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/; the author's code is
https://github.com/KellerJordan/Muon. Scaling as for AdamW: Liu et al., "Muon is Scalable for LLM
Training", https://arxiv.org/abs/2502.16982. Normalized weights: the same author's
https://github.com/KellerJordan/cifar10-airbench.

Where we differ from the author's code: the update is scaled by the shape of the matrix that was
orthogonalized, not by the height and width of a filter, so a 1x1 convolution is trained as the
linear layer that it equals; each group of a grouped convolution is a matrix of its own; and a
transposed convolution has its outputs as rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn
from torch.optim import Optimizer

from tricks.groups import Group, require_of_model, take_out
from tricks.layers import LAYERS, find_classifier, find_first, is_weight, listed, parameters_named
from tricks.muon_step import COEFFICIENTS, MuonAndRest, Scale
from tricks.trick import Trick, require_one_of
from tricks.weights import find_matrices


def with_muon(
    optimizer: Optimizer,
    model: nn.Module,
    lr: float = 0.02,
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    steps: int = 5,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    scale: Scale = "original",
    normalize: bool = False,
    exclude: Sequence[str] | None = None,
) -> MuonAndRest:
    """Train the hidden weights by Muon, and all else by the optimizer that is given.

    With the gradient g of a matrix W of m rows (units) and n columns,

        B = momentum * B + (1 - momentum) * g
        U = orthogonalize((1 - momentum) * g + momentum * B), or of B without nesterov
        W = (1 - lr * weight_decay) * W - lr * scale * U

    Hidden weights are those of convolutions, linear layers and attention, without the first layer
    and the classifier: a convolution is a matrix [out, in * kh * kw] for each of its groups, a
    transposed one too. All else stays with the given optimizer: these two, biases, norms,
    embeddings, recurrent weights, scales, and parameters that are frozen now.

    Args:
        optimizer: Of the model's parameters; it is changed: its groups lose the hidden weights.
        model: The model.
        lr: The learning rate of the hidden weights: about the size of an update's singular values.
        momentum: The share of B that is kept.
        nesterov: Whether to look ahead.
        weight_decay: Decoupled, as in AdamW.
        steps: Steps of the iteration, see `orthogonalize`.
        coefficients: Its coefficients.
        scale: `original` for sqrt(max(1, m / n)), `match_rms_adamw` for .2 * sqrt(max(m, n)),
            `spectral_unclamped` for sqrt(m / n): torch.optim.Muon's adjust_lr_fn.
        normalize: Set the norm of each weight to the root of its number of units before each
            update.
        exclude: Names of modules and parameters that stay with the given optimizer, with all that
            they hold, instead of the first layer and the classifier.

    Returns:
        One optimizer: its groups are those that are left, and Muon's behind them.

    Raises:
        ValueError: If there is no hidden weight, the optimizer has parameters that are none of the
            model's, a name is unknown, or the first layer or the classifier is.

    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3), nn.Conv2d(8, 2, 1))
    >>> optimizer = with_muon(torch.optim.SGD(model.parameters(), lr=0.1), model, lr=0.02)
    >>> [(group["lr"], len(group["params"])) for group in optimizer.param_groups]
    [(0.1, 5), (0.02, 1)]
    """
    options: Group = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "steps": steps}
    options |= {"weight_decay": weight_decay, "coefficients": coefficients}
    options |= {"scale": scale, "normalize": normalize}
    _check(options)
    if isinstance(optimizer, MuonAndRest):
        raise ValueError("The optimizer has Muon already. Give the one that it was made of.")
    require_of_model(optimizer, model, "Muon")
    left = set(parameters_named(model, edges(model) if exclude is None else exclude))
    held = {p for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    matrices = [m for m in find_matrices(model) if m.parameter in held - left]
    if not matrices:
        raise ValueError(
            f"Muon found no hidden weight in {type(model).__name__}: no convolution or linear "
            "layer that the optimizer trains, beside the first layer and the classifier, or those "
            "in exclude. Set exclude to fewer names, such as [], or switch the trick off."
        )
    chosen = {matrix.parameter for matrix in matrices}
    for group in optimizer.param_groups:
        take_out(group, chosen)
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
    for parameter in chosen:
        optimizer.state.pop(parameter, None)
    return MuonAndRest(matrices, optimizer, options)


def _check(options: Group, where: str = "") -> None:
    """Refuse options out of their ranges; `where` is put before a name."""
    coefficients, decay = options["coefficients"], options["weight_decay"]
    three = len(coefficients) == 3 and all(map(math.isfinite, coefficients))
    for name, rule, holds in (
        ("lr", "> 0 and finite", 0 < options["lr"] < math.inf),
        ("momentum", ">= 0 and < 1", 0 <= options["momentum"] < 1),
        ("weight_decay", ">= 0 and finite", 0 <= decay < math.inf),
        ("weight_decay", "0 where normalize sets the norms", not (decay and options["normalize"])),
        ("steps", "from 1 to 99", 1 <= options["steps"] <= 99),
        ("coefficients", "three finite numbers", three),
    ):
        if not holds:
            raise ValueError(f"{where}{name} must be {rule}, got {options[name]}.")
    require_one_of(f"{where}scale", options["scale"], Scale)


def edges(model: nn.Module) -> tuple[str, ...]:
    """Name the first layer and the classifier, which Muon leaves alone.

    Raises:
        ValueError: If they cannot be known.
    """
    try:
        return tuple(dict.fromkeys((*find_first(model), *find_classifier(model))))
    except ValueError as error:
        layers = [name for name, module in model.named_modules() if isinstance(module, LAYERS)]
        named = [layers[0], layers[-1]] if layers else ["conv1", "fc"]
        raise ValueError(
            "Muon leaves the first layer and the classifier to the given optimizer, but cannot "
            f"find them: {error}. Set exclude to their names, such as {named}, or to [] to take "
            "every layer."
        ) from error


@final
@dataclass(eq=False)
class Muon(Trick):
    """Train the hidden weights by Muon, and all else by the given optimizer (`optimizer`).

    See `with_muon`. The scheduler multiplies both learning rates by its factor.

    Attributes:
        lr: The learning rate of the hidden weights, > 0: about the size of an update's singular
            values.
        momentum: The share of the momentum that is kept, >= 0 and < 1.
        nesterov: Whether to look ahead.
        weight_decay: Of the hidden weights, decoupled: lr * weight_decay of each weight is taken
            off, >= 0.
        steps: Steps of the iteration, 1 to 99.
        coefficients: Its coefficients, three numbers.
        scale: What an update is multiplied by: `original`, `match_rms_adamw` or
            `spectral_unclamped`.
        normalize: Set the norm of each weight to the root of its number of units before each
            update.
        exclude: Names of modules and parameters that stay with the given optimizer, with all that
            they hold, instead of the first layer and the classifier; () for nothing.

    Raises:
        ValueError: If a value is out of its range; in `optimizer`, if there is no hidden weight, a
            name is unknown, the first layer or the classifier cannot be found, or a parameter of
            the optimizer is not the model's.
    """

    replaces: ClassVar[tuple[str, ...]] = ("optimizer",)

    lr: float = 0.02
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.0
    steps: int = 5
    coefficients: tuple[float, float, float] = COEFFICIENTS
    scale: Scale = "original"
    normalize: bool = False
    exclude: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check({name: getattr(self, name) for name in self.__dataclass_fields__}, "Muon.")
        self._left: list[str] = []  # what stays with the given optimizer, in words

    def model(self, model: nn.Module) -> nn.Module:
        """Begin a training; the model stays as it is."""
        self._left = []
        return model

    def optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        """Give back both optimizers as one."""
        name, options = type(optimizer).__name__, dict(vars(self))
        del options["_left"]
        both = with_muon(optimizer, model, **options)
        weights = ((n, p) for n, p in model.named_parameters() if is_weight(p) and p.requires_grad)
        if left := [n for n, p in weights if p not in both.matrices]:
            why = "; exclude=[...] names others" if self.exclude is None else ""
            stay = "stays" if len(left) == 1 else "stay"
            self._left = [f"{listed(left)} {stay} with {name}{why}."]
        return both

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:  # noqa: ARG002
        """Name the weights that stay with the given optimizer."""
        return [*self._left]
