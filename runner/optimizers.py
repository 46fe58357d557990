"""The parameter groups of an optimizer, and whether the training loop can use it."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from runner.errors import UserError
from runner.texts import reason
from tricks import norms_and_biases


def parameter_groups(model: nn.Module, decay_norms_and_biases: bool) -> list[dict[str, Any]]:
    """Split a model's parameters into those with the optimizer's weight decay and those without.

    Without decay are those that `tricks.norms_and_biases` gives.

    Args:
        model: The model; a parameter that modules share comes once.
        decay_norms_and_biases: Whether to keep all parameters in one group, as
            `model.parameters()` returns them.

    Returns:
        Groups for any torch optimizer, each in the order of the model.

    >>> groups = parameter_groups(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), False)
    >>> [(len(group["params"]), group.get("weight_decay")) for group in groups]
    [(1, None), (3, 0.0)]
    """
    parameters = list(model.parameters())
    if decay_norms_and_biases:
        return [{"params": parameters}]
    exempt = norms_and_biases(model)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p not in exempt]},
        {"params": [p for p in parameters if p in exempt], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


SAME_BITS = ("SGD", "Adam", "AdamW", "Adamax", "Adagrad", "Adadelta", "RMSprop")
"""Optimizers of torch whose steps on a CPU are the same to the bit, taken together or singly."""

TOGETHER = 2**20
"""So many numbers fit into a processor's own cache: of more, one parameter after another is read
into it once for all that a step does, which is faster."""


def step_together_(optimizer: Optimizer) -> None:
    """Let the step of a small network on a CPU take all parameters at once, to the same bits.

    It is torch's `foreach`, its default on a card: a small step costs calls more than numbers. What
    the config sets itself stays. (torch's `fused` is faster still, but rounds otherwise.)
    """
    groups = optimizer.param_groups
    parameters = [p for group in groups for p in group["params"]]
    known = any(type(optimizer) is getattr(torch.optim, name) for name in SAME_BITS)
    made = known and not any(map(is_lazy, parameters))
    small = made and sum(p.numel() for p in parameters) <= TOGETHER
    if not (small and all(p.device.type == "cpu" for p in parameters)):
        return
    for group in (optimizer.defaults, *groups):
        others = (group.get(key) for key in ("fused", "differentiable", "capturable"))
        if group.get("foreach") is None and not any(others) and type(group["lr"]) is float:
            group["foreach"] = True


def refuse_unusable(optimizer: Optimizer, make: Callable[[list[Tensor]], Optimizer]) -> None:
    """Refuse an optimizer that could not make an update, before the first one.

    Raises:
        UserError: If its step needs an argument, such as the closure of LBFGS; a group has no
            learning rate; or a class of torch fails at a step with a dense gradient.
    """
    name, instead = type(optimizer).__name__, "Use optimizer=sgd, optimizer=adamw or another class."
    starred = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    for argument in signature(optimizer.step).parameters.values():
        if argument.default is Parameter.empty and argument.kind not in starred:
            raise UserError(
                f"optimizer: {name} cannot be used, because its step needs a {argument.name}: the "
                f"loop computes each gradient once, and calls step(). {instead}"
            )
    if any("lr" not in group for group in optimizer.param_groups):
        raise UserError(
            f"optimizer: {name} cannot be used, because it has no learning rate, `lr`, for the "
            f"scheduler to set. {instead}"
        )
    if type(optimizer).__module__.startswith("torch."):
        like = optimizer.param_groups[0]["params"][0]
        weight = nn.Parameter(torch.zeros(2, 2, dtype=like.dtype, device=like.device))
        weight.grad = torch.ones_like(weight)
        try:
            make([weight]).step()
        except Exception as error:  # an option may not be for this device, or for this loop
            raise UserError(
                f"optimizer: {name} with these options cannot make a step: {reason(error)}. "
                f"{instead}"
            ) from error
