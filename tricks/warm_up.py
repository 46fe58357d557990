"""A warm-up of the learning rate, as a factor on any schedule.

Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, section 2.2,
https://arxiv.org/abs/1706.02677.

Where we differ from a warm-up with a scheduler behind it: the schedule runs from the first update
on, and the warm-up multiplies it. So it takes no time off the schedule, and no rate jumps.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, final

from tricks.trick import Time, Trick, require_one_of

Unit = Literal["epoch", "update"]


def warm_up(t: float | Fraction, length: float, start: float = 0.01) -> float:
    """Give back the factor of a linear warm-up at time t.

        start + (1 - start) * t / length    for t < length, and exactly 1 from then on

    Args:
        t: The time >= 0, in the unit of the length.
        length: How long the warm-up is, > 0.
        start: The factor at t = 0, 0 to 1. At 0 the first update changes nothing.

    Raises:
        ValueError: If an argument is out of its range.

    >>> [round(warm_up(t, length=4, start=0.2), 3) for t in range(6)]
    [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    """
    for name, value, rule, holds in (
        ("t", t, ">= 0", t >= 0),
        ("length", length, "> 0 and finite", 0 < length < math.inf),
        ("start", start, "from 0 to 1", 0 <= start <= 1),
    ):
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {value}.")
    if t >= Fraction(str(length)):
        return 1.0
    share = float(t / Fraction(str(length)))
    return start + (1 - start) * share


@final
@dataclass(frozen=True)
class WarmUp(Trick):
    """Multiply the factor of the scheduler, or of the trick in its place, by that of a warm-up.

    See `warm_up` (`schedule`).

    Attributes:
        length: How long the warm-up is, > 0.
        start: The factor at the first update, 0 to 1.
        unit: What length counts: `epoch` or `update`.

    Raises:
        ValueError: If a value is out of its range.
    """

    after: ClassVar[tuple[str, ...]] = ("WarmRestarts", "Trapezoid", "ScheduleFree")

    length: float = 5.0
    start: float = 0.01
    unit: Unit = "epoch"

    def __post_init__(self) -> None:
        require_one_of("WarmUp.unit", self.unit, Unit)
        try:
            warm_up(0, self.length, self.start)
        except ValueError as error:
            raise ValueError(f"WarmUp.{error}") from None

    def schedule(self, factor: float, time: Time) -> float:
        """Give back the factor, times that of the warm-up."""
        epochs = Fraction(time.update, time.updates_per_epoch)
        t = time.update if self.unit == "update" else epochs
        return factor * warm_up(t, self.length, self.start)

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:
        """Tell where the training is over before the warm-up is.

        >>> WarmUp(length=5).caveats(updates=30, updates_per_epoch=10)
        ['training ends within the warm-up of 5 epochs, after 3.']
        """
        t = updates if self.unit == "update" else Fraction(updates, updates_per_epoch)
        if t >= Fraction(str(self.length)):
            return []
        unit = f"{self.unit}{'' if self.length == 1 else 's'}"
        done = f"{float(t):g}"
        return [f"training ends within the warm-up of {self.length:g} {unit}, after {done}."]
