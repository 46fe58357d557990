"""The trapezoid: a warm-up, a constant learning rate, and a decay at the end.

Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", 2024,
https://arxiv.org/abs/2405.18392, with the decay of 1 - sqrt; warm-up, stable, decay (WSD) of Hu et
al., "MiniCPM", 2024, https://arxiv.org/abs/2404.06395.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, final

from tricks.trick import Time, Trick, require_one_of

Shape = Literal["linear", "sqrt"]
Unit = Literal["share", "epoch", "update"]


def trapezoid(
    update: int,
    updates: int,
    warm_up: float | Fraction = 0,
    decay: float = 0.2,
    start: float = 0.01,
    final: float = 0.0,
    shape: Shape = "linear",
) -> float:
    """Give back the factor on the learning rate at an update.

    With N updates, a warm-up of W of them, a decay over the last D = decay * N, and u done:

        start + (1 - start) * u / W                      for u < W
        final + (1 - final) * (1 - p), p = (u - N + D) / D    for u > N - D; 1 - sqrt(p) for `sqrt`

    and exactly 1 between. Where the two overlap, the lower one counts. At u = N, after the last
    update, it is exactly `final`, as in torch's schedulers.

    Args:
        update: The updates done, >= 0; after the last one the factor stays.
        updates: Those of the whole training, > 0.
        warm_up: The length of the warm-up, in updates, >= 0; a fraction is exact.
        decay: The share of the training in which the rate decays, 0 to 1.
        start: The factor at the first update, 0 to 1.
        final: The factor at the end, 0 to 1.
        shape: `linear`, or `sqrt`: 1 - sqrt, which falls fast at first.

    Raises:
        ValueError: If an argument is out of its range.

    >>> [trapezoid(u, 8, warm_up=2, decay=0.5, start=0) for u in range(9)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if not (update >= 0 and updates > 0):
        raise ValueError(f"update must be >= 0 and updates > 0, got {update} and {updates}.")
    _check(warm_up, decay, start, final, shape)
    rise, length = _exact(warm_up), _exact(decay) * updates
    factor = 1.0
    if update < rise:
        share = float(update / rise)
        factor = share + (1 - share) * start
    if (left := updates - min(update, updates)) < length:
        done = float(1 - left / length)
        kept = 1 - (done if shape == "linear" else math.sqrt(done))
        factor = min(factor, kept + (1 - kept) * final)
    return factor


def _exact(number: float | Fraction) -> Fraction:
    return Fraction(str(number))  # a float counts as the number that it is written as


def _check(warm_up: float | Fraction, decay: float, start: float, final: float, shape: str) -> None:
    for name, value, rule, holds in (
        ("warm_up", warm_up, ">= 0 and finite", 0 <= warm_up < math.inf),
        ("decay", decay, "from 0 to 1", 0 <= decay <= 1),
        ("start", start, "from 0 to 1", 0 <= start <= 1),
        ("final", final, "from 0 to 1", 0 <= final <= 1),
    ):
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {value}.")
    require_one_of("shape", shape, Shape)


@final
@dataclass(frozen=True)
class Trapezoid(Trick):
    """Replace the scheduler by a warm-up, a constant rate, and a decay at the end (`schedule`).

    See `trapezoid`. The base learning rate of each parameter group is that of the constant part.

    Attributes:
        warm_up: The length of the warm-up, >= 0, as `unit` has it; 0 for none.
        decay: The share of the training in which the rate decays, 0 to 1.
        start: The factor at the first update, 0 to 1, if there is a warm-up.
        final: The factor after the last update, 0 to 1.
        shape: How it decays: `linear`, or `sqrt` for 1 - sqrt.
        unit: What warm_up counts: `share` of the training, `epoch` or `update`.

    Raises:
        ValueError: If a value is out of its range, or shares add up to more than 1.
    """

    replaces: ClassVar[tuple[str, ...]] = ("schedule",)

    warm_up: float = 0.1
    decay: float = 0.3
    start: float = 0.01
    final: float = 0.0
    shape: Shape = "linear"
    unit: Unit = "share"

    def __post_init__(self) -> None:
        require_one_of("Trapezoid.unit", self.unit, Unit)
        try:
            _check(self.warm_up, self.decay, self.start, self.final, self.shape)
        except ValueError as error:
            raise ValueError(f"Trapezoid.{error}") from None
        if self.unit == "share" and _exact(self.warm_up) + _exact(self.decay) > 1:
            raise ValueError(
                f"Trapezoid.warm_up and Trapezoid.decay must add up to 1 or less, got "
                f"{self.warm_up} and {self.decay}. Lower one, or count the warm-up by unit=epoch."
            )

    def schedule(self, factor: float, time: Time) -> float:  # noqa: ARG002
        """Give back the trapezoid's own factor, whatever the scheduler's."""
        rise = self._warm_up(time.updates, time.updates_per_epoch)
        shape = self.start, self.final, self.shape
        return trapezoid(time.update, time.updates, rise, self.decay, *shape)

    def _warm_up(self, updates: int, updates_per_epoch: int) -> Fraction:
        counts = {"share": updates, "epoch": updates_per_epoch, "update": 1}
        return _exact(self.warm_up) * counts[self.unit]

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:
        """Tell where the warm-up runs into the decay.

        >>> Trapezoid(warm_up=8, unit="epoch").caveats(updates=100, updates_per_epoch=10)
        ['the warm-up ends after 8 of 10 epochs, the decay begins after 7: no rate is full.']
        """
        rise = self._warm_up(updates, updates_per_epoch)
        flat = (1 - _exact(self.decay)) * updates
        if rise <= flat:
            return []
        ends, begins, whole = (
            float(Fraction(t) / updates_per_epoch) for t in (rise, flat, updates)
        )
        return [
            f"the warm-up ends after {ends:g} of {whole:g} epochs, the decay begins after "
            f"{begins:g}: no rate is full."
        ]
