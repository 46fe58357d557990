"""The gradients of an update: which there are, their norm, and what is not finite."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

NotFinite = Literal["error", "skip"]
HALF = (torch.float16, torch.bfloat16)


def check_gradients_(
    parameters: Tensor | Iterable[Tensor],
    not_finite: NotFinite = "error",
    loss: Tensor | float | None = None,
) -> Tensor:
    """Give back the gradients' total 2-norm, and stop what is not finite before it is written.

    A norm that is infinite or not a number raises (`error`), or every gradient is dropped, to None
    (`skip`): then the optimizer's step changes neither weights nor its own state, and the norm says
    that it was left out. Call it on the true gradients, accumulated, averaged over ranks and
    unscaled, before the tricks. A float16 `GradScaler` finds its scale by overflows: give `skip`.

    The loss counts too, if given: it may be nan although every gradient is finite, as that of an
    image whose labels are all ignored, whose gradients are 0. The norm given back is then nan.

    Args:
        parameters: The parameters, or one; those without a gradient are skipped.
        not_finite: `error` or `skip`.
        loss: The mean loss of the whole update.

    Returns:
        The norm; of float16 and bfloat16 gradients in float32, as it may be out of their range.

    Raises:
        ValueError: If `not_finite` is neither.
        FloatingPointError: If the norm or the loss is not finite, and that is an error. No gradient
            is changed.

    >>> import torch
    >>> weight = torch.ones(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, float("nan")])
    >>> check_gradients_([weight], "skip"), weight.grad
    (tensor(nan), None)
    """
    if not_finite not in get_args(NotFinite):
        raise ValueError(f"not_finite must be error or skip, got {not_finite!r}.")
    parameters = with_gradients(parameters)
    norm = value = norm_of(parameters)
    what = "norm of the gradients"
    mean = torch.as_tensor(0.0 if loss is None else loss).detach()
    if not mean.isfinite():
        what, value, norm = "loss", mean, norm * math.nan
    if not norm.isfinite():
        if not_finite == "error":
            raise FloatingPointError(
                f"The {what} is {value.item()}, not finite. Lower the learning rate, "
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


@torch.no_grad()
def norm_of(parameters: Sequence[Tensor]) -> Tensor:
    """Give back the 2-norm of the parameters' gradients, as one vector.

    Squares may be out of the range of numbers that are not: the norm of float16 and bfloat16 is
    computed in float32, and one that is not finite again in float64. On a card, which no norm waits
    for, each is computed in float64 at once.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients and gradients[0].device.type not in ("cpu", "mps"):  # mps has no float64
        exact = any(g.dtype == torch.float64 for g in gradients)
        return _norm_in_float64(gradients).to(torch.float64 if exact else torch.float32)
    norm = _norm(gradients)
    if math.isfinite(norm.item()):
        return norm
    wide = get_total_norm([_wide_norm(g) for g in gradients])
    return wide if wide.isfinite() else norm


def _norm(gradients: list[Tensor]) -> Tensor:
    """As `get_total_norm`; without its sorting, where there is one kind."""
    kinds = {(g.dtype, g.device) for g in gradients}
    if len(kinds) == 1:
        dtype = torch.float32 if gradients[0].dtype in HALF else None
        norm: Tensor = vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0, dtype=dtype)))
        return norm
    halves = [g for g in gradients if g.dtype in HALF]
    norms = torch._foreach_norm(halves, 2.0, dtype=torch.float32) if halves else ()
    return get_total_norm([*(g for g in gradients if g.dtype not in HALF), *norms])


def _norm_in_float64(gradients: list[Tensor]) -> Tensor:
    norms = torch._foreach_norm(gradients, 2.0, dtype=torch.float64)
    if len({g.device for g in gradients}) > 1:
        return get_total_norm(norms)
    norm: Tensor = vector_norm(torch.stack(norms))
    return norm


def multiply_(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply gradients by a number that is on a device, in place, without waiting for it."""
    for device in {g.device for g in gradients}:
        torch._foreach_mul_([g for g in gradients if g.device == device], factor.to(device))


def _wide_norm(tensor: Tensor) -> Tensor:
    norm: Tensor = vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float64))
    return norm
