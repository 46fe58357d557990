"""Gradient clipping: by global norm, by value, per parameter, per unit, or by a quantile of norms.

Norm clipping: Pascanu et al., "On the difficulty of training recurrent neural networks",
https://arxiv.org/abs/1211.5063; why it helps: Zhang et al., https://arxiv.org/abs/1905.11881.
Adaptive clipping by unit: Brock et al., https://arxiv.org/abs/2102.06171.
By a quantile (AutoClip): Seetharaman et al., https://arxiv.org/abs/2007.14469.

Where we differ: the quantile is that of the earlier norms only (the paper's includes the present
one), of the last `history` of them, after a warm-up, and without those that are not finite.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor, nn
from torch.optim import Optimizer

from tricks.clip_gradients import By, Norms, clip_
from tricks.gradients import norm_of, parameters_of, with_gradients
from tricks.layers import LAYERS, find_classifier, is_weight, listed, parameters_named
from tricks.trick import Trick, number, require_one_of

_READ_BY: dict[By, tuple[str, ...]] = {
    "norm": ("max_norm",),
    "value": ("max_value",),
    "parameter": ("max_parameter_norm",),
    "unit": ("factor", "eps", "exclude"),
    "quantile": ("quantile", "history", "warmup"),
}


@final
@dataclass(eq=False)
class Clipping(Trick):
    """Clip the gradients once an update (`gradients`), those of the optimizer's parameters.

    Each way to clip has parameters of its own; one that the chosen way would not read must stay
    at its default. By `unit`, the classifier is left out, as `find_classifier` finds it and
    `caveats` says. By `quantile`, the norms so far are the trick's state.

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
        exclude: By `unit`: names of modules and parameters to skip, with all that they hold,
            instead of the classifier; () for nothing.
        quantile: By `quantile`: the share of the norms that stay below the bound, 0 to 1.
        history: By `quantile`: how many of the last norms count, in updates.
        warmup: By `quantile`: the updates before clipping begins, from 1 to `history`.

    Raises:
        ValueError: If a value is out of its range, or is set and would not be read; in `model` and
            `gradients`, if a name is unknown, or the classifier is and there is no `exclude`.

    >>> import torch
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
    takes_norm: ClassVar[bool] = True

    by: By = "norm"
    max_norm: float = 1.0
    max_value: float = 0.01
    max_parameter_norm: float = 0.1
    factor: float = 0.01
    eps: float = 1e-3
    exclude: tuple[str, ...] | None = None
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
        self._norms = Norms(self.history)
        self._last: dict[str, float | Tensor] = {}  # what the last update has to report
        self._left_out: Sequence[str] | None = None  # by unit, of the model, as soon as it is seen

    def model(self, model: nn.Module) -> nn.Module:
        """Begin a training, with no norms so far; the model stays as it is."""
        self._begin()
        if self.by == "unit":
            self._excluded(model)
        return model

    def _excluded(self, model: nn.Module) -> set[nn.Parameter]:
        if self._left_out is None:
            self._left_out = self._classifier(model) if self.exclude is None else self.exclude
        return set(parameters_named(model, self._left_out))

    def _classifier(self, model: nn.Module) -> Sequence[str]:
        try:
            return find_classifier(model)
        except ValueError as error:
            if not any(map(is_weight, model.parameters())):
                return ()
            layers = [n for n, module in model.named_modules() if isinstance(module, LAYERS)]
            raise ValueError(
                f"Clipping by unit excludes the classifier, but cannot find it: {error}. Set "
                f"exclude to its name, such as ['{layers[-1] if layers else 'fc'}'], or to [] to "
                "clip every layer."
            ) from error

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:  # noqa: ARG002
        """Name the layers that are excluded as the classifier, by `unit`."""
        if self.exclude is not None or self._left_out is None:
            return []
        left = listed(self._left_out) or "no layer"
        return [f"{left} is excluded as the classifier; exclude=[...] names others."]

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

    def gradients(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Tensor,  # noqa: ARG002
        norm: Tensor | None = None,
    ) -> None:
        """Clip the gradients that the optimizer is about to use; their norm may be known."""
        self._last = {}
        parameters = with_gradients(parameters_of(optimizer))
        if not parameters:
            return  # dropped by check_gradients_: no norm, and none to remember
        norm, limit = norm_of(parameters) if norm is None else norm, self._limit()
        if self.by == "unit":
            excluded = self._excluded(model)
            parameters = [p for p in parameters if p not in excluded]
        way: By = "norm" if self.by == "quantile" else self.by
        clipped = clip_(parameters, norm, limit, way, self.eps)
        self._last = {"norm": norm, "clipped_share": clipped}
        if self.by == "quantile":
            is_known = isinstance(limit, Tensor) or limit < math.inf
            self._last |= {"threshold": limit} if is_known else {}
            self._norms.add(norm)

    def _limit(self) -> float | Tensor:
        if self.by != "quantile":
            return float(getattr(self, _READ_BY[self.by][0]))
        begun = len(self._norms) >= self.warmup
        return self._norms.quantile(self.quantile) if begun else math.inf

    def report(self) -> dict[str, float | Tensor]:
        """Give back the norm before the last clipping, and whether that changed anything."""
        return {name: number(value) for name, value in self._last.items()}

    def state_dict(self) -> dict[str, Any]:
        """Give back the norms so far, by `quantile`; nothing otherwise."""
        return {"norms": self._norms.tolist()} if self.by == "quantile" else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ValueError: If the state is that of another way to clip.
        """
        super().load_state_dict(state)
        self._norms = Norms(self.history, state.get("norms", ()))
