"""Clip gradients in place: the plain form of the trick, whose sources `tricks.clipping` names."""

import math
from collections import deque
from collections.abc import Iterable, MutableSequence, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.utils import clip_grad_value_, get_total_norm

from tricks.gradients import NotFinite, check_gradients_, multiply_, norm_of, with_gradients
from tricks.trick import require_one_of

By = Literal["norm", "value", "parameter", "unit", "quantile"]


def clip_gradients_(
    parameters: Tensor | Iterable[Tensor],
    limit: float = 1.0,
    by: By = "norm",
    *,
    eps: float = 1e-3,
    history: MutableSequence[float] | None = None,
    not_finite: NotFinite = "error",
) -> Tensor:
    """Clip the gradients in place and give back their total 2-norm before that, a scalar.

    With g all gradients as one vector, and all norms 2-norms:

    - `norm`: g * min(1, limit / (|g| + 1e-6)), as torch has it: a clipped norm is the limit, to
      the 1e-6;
    - `value`: each number of g cut to [-limit, limit];
    - `parameter`: each tensor's gradient by its own norm, g_p * min(1, limit / |g_p|);
    - `unit`: each output unit's gradient by the norm of its weights, g_u * min(1, limit *
      max(|w_u|, eps) / |g_u|); .01 is the paper's limit. A unit is an index of the first
      dimension; a tensor of one dimension is one unit. Leave the classifier's parameters out, as
      the paper does: `find_classifier` names it;
    - `quantile`: as `norm`, at the `limit`-quantile of the norms in `history`, to which this one
      is then added; nothing is clipped while it is empty.

    An infinite limit only measures. Otherwise a norm that is not finite, by which torch would make
    gradients 0 or nan, is handled as in `check_gradients_`, and never enters the history. Norms and
    factors of float16 and bfloat16 are computed in float32.

    Args:
        parameters: The parameters, or one; those without a gradient are skipped.
        limit: The bound, > 0; for `quantile` a share of the norms, from 0 to 1.
        by: What is bounded.
        eps: For `unit`: the least norm that weights count as, so that zero ones still learn.
        history: For `quantile`: the norms so far, to keep between calls and in checkpoints: a list,
            or a `deque(maxlen=1000)`.
        not_finite: `error` or `skip`, see `check_gradients_`; with a `GradScaler`, `skip`.

    Raises:
        ValueError: If the limit is out of its range, or `quantile` comes without a history.
        FloatingPointError: If the norm is not finite, and that is an error.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients_([weight], limit=1.0)
    tensor(5.)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    _check_limit(limit, by, history)
    parameters = with_gradients(parameters)
    if limit == math.inf:
        return norm_of(parameters)
    norm = check_gradients_(parameters, not_finite)
    if not with_gradients(parameters):
        return norm  # there were none, or they were dropped
    if by == "quantile" and history is not None:
        limit, by = quantile_of(history, limit), "norm"
        remember(history, norm)
    clip_(parameters, norm, limit, by, eps)
    return norm


def _check_limit(limit: float, by: By, history: MutableSequence[float] | None) -> None:
    require_one_of("by", by, By)
    if by == "quantile" and not 0 <= limit <= 1:
        raise ValueError(f"limit must be from 0 to 1 for by='quantile', got {limit}.")
    if by == "quantile" and history is None:
        raise ValueError(
            "clip_gradients_ by='quantile' needs a history. "
            "Make one list, history=[], and give it to every call."
        )
    if not limit > 0 and by != "quantile":
        raise ValueError(f"limit must be > 0, got {limit}. Use math.inf to measure only.")


@torch.no_grad()
def clip_(
    parameters: Sequence[Tensor], norm: Tensor, limit: float | Tensor, by: By, eps: float
) -> Tensor | bool:
    """Clip gradients whose total norm is known; give back whether any exceeded its bound.

    By `norm` the limit may be a tensor, on the device of the norm.
    """
    if isinstance(limit, Tensor):
        return _clip_by_norm_(parameters, norm, limit)
    if limit == math.inf or not parameters:
        return False
    gradients = [p.grad for p in parameters if p.grad is not None]
    if by == "norm":
        return _clip_by_norm_(parameters, norm, limit)
    if by == "value":
        largest = get_total_norm(gradients, math.inf)
        clip_grad_value_(parameters, limit)
        return ~(largest <= limit)
    pairs = zip(parameters, gradients, strict=True)
    return torch.stack([_clip_one_(p, g, limit, by, eps, norm.dtype) for p, g in pairs]).any()


def _clip_by_norm_(parameters: Sequence[Tensor], norm: Tensor, limit: float | Tensor) -> Tensor:
    """As torch's `clip_grads_with_norm_`, which reads the limit; other types by a wide factor."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    bound = limit.to(norm.dtype) if isinstance(limit, Tensor) else limit
    factor = (bound / (norm + 1e-6)).clamp(max=1.0)
    multiply_([g for g in gradients if g.dtype == norm.dtype], factor)
    for gradient in gradients:
        if gradient.dtype != norm.dtype:
            _scale_(gradient, factor.to(gradient.device))
    return ~(norm <= limit)


def _clip_one_(
    weight: Tensor, gradient: Tensor, limit: float, by: By, eps: float, dtype: torch.dtype
) -> Tensor:
    """Clip a gradient, computing in the total norm's type, in which no norm is out of range."""
    dtype = torch.promote_types(gradient.dtype, dtype)
    if by == "unit":
        norms = _unit_norms(gradient, dtype)
        bound: float | Tensor = limit * _unit_norms(weight, dtype).clamp(min=eps)
    else:
        norms, bound = vector_norm(gradient, dtype=dtype), limit
    # a norm of 0 makes the ratio inf, and so 1
    _scale_(gradient, (bound / norms).clamp(max=1.0))
    return ~(norms <= bound).all()


def _scale_(gradient: Tensor, factor: Tensor) -> None:
    if factor.dtype != gradient.dtype:  # without dimensions it would be rounded to that type
        factor = factor.reshape(factor.shape or (1,) * gradient.ndim)
    gradient.mul_(factor)


def _unit_norms(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    dims = tuple(range(1, tensor.ndim)) or None
    norms: Tensor = vector_norm(tensor, dim=dims, keepdim=True, dtype=dtype)
    return norms


def quantile_of(history: Sequence[float], share: float) -> float:
    """Give back the quantile, between neighbours by a straight line; infinity for no norms."""
    norms = torch.tensor(history, dtype=torch.float64)
    norms = norms[norms.isfinite()]  # a history of others may hold what is not
    return float(norms.quantile(share)) if len(norms) else math.inf


def remember(history: MutableSequence[float], norm: Tensor) -> None:
    """Add a norm to the history; one that is not finite would make high quantiles infinite."""
    if math.isfinite(number := norm.item()):
        history.append(number)


class Norms:
    """The last norms of gradients; on a card they stay there, and nothing waits for them.

    What is not finite is left out of them, but takes a place on a card.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int, norms: Iterable[float] = ()) -> None:
        self._most, self._here = most, deque(norms, maxlen=most)
        self._away: Tensor | None = None  # [most] on a card: a ring, nan where there is none yet
        self._count = 0  # of all that the ring has taken in

    def __len__(self) -> int:
        return len(self._here) if self._away is None else min(self._count, self._most)

    def add(self, norm: Tensor) -> None:
        """Take in a norm."""
        if norm.device.type == "cpu":
            remember(self._here, norm)
            return
        if self._away is None:
            ring = torch.full((self._most,), math.nan, dtype=torch.float64)
            ring[: len(self._here)] = torch.tensor(self._here, dtype=torch.float64)
            self._away, self._count = ring.to(norm.device), len(self._here)
        self._away[self._count % self._most] = torch.where(norm.isfinite(), norm, math.nan)
        self._count += 1

    def quantile(self, share: float) -> float | Tensor:
        """Give back the quantile, as `quantile_of`."""
        if self._away is None:
            return quantile_of(self._here, share)
        return self._away.nanquantile(share).nan_to_num(nan=math.inf)

    def tolist(self) -> list[float]:
        """Give back the norms, the oldest first."""
        if self._away is None:
            return [*self._here]
        first = self._count % self._most
        norms: list[float] = self._away.roll(-first).cpu().tolist()
        return [norm for norm in norms if math.isfinite(norm)]
