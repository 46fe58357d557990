"""Gradient centralization: take each output unit's mean off the gradient of its weights.

Yong et al., "Gradient Centralization: A New Optimization Technique for Deep Neural Networks",
https://arxiv.org/abs/2004.01461; the authors' code is
https://github.com/Yonghongwei/Gradient-Centralization.

Where we differ from the authors' code: weights are chosen by the module that holds them, not by
their number of dimensions, so embeddings, norms and scales are never touched; a unit of a
transposed convolution is an output channel; a unit with one weight is left alone, as its gradient
would be zero for ever; and `conv_only` takes in one-dimensional convolutions.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from tricks.trick import Trick, require_one_of

Where = Literal["gradient", "gradient_and_decay", "update"]


@torch.no_grad()
def centralize_(module: nn.Module, conv_only: bool = False, exclude: Sequence[str] = ()) -> None:
    """Take its mean over each output unit's weights off each weight's gradient, in place.

    The gradient g of a unit's M weights becomes g - mean(g). A unit is an output channel of a
    convolution (of any dimension, grouped, transposed) or an output of a linear layer. Biases,
    norms, embeddings, and units of one weight (M = 1) keep their gradient. A shared weight counts
    once. Of a parametrized weight, the parameters under the parametrization count: of weight
    normalization the direction, whose magnitudes have M = 1.

    Args:
        module: The model, with its gradients.
        conv_only: Leave linear layers alone.
        exclude: Names of modules and parameters to leave alone, with all that they hold.

    Raises:
        ValueError: If a name in `exclude` is that of nothing in the module.
        TypeError: If it is no module, but its parameters, for example.

    >>> layer = torch.nn.Linear(3, 1)
    >>> layer.weight.grad = torch.tensor([[1.0, 2.0, 6.0]])
    >>> centralize_(layer)
    >>> layer.weight.grad
    tensor([[-2., -1.,  3.]])
    """
    if not hasattr(module, "modules"):
        kind = type(module).__name__
        raise TypeError(
            f"module must be a torch.nn.Module, got a {kind}. Write centralize_(model)."
        )
    for weight in _weights(module, conv_only, exclude):
        if weight.parameter.grad is not None:
            weight.parameter.grad.sub_(weight.means(weight.parameter.grad))


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


class _Weight(NamedTuple):
    """A weight to centralize."""

    parameter: nn.Parameter
    groups: int | None
    """Of a transposed convolution, [in, out / groups, ...]; of others, [out, ...], None."""

    @property
    def units(self) -> int:
        out, per_group = self.parameter.shape[:2]
        return int(out if self.groups is None else self.groups * per_group)

    def means(self, tensor: Tensor) -> Tensor:
        """Average a tensor of the weight's shape over each unit, to broadcast against it."""
        if self.groups is None:
            return tensor.mean(tuple(range(1, tensor.ndim)), keepdim=True)
        grouped = tensor.reshape(self.groups, -1, *tensor.shape[1:])
        means = grouped.mean((1, *range(3, grouped.ndim)), keepdim=True).squeeze(1)
        return means.repeat_interleave(grouped.shape[1], dim=0)


def _weights(model: nn.Module, conv_only: bool, exclude: Sequence[str]) -> Iterator[_Weight]:
    kinds = _CONVOLUTIONS if conv_only else (*_CONVOLUTIONS, nn.Linear)
    if isinstance(exclude, str):
        raise ValueError(f"exclude must be a list of names, got {exclude!r}. Write ({exclude!r},).")
    passed = {p for name in exclude for p in _parameters_of(model, name)}
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            passed.update(module.parameters())  # also where a linear layer shares them
    for module in model.modules():
        if not isinstance(module, kinds):
            continue
        groups = int(module.groups) if isinstance(module, _TRANSPOSED) else None
        for parameter in _trained(module):
            weight = _Weight(parameter, groups)
            if parameter not in passed and parameter.ndim > 1 and parameter.numel() > weight.units:
                passed.add(parameter)
                yield weight


def _trained(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that are trained for the module's weight."""
    if parametrize.is_parametrized(module, "weight"):
        originals = module.get_submodule("parametrizations.weight")
        return originals.parameters(recurse=False)
    return (p for name, p in module.named_parameters(recurse=False) if name == "weight")


def _parameters_of(model: nn.Module, name: str) -> Iterator[nn.Parameter]:
    with suppress(AttributeError):
        return model.get_submodule(name).parameters()
    with suppress(AttributeError):
        return iter([model.get_parameter(name)])
    raise ValueError(
        f"exclude must name modules or parameters of {type(model).__name__}, got {name!r}. "
        "Take the names from its named_parameters()."
    )


_COUPLED = ("SGD", "ASGD", "Adam", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop")
"""The optimizers of torch that add weight_decay * w to the gradient."""


@final
@dataclass(eq=False)
class Centralization(Trick):
    """Centralize the gradient, the gradient with its weight decay, or the update (`gradients`).

    - `gradient`: the gradient of the loss. Weight decay still moves the means of the filters.
    - `gradient_and_decay`: as the authors' SGD, the gradient of the loss plus weight_decay * w.
      The gradient of the loss is centralized at once, and weight_decay * mean(w) of each unit is
      taken off just before the step, after all other tricks: what clips in between sees the
      gradient of the loss alone, and with SGD the means of the filters stand still. It needs an
      optimizer that adds the decay to the gradient.
    - `update`: the change that the step makes, as the authors advise for Adam. After the step
      each unit's mean is put back to what it was: with any optimizer that takes one gradient a step
      (LBFGS takes more), the means stand still.

    The last two need a hook on the optimizer, which acts on the next step after each call of
    `gradients`. With a loss scaler, call its `unscale_` first, as for clipping. Where the step
    makes the gradients, by `optimizer.step(closure)` as in Lightning, call `optimizer` before.

    Attributes:
        where: What is centralized.
        conv_only: Leave linear layers alone.
        exclude: Names of modules and parameters to leave alone, with all that they hold.

    Raises:
        ValueError: If `where` is none of these; in `model`, if there is nothing to centralize or
            a name in `exclude` is unknown; in `optimizer`, if `gradient_and_decay` meets a weight
            decay that is not added to the gradient.

    >>> model = nn.Linear(3, 1)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> before = model.weight.mean().item()
    >>> loss = model(torch.tensor([[1.0, 2.0, 6.0]])).sum()
    >>> loss.backward()
    >>> Centralization(where="update").gradients(model, optimizer, loss)
    >>> optimizer.step()
    >>> abs(model.weight.mean().item() - before) < 1e-7
    True
    """

    where: Where = "gradient_and_decay"
    conv_only: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_one_of("Centralization.where", self.where, Where)
        # of each optimizer that has our hook: the weights that its next step concerns, their means
        self._waiting = WeakKeyDictionary[Optimizer, list[tuple[_Weight, Tensor]]]()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy knows no optimizer, as a copied optimizer has no hooks."""
        return type(self), (self.where, self.conv_only, self.exclude)

    def model(self, model: nn.Module) -> nn.Module:
        """Refuse a model in which there is nothing to centralize."""
        if not any(_weights(model, self.conv_only, self.exclude)):
            raise ValueError(
                f"Centralization found nothing to centralize in {type(model).__name__}: it has no "
                "convolution or linear layer beside those that conv_only and exclude leave out. "
                "Change these, or switch the trick off."
            )
        return model

    def optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Refuse a weight decay that the gradient cannot be freed of; attach the hook."""
        if self.where == "gradient_and_decay":
            _require_coupled(optimizer)
        if self.where != "gradient" and optimizer not in self._waiting:
            self._waiting[optimizer] = []
            if self.where == "update":
                optimizer.register_step_post_hook(self._restore_means)
            else:
                optimizer.register_step_pre_hook(self._before_step)
        return optimizer

    @torch.no_grad()
    def gradients(self, model: nn.Module, optimizer: Optimizer, loss: Tensor) -> None:  # noqa: ARG002
        """Centralize the gradient, and have the next step do what remains."""
        if self.where != "update":
            centralize_(model, self.conv_only, self.exclude)
        if self.where == "gradient":
            return
        self.optimizer(optimizer)
        self._waiting[optimizer] = [
            (weight, weight.means(weight.parameter))
            for weight in _weights(model, self.conv_only, self.exclude)
            if weight.parameter.grad is not None
        ]

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._take_off_decay(optimizer)
            return None

        def closure_and_trick() -> Any:  # noqa: ANN401
            loss = closure()  # only now are the gradients there
            self._take_off_decay(optimizer)
            return loss

        return args[:1], {**kwargs, "closure": closure_and_trick}

    @torch.no_grad()
    def _take_off_decay(self, optimizer: Optimizer) -> None:
        means = {weight.parameter: mean for weight, mean in self._waiting[optimizer]}
        self._waiting[optimizer] = []
        for group in optimizer.param_groups:
            decay = group.get("weight_decay", 0.0)
            # the decay is added after the gradient's sign is turned
            factor = decay if group.get("maximize", False) else -decay
            for parameter in group["params"] if decay else ():
                if parameter in means and parameter.grad is not None:
                    parameter.grad.add_(means[parameter], alpha=factor)

    @torch.no_grad()
    def _restore_means(self, optimizer: Optimizer, *_: object) -> None:
        for weight, means in self._waiting[optimizer]:
            weight.parameter.add_(means - weight.means(weight.parameter))
        self._waiting[optimizer] = []


def _require_coupled(optimizer: Optimizer) -> None:
    # by exact type: a subclass (AdamW is one of Adam) may decay otherwise
    known = any(type(optimizer) is getattr(torch.optim, name) for name in _COUPLED)
    for group in optimizer.param_groups:
        decay = group.get("weight_decay", 0.0)
        if decay and (not known or group.get("decoupled_weight_decay", False)):
            raise ValueError(
                "Centralization.where=gradient_and_decay needs a weight decay that is added to the "
                f"gradient, as in SGD or Adam, got {decay} in {type(optimizer).__name__}, which is "
                "decoupled or unknown. Set where=update or where=gradient."
            )
