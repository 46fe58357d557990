"""The gradients of an update: which there are, their norm, and a norm that is not finite."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

NotFinite = Literal["error", "skip"]


def check_gradients_(
    parameters: Tensor | Iterable[Tensor], not_finite: NotFinite = "error"
) -> Tensor:
    """Give back the gradients' total 2-norm, and stop what is not finite before it is written.

    A norm that is infinite or not a number raises (`error`), or every gradient is dropped, to None
    (`skip`): then the optimizer's step changes neither weights nor its own state, and the norm says
    that it was left out. Call it on the true gradients, accumulated, averaged over ranks and
    unscaled, before the tricks. A float16 `GradScaler` finds its scale by overflows: give `skip`.

    Args:
        parameters: The parameters, or one; those without a gradient are passed over.
        not_finite: `error` or `skip`.

    Raises:
        ValueError: If `not_finite` is neither.
        FloatingPointError: If the norm is not finite, and that is an error. No gradient is changed.

    >>> import torch
    >>> weight = torch.ones(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, float("nan")])
    >>> check_gradients_([weight], "skip"), weight.grad
    (tensor(nan), None)
    """
    if not_finite not in get_args(NotFinite):
        raise ValueError(f"not_finite must be error or skip, got {not_finite!r}.")
    parameters = with_gradients(parameters)
    norm = norm_of(parameters)
    if not norm.isfinite():
        if not_finite == "error":
            raise FloatingPointError(
                f"The norm of the gradients is {norm.item()}, not finite. Lower the learning rate, "
                "or skip such updates by not_finite='skip', as a GradScaler needs."
            )
        for parameter in parameters:
            parameter.grad = None
    return norm


def parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    """Run through the parameters of all groups."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def with_gradients(parameters: Tensor | Iterable[Tensor] | nn.Module) -> list[Tensor]:
    """List the parameters that have a gradient."""
    if isinstance(parameters, nn.Module):
        raise TypeError("parameters must be tensors, got a module. Write model.parameters().")
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p for p in given if p.grad is not None]


def norm_of(parameters: Sequence[Tensor], order: float = 2.0) -> Tensor:
    """Give back the norm of the parameters' gradients, as one vector."""
    return get_total_norm([p.grad for p in parameters if p.grad is not None], order)
