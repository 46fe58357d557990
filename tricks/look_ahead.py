"""Look-ahead: slow weights that move part of the way, every k updates, to where fast ones went.

Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019,
https://arxiv.org/abs/1907.08610, algorithm 1.

Where we differ from popular code: the slow weights are the first weights from the first update on.
Those of timm are set at the first synchronisation, which so does nothing: six steps of 1 with k=6
and alpha=.5 give 6, not 3. And the slow weights are evaluated, between synchronisations too.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

from torch import Tensor, nn
from torch.optim import Optimizer

from tricks.averaging import (
    State,
    copy_,
    copy_of,
    move_,
    recompute_batch_norm_,
    require_part,
    state_of,
    swap_state,
)
from tricks.trick import Time, Trick, require_one_of

BatchNorm = Literal["running", "recompute"]


def look_ahead_(slow: State, model: nn.Module, alpha: float = 0.5) -> None:
    """Synchronise slow and fast weights, both in place; call it after every k-th update.

        slow += alpha * (fast - slow);  fast = slow

    Args:
        slow: The slow weights by name; the first are those of before the first update,
            `{name: weight.detach().clone() for name, weight in model.named_parameters()}`.
        model: The model with the fast weights. Its buffers stay as they are.
        alpha: How far the slow weights move, from 0 to 1.

    Raises:
        ValueError: If alpha is out of its range, or there are no slow weights of this model.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> slow = {"weight": nn.init.zeros_(model.weight).detach().clone()}
    >>> _ = nn.init.constant_(model.weight, 6.0)  # after six steps of 1
    >>> look_ahead_(slow, model, alpha=0.5)
    >>> model.weight.item(), slow["weight"].item()
    (3.0, 3.0)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}.")
    fast = state_of(model, buffers=False)
    require_part(slow, fast, whole=True)
    move_(slow, fast, alpha)
    copy_(fast, slow)


@final
@dataclass(eq=False)
class LookAhead(Trick):
    """Synchronise slow and fast weights every k updates (`weights`), and evaluate the slow ones.

    As `look_ahead_`. The slow weights are the first ones when `optimizer` is called. What the
    optimizer keeps, as its momentum, goes on through a synchronisation, as by default in the
    paper. An update that is left out is not counted. `power` lets alpha fall from 1 to its value
    over the training, 1 - (1 - alpha) * (t / T)^power: at k=5, alpha=.226 and power=3 it is the
    schedule of airbench (https://github.com/KellerJordan/cifar10-airbench, legacy/airbench94.py).

    The statistics of batch norm are the running ones of training, as in the authors' code and in
    timm: means over tens of updates around the slow weights. With `recompute` they are computed
    anew, in a pass over the training inputs at each evaluation.

    Attributes:
        k: Updates from one synchronisation to the next, >= 1.
        alpha: How far the slow weights move to the fast ones, > 0 and <= 1.
        power: How late alpha falls to its value, >= 0; 0 for a constant alpha.
        batch_norm: Its statistics: `running` or `recompute`.

    Raises:
        ValueError: If a value is out of its range; in `weights`, if the training has less than k
            updates, or the slow weights are not known; in `evaluation`, before the first update.

    >>> from torch.optim import SGD
    >>> model, look_ahead = nn.Linear(1, 1, bias=False), LookAhead(k=2)
    >>> _ = nn.init.zeros_(model.weight)
    >>> optimizer = look_ahead.optimizer(SGD(model.parameters()), model)
    >>> for update in (1, 2):
    ...     _ = model.weight.data.add_(1.0)  # a step of the optimizer
    ...     look_ahead.weights(model, Time(update, updates_per_epoch=2, updates=2))
    >>> model.weight.item()
    1.0
    """

    replaces: ClassVar[tuple[str, ...]] = ("evaluation",)

    k: int = 6
    alpha: float = 0.5
    power: float = 0.0
    batch_norm: BatchNorm = "running"

    def __post_init__(self) -> None:
        for name, rule, holds in (
            ("k", ">= 1 (updates)", self.k >= 1),
            ("alpha", "> 0 and <= 1", 0 < self.alpha <= 1),
            ("power", ">= 0 and finite", 0 <= self.power < math.inf),
        ):
            if not holds:
                raise ValueError(f"LookAhead.{name} must be {rule}, got {getattr(self, name)}.")
        require_one_of("LookAhead.batch_norm", self.batch_norm, BatchNorm)
        self._begin()

    def _begin(self) -> None:
        self._slow: State = {}
        self._updates = 0

    def model(self, model: nn.Module) -> nn.Module:
        """Begin a training, with no slow weights; the model stays as it is."""
        self._begin()
        return model

    def optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        """Take the first weights for the slow ones; the optimizer stays as it is."""
        self._slow = copy_of(state_of(model, buffers=False))
        return optimizer

    def weights(self, model: nn.Module, time: Time) -> None:
        """Synchronise slow and fast weights, every k updates."""
        if not self._slow:
            raise ValueError(
                "LookAhead does not know the weights before the first update. Call its "
                "`optimizer(optimizer, model)` before training."
            )
        if time.updates < self.k:
            raise ValueError(
                f"LookAhead.k must be <= {time.updates}, the updates of the training, got "
                f"{self.k}: the slow weights would stay the first ones. Lower it, or train longer."
            )
        self._updates += 1
        if self._updates % self.k == 0:
            fallen = min(1.0, time.update / time.updates) ** self.power
            look_ahead_(self._slow, model, 1 - (1 - self.alpha) * fallen)

    @contextmanager
    def evaluation(self, model: nn.Module, inputs: Iterable[Tensor]) -> Iterator[None]:
        """Put the slow weights in place."""
        if not self._updates:
            raise ValueError(
                "LookAhead has no slow weights but the first before its first update. Call its "
                "`weights` after each step, and evaluate then."
            )
        with swap_state(model, self._slow):
            if self.batch_norm == "recompute":
                recompute_batch_norm_(model, inputs)
            yield

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:
        """Tell of updates that no synchronisation follows, and of an epoch without any.

        >>> LookAhead(k=6).caveats(updates=20, updates_per_epoch=5)
        ['the slow weights are the first ones, untrained, up to update 6, but an epoch is of 5
        updates.', 'the last 2 updates are not evaluated; a training of 18 or 24 ends with a
        synchronisation.']
        """
        caveats = []
        if updates_per_epoch < self.k:
            caveats.append(
                f"the slow weights are the first ones, untrained, up to update {self.k}, but an "
                f"epoch is of {updates_per_epoch} updates."
            )
        if left := updates % self.k:
            caveats.append(
                f"the last {left} updates are not evaluated; a training of {updates - left} or "
                f"{updates - left + self.k} ends with a synchronisation."
            )
        return caveats

    def state_dict(self) -> dict[str, Any]:
        """Give back the slow weights, and the count of updates."""
        return {"slow": dict(self._slow), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, copied."""
        super().load_state_dict(state)
        self._slow = {name: each.clone() for name, each in state["slow"].items()}
        self._updates = state["updates"]
