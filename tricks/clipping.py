"""Gradient clipping: by global norm, by value, per parameter, per unit, or by a quantile of norms.

Norm clipping: Pascanu et al., "On the difficulty of training recurrent neural networks",
https://arxiv.org/abs/1211.5063; why it helps: Zhang et al., https://arxiv.org/abs/1905.11881.
Adaptive clipping by unit: Brock et al., https://arxiv.org/abs/2102.06171.
By a quantile (AutoClip): Seetharaman et al., https://arxiv.org/abs/2007.14469.

Where we differ: the quantile is that of the earlier norms only (the paper's includes the present
one), of the last `history` of them, after a warm-up, and without those that are not finite.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from tricks.gradients import NotFinite, check_gradients_, norm_of, parameters_of, with_gradients
from tricks.trick import Trick, require_one_of

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
      dimension; a tensor of one dimension is one unit. Leave the classifier out, as the paper
      does;
    - `quantile`: as `norm`, at the `limit`-quantile of the norms in `history`, to which this one
      is then added; nothing is clipped while it is empty.

    An infinite limit only measures. Otherwise a norm that is not finite, by which torch would make
    gradients 0 or nan, is handled as in `check_gradients_`, and never enters the history.

    Args:
        parameters: The parameters, or one; those without a gradient are passed over.
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
        limit, by = _quantile(history, limit), "norm"
        _remember(history, norm)
    _clip_(parameters, norm, limit, by, eps)
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
def _clip_(
    parameters: Sequence[Tensor], norm: Tensor, limit: float, by: By, eps: float
) -> Tensor | bool:
    """Clip gradients whose total norm is known; give back whether any exceeded its bound."""
    if limit == math.inf or not parameters:
        return False
    if by == "norm":
        clip_grads_with_norm_(parameters, limit, norm)
        return ~(norm <= limit)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if by == "value":
        largest = get_total_norm(gradients, math.inf)
        clip_grad_value_(parameters, limit)
        return ~(largest <= limit)
    pairs = zip(parameters, gradients, strict=True)
    return torch.stack([_clip_one_(p, g, limit, by, eps, norm.dtype) for p, g in pairs]).any()


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
    factor = (bound / norms).clamp(max=1.0)  # a norm of 0 makes the ratio inf, and so 1
    if dtype != gradient.dtype:  # a factor without dimensions would be rounded to its type
        factor = factor.reshape(factor.shape or (1,) * gradient.ndim)
    gradient.mul_(factor)
    return ~(norms <= bound).all()


def _unit_norms(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    dims = tuple(range(1, tensor.ndim)) or None
    norms: Tensor = vector_norm(tensor, dim=dims, keepdim=True, dtype=dtype)
    return norms


def _quantile(history: Sequence[float], share: float) -> float:
    """Give back the quantile, between neighbours by a straight line; infinity for no norms."""
    norms = torch.tensor(history, dtype=torch.float64)
    norms = norms[norms.isfinite()]  # a history of others may hold what is not
    return float(norms.quantile(share)) if len(norms) else math.inf


def _remember(history: MutableSequence[float], norm: Tensor) -> None:
    # one norm that is not finite would make high quantiles infinite for as long as it is kept
    if math.isfinite(number := norm.item()):
        history.append(number)


_READ_BY: dict[By, tuple[str, ...]] = {
    "norm": ("max_norm",),
    "value": ("max_value",),
    "parameter": ("max_parameter_norm",),
    "unit": ("factor", "eps"),
    "quantile": ("quantile", "history", "warmup"),
}


@final
@dataclass(eq=False)
class Clipping(Trick):
    """Clip the gradients once an update (`gradients`), those of the optimizer's parameters.

    Each way to clip has parameters of its own; one that the chosen way would not read must stay
    at its default. By `unit`, the last `nn.Linear` of the model, the classifier, is left out. By
    `quantile`, the norms so far are the trick's state.

    Reports the `norm` before clipping, `clipped_share` (1 if any gradient exceeded its bound, 0
    if none did), and by `quantile` the `threshold`, as soon as there is one. It clips
    gradients that are not finite as torch does: in your own loop, call `check_gradients_` first.

    Attributes:
        by: What is bounded: `norm`, `value`, `parameter`, `unit` or `quantile`; see
            `clip_gradients_`.
        max_norm: By `norm`: the bound on the norm of all gradients together, > 0.
        max_value: By `value`: the bound on each number's size, > 0.
        max_parameter_norm: By `parameter`: the bound on the norm of each tensor's gradient, > 0.
        factor: By `unit`: the bound on each unit's norm, as a share of its weights' norm, > 0.
        eps: By `unit`: the least norm that a unit's weights count as, > 0.
        quantile: By `quantile`: the share of the norms that stay below the bound, 0 to 1.
        history: By `quantile`: how many of the last norms count, in updates.
        warmup: By `quantile`: the updates before clipping begins, from 1 to `history`.

    Raises:
        ValueError: If a value is out of its range, or is set and would not be read.

    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters())
    >>> loss = model(torch.tensor([[3.0, 4.0]])).sum()
    >>> loss.backward()
    >>> clipping = Clipping(max_norm=0.5)
    >>> clipping.gradients(model, optimizer, loss)
    >>> clipping.report()["clipped_share"], round(nn.utils.get_total_norm(
    ...     [p.grad for p in model.parameters()]).item(), 3)
    (1.0, 0.5)
    """

    after: ClassVar[tuple[str, ...]] = ("Flooding", "Centralization")
    activity: ClassVar[str | None] = "clipped_share"

    by: By = "norm"
    max_norm: float = 1.0
    max_value: float = 0.01
    max_parameter_norm: float = 0.1
    factor: float = 0.01
    eps: float = 1e-3
    quantile: float = 0.9
    history: int = 1000
    warmup: int = 20

    def __post_init__(self) -> None:
        require_one_of("Clipping.by", self.by, By)
        for name in ("max_norm", "max_value", "max_parameter_norm", "factor"):
            self._require(getattr(self, name) > 0, name, "> 0", " Use .inf to measure only.")
        self._require(0 < self.eps < math.inf, "eps", "> 0 and finite")
        self._require(0 <= self.quantile <= 1, "quantile", "from 0 to 1")
        self._require(self.history >= 1, "history", ">= 1")
        self._require(1 <= self.warmup <= self.history, "warmup", "from 1 to history")
        self._refuse_unread()
        self._begin()

    def _begin(self) -> None:
        self._norms = deque[float](maxlen=self.history)
        self._last: dict[str, float | Tensor] = {}  # what the last update has to report

    def model(self, model: nn.Module) -> nn.Module:
        """Begin a training, with no norms so far; the model stays as it is."""
        self._begin()
        return model

    def _require(self, holds: bool, name: str, rule: str, remedy: str = "") -> None:
        if not holds:
            raise ValueError(f"Clipping.{name} must be {rule}, got {getattr(self, name)}.{remedy}")

    def _refuse_unread(self) -> None:
        for by, names in _READ_BY.items():
            for name in names:
                value, default = getattr(self, name), getattr(Clipping, name)
                if by != self.by and value != default:
                    raise ValueError(
                        f"Clipping.{name} must stay {default} where by={self.by}, which does not "
                        f"read it, got {value}. Set by={by}, or "
                        f"{' and '.join(_READ_BY[self.by])} instead."
                    )

    def gradients(self, model: nn.Module, optimizer: Optimizer, loss: Tensor) -> None:  # noqa: ARG002
        """Clip the gradients that the optimizer is about to use."""
        self._last = {}
        parameters = with_gradients(parameters_of(optimizer))
        if not parameters:
            return  # dropped by check_gradients_: no norm, and none to remember
        norm, limit = norm_of(parameters), self._limit()
        if self.by == "unit":
            linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
            classifier = {p for last in linears[-1:] for p in last.parameters()}
            parameters = [p for p in parameters if p not in classifier]
        way: By = "norm" if self.by == "quantile" else self.by
        clipped = _clip_(parameters, norm, limit, way, self.eps)
        self._last = {"norm": norm, "clipped_share": clipped}
        if self.by == "quantile":
            self._last |= {"threshold": limit} if limit < math.inf else {}
            _remember(self._norms, norm)

    def _limit(self) -> float:
        if self.by != "quantile":
            return float(getattr(self, _READ_BY[self.by][0]))
        return math.inf if len(self._norms) < self.warmup else _quantile(self._norms, self.quantile)

    def report(self) -> dict[str, float]:
        """Give back the norm before the last clipping, and whether that changed anything."""
        return {name: float(number) for name, number in self._last.items()}

    def state_dict(self) -> dict[str, Any]:
        """Give back the norms so far, by `quantile`; nothing otherwise."""
        return {"norms": list(self._norms)} if self.by == "quantile" else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ValueError: If the state is that of another way to clip.
        """
        super().load_state_dict(state)
        self._norms = deque(state.get("norms", ()), maxlen=self.history)
