"""Stochastic weight averaging (SWA): evaluate the equal average of the last epochs' weights.

Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018,
https://arxiv.org/abs/1803.05407, algorithm 1; their code: https://github.com/timgaripov/swa.

Where we differ: epochs count from the beginning of training, those of the authors' code from the
start of the average. The rate is the scheduler's, or by `rate` constant from the start on; the
authors' falls to it linearly before. A cyclic rate is that of `WarmRestarts(T_mult=1)`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, final

from torch import Tensor, nn

from tricks.averaging import State, average_, recompute_batch_norm_, swap_state
from tricks.trick import Time, Trick, require_one_of

Unit = Literal["epoch", "update"]


def equal_average_(averages: State, model: nn.Module, count: int) -> None:
    """Take a model's weights into the equal average of all that were taken, in place.

        a_n = a_(n - 1) + (w_n - a_(n - 1)) / n

    as `torch.optim.swa_utils.AveragedModel` does. The statistics of batch norm are to be computed
    anew, by `recompute_batch_norm_`: their average is that of other weights' maps.

    Args:
        averages: By name, as `average_` takes them; {} before the first.
        model: The model, such as at the end of an epoch.
        count: n, these included.

    Raises:
        ValueError: If the count is below 1, or the averages are of another model.

    >>> model, averages = nn.Linear(1, 1, bias=False), {}
    >>> for count, weight in enumerate((3.0, 6.0), start=1):
    ...     _ = nn.init.constant_(model.weight, weight)
    ...     equal_average_(averages, model, count)
    >>> averages["weight"]
    tensor([[4.5000]])
    """
    if count < 1:
        raise ValueError(f"count must be >= 1, these weights included, got {count}.")
    average_(averages, model, 1 / count)


@final
@dataclass(eq=False)
class Swa(Trick):
    """Evaluate with the equal average of the weights at ends of epochs (`evaluation`).

    From the share `start` of the training on, at its very update too, the weights are taken at
    the end of every `every`-th epoch, counted from the beginning of training. The statistics of
    batch norm are computed anew at each evaluation, in a pass over the training inputs. Until the
    first weights are taken, the model is evaluated as it is.

    Reports `averaged_share`: 1 if the update's weights were taken, 0 if not.

    Attributes:
        start: The share of the training after which the average begins, >= 0 and < 1.
        every: How far apart the weights are that are taken, > 0, in `unit`.
        unit: What `every` counts: `epoch` or `update`.
        rate: The factor on the base learning rate from the start on, > 0; None for the
            scheduler's.

    Raises:
        ValueError: If a value is out of its range; in `evaluation`, before the first update.

    >>> model, swa = nn.Linear(1, 1, bias=False), Swa(start=0.5)
    >>> for epoch, weight in enumerate((1.0, 3.0, 4.0, 8.0), start=1):
    ...     _ = nn.init.constant_(model.weight, weight)
    ...     swa.weights(model, Time(epoch, updates_per_epoch=1, updates=4))
    >>> with swa.evaluation(model, inputs=[]):
    ...     print(model.weight.item())
    5.0
    """

    after: ClassVar[tuple[str, ...]] = ("WarmRestarts", "Trapezoid", "WarmUp")
    replaces: ClassVar[tuple[str, ...]] = ("evaluation",)
    activity: ClassVar[str | None] = "averaged_share"

    start: float = 0.75
    every: float = 1.0
    unit: Unit = "epoch"
    rate: float | None = None

    def __post_init__(self) -> None:
        for name, rule, holds in (
            ("start", "from 0 to < 1, a share of the training", 0 <= self.start < 1),
            ("every", f"> 0 ({self.unit}s) and finite", 0 < self.every < math.inf),
            ("rate", "> 0 and finite, or None", self.rate is None or 0 < self.rate < math.inf),
        ):
            if not holds:
                raise ValueError(f"Swa.{name} must be {rule}, got {getattr(self, name)}.")
        require_one_of("Swa.unit", self.unit, Unit)
        self._begin()

    def _begin(self) -> None:
        self._averages: State = {}
        self._count = 0  # of the weights that were taken
        self._last, self._taken = 0, False  # the last update, and whether its weights were

    def model(self, model: nn.Module) -> nn.Module:
        """Begin a training, with no average; the model stays as it is."""
        self._begin()
        return model

    def schedule(self, factor: float, time: Time) -> float:
        """Give back the constant rate from the start on, if there is one."""
        begun = time.update >= _exact(self.start) * time.updates
        return self.rate if begun and self.rate is not None else factor

    def weights(self, model: nn.Module, time: Time) -> None:
        """Take the weights into the average where it is time; they stay as they are."""
        period, before = self._period(time.updates_per_epoch), self._last
        ended = time.update // period > before // period  # also where that update was left out
        self._taken = ended and time.update >= _exact(self.start) * time.updates
        self._last = time.update
        if self._taken:
            self._count += 1
            equal_average_(self._averages, model, self._count)

    def _period(self, updates_per_epoch: int) -> Fraction:
        """In updates."""
        return _exact(self.every) * (updates_per_epoch if self.unit == "epoch" else 1)

    @contextmanager
    def evaluation(self, model: nn.Module, inputs: Iterable[Tensor]) -> Iterator[None]:
        """Put the average in place, once there is one."""
        if not self._last:
            raise ValueError(
                "Swa has no average before its first update. Call its `weights` after each step, "
                "and evaluate then."
            )
        if not self._count:
            yield
            return
        with swap_state(model, self._averages):
            recompute_batch_norm_(model, inputs)
            yield

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:
        """Tell how many weights are averaged, and what is evaluated before.

        >>> Swa().caveats(updates=40, updates_per_epoch=10)
        ['the average is of 2 sets of weights, the first after epoch 3 of 4; before, the model is
        evaluated as it is.']
        """
        period, start = self._period(updates_per_epoch), _exact(self.start) * updates
        ends = [math.ceil(n * period) for n in range(1, updates // period + 1)]
        taken = sorted({end for end in ends if end >= start})
        if not taken:
            return ["no weights are averaged in so short a training; lower every, or start."]
        first, whole = (f"{u / updates_per_epoch:.4g}" for u in (taken[0], updates))
        if len(taken) == 1:
            sets = f"is of one set of weights alone, after epoch {first} of {whole}"
            return [f"the average {sets}; lower every, or start."]
        sets = f"is of {len(taken)} sets of weights, the first after epoch {first} of {whole}"
        return [f"the average {sets}; before, the model is evaluated as it is."]

    def report(self) -> dict[str, float]:
        """Give back whether the last update's weights were taken."""
        return {"averaged_share": float(self._taken)} if self._last else {}

    def state_dict(self) -> dict[str, Any]:
        """Give back the average, of how many weights it is, and the last update."""
        return {"averages": dict(self._averages), "count": self._count, "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, copied."""
        super().load_state_dict(state)
        self._averages = {name: each.clone() for name, each in state["averages"].items()}
        self._count, self._last = state["count"], state["last"]


def _exact(number: float) -> Fraction:
    """The number that a float is written as: three times .1 is .3."""
    return Fraction(str(number))
