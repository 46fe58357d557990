"""Gradient centralization: take each output unit's mean off the gradient of its weights.

Yong et al., "Gradient Centralization: A New Optimization Technique for Deep Neural Networks",
https://arxiv.org/abs/2004.01461; the authors' code is
https://github.com/Yonghongwei/Gradient-Centralization.

Where we differ from the authors' code: weights are chosen by the module that holds them, not by
their number of dimensions, so embeddings, norms and scales are never touched; a unit of a
transposed convolution is an output channel; a unit with one weight is skipped, as its gradient
would be zero for ever; and `conv_only` takes in one-dimensional convolutions.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tricks.gradients import HALF
from tricks.layers import CONVOLUTIONS, TRANSPOSED, is_weight, listed, parameters_named
from tricks.trick import Trick, require_one_of
from tricks.weights import EMBEDDINGS, KINDS, kind_of, trained_weights

Where = Literal["gradient", "gradient_and_decay", "update"]


@torch.no_grad()
def centralize_(module: nn.Module, conv_only: bool = False, exclude: Sequence[str] = ()) -> None:
    """Take its mean over each output unit's weights off each weight's gradient, in place.

    The gradient g of a unit's M weights becomes g - mean(g). A unit is an output channel of a
    convolution (of any dimension, grouped, transposed), an output of a linear layer, or a query,
    key or value of `nn.MultiheadAttention`. Biases, norms, embeddings, and units of one weight (M =
    1) keep their gradient, and so do the weights of all other modules, recurrent ones for example:
    `Centralization.model` names them. A shared weight counts once. Of a weight that is computed,
    what it is computed from counts: the parameters under a parametrization, `weight_orig` of
    pruning and of the old spectral normalization, and of weight normalization the direction alone.

    Args:
        module: The model, with its gradients.
        conv_only: Skip linear layers.
        exclude: Names of modules and parameters to skip, with all that they hold.

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
        dtype = torch.float32 if tensor.dtype in HALF else None
        if self.groups is None:
            return tensor.mean(tuple(range(1, tensor.ndim)), keepdim=True, dtype=dtype)
        grouped = tensor.reshape(self.groups, -1, *tensor.shape[1:])
        means = grouped.mean((1, *range(3, grouped.ndim)), keepdim=True, dtype=dtype).squeeze(1)
        return means.repeat_interleave(grouped.shape[1], dim=0)


def _weights(model: nn.Module, conv_only: bool, exclude: Sequence[str]) -> Iterator[_Weight]:
    passed = set(parameters_named(model, exclude))
    for module in model.modules():
        if isinstance(module, EMBEDDINGS):
            passed.update(module.parameters())  # also where a linear layer shares them
    for module in model.modules():
        kind = kind_of(module)
        if not issubclass(kind, CONVOLUTIONS if conv_only else KINDS):
            continue
        groups = getattr(module, "groups", None) if issubclass(kind, TRANSPOSED) else None
        for _, parameter in trained_weights(module):
            weight = _Weight(parameter, groups)
            if parameter not in passed and parameter.ndim > 1 and parameter.numel() > weight.units:
                passed.add(parameter)
                yield weight


def _passed_over(model: nn.Module, conv_only: bool, exclude: Sequence[str]) -> list[str]:
    """Name the weights of units of several numbers that are skipped without being excluded."""
    known = {weight.parameter for weight in _weights(model, conv_only=False, exclude=())}
    known.update(parameters_named(model, exclude))
    kinds = (*EMBEDDINGS, nn.LayerNorm, *(KINDS if conv_only else ()))
    for module in model.modules():
        if issubclass(kind_of(module), kinds):
            known.update(module.parameters())
    each = ((name, p) for name, p in model.named_parameters() if p not in known)
    return [
        name
        for name, p in each
        if is_weight(p) and p.requires_grad and not name.endswith(("_g", ".original0"))
    ]


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
        conv_only: Skip linear layers.
        exclude: Names of modules and parameters to skip, with all that they hold.

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

    after: ClassVar[tuple[str, ...]] = ("Muon", "ScheduleFree")

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
        """Refuse a model in which there is nothing to centralize; warn of skipped weights."""
        if not any(_weights(model, self.conv_only, self.exclude)):
            raise ValueError(
                f"Centralization found nothing to centralize in {type(model).__name__}: it has no "
                "convolution or linear layer beside those that conv_only and exclude leave out. "
                "Change these, or switch the trick off."
            )
        if left := _passed_over(model, self.conv_only, self.exclude):
            warnings.warn(
                f"Centralization skips {listed(left)} of {type(model).__name__}: of no "
                "convolution, linear layer or attention. Name them in exclude if that is meant.",
                stacklevel=2,
            )
        return model

    def optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:  # noqa: ARG002
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
        self.optimizer(optimizer, model)
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
