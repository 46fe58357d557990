"""Cosine annealing with warm restarts, a warm-up in the cycles, and a decay of their peaks.

Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
https://arxiv.org/abs/1608.03983.

Where we differ from the paper: a warm-up (T_up) and a decay (gamma) of the peaks, as in the
schedule known as CosineAnnealingWarmUpRestarts. Where we differ from that one, and from torch's:
T_mult is any real number, the cycle is found by exact arithmetic, never by logarithms or sums of
floats, and a peak never sinks below eta_min.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple, final, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from tricks.trick import Time, Trick

Warmup = Literal["each", "first"]
Unit = Literal["epoch", "update"]


def warm_restarts(
    t: float | Fraction,
    T_0: float,
    T_mult: float = 1.0,
    T_up: float = 0.0,
    gamma: float = 1.0,
    eta_min: float = 0.0,
    eta_max: float = 1.0,
    warmup: Warmup = "each",
) -> float:
    """Give back the learning rate at time t.

    Cycle i (0, 1, ...) is a cosine of (T_0 - T_up) * T_mult**i, after a warm-up of T_up:

        eta = eta_min + (peak - eta_min) * s / T_up                          for s < T_up
        eta = eta_min + (peak - eta_min) * (1 + cos(pi * (s - T_up) / (T_i - T_up))) / 2

    with s the time since the cycle began, T_i its length and peak = eta_max * gamma**i, or
    eta_min where that is larger. So T_i = (T_(i-1) - T_up) * T_mult + T_up. With warmup="first",
    only cycle 0 has the warm-up; the cosines are as long as before, and the later cycles shorter
    by T_up.

    The cycle is found exactly. A float counts as the number that it is written as: with T_0=10
    and T_mult=1.1, the second cycle ends at 21, although the float 1.1 is a little more than 1.1.

    Args:
        t: The time >= 0, in the unit of T_0: an integer or a fraction where exactness matters.
        T_0: The length of the first cycle, > 0, its warm-up included.
        T_mult: How much longer each cosine is than the one before, >= 1.
        T_up: The length of a warm-up, >= 0 and < T_0.
        gamma: The ratio of a peak to the one before, > 0 and <= 1.
        eta_min: The lowest learning rate, >= 0.
        eta_max: The first peak, >= eta_min.
        warmup: Which cycles have a warm-up: `each`, or the `first`.

    Raises:
        ValueError: If an argument is out of its range.

    >>> [round(warm_restarts(t, T_0=2, T_mult=2, eta_max=0.1), 3) for t in range(7)]
    [0.1, 0.05, 0.1, 0.085, 0.05, 0.015, 0.1]
    """
    return _schedule(T_0, T_mult, T_up, gamma, eta_min, eta_max, warmup).at(t)


def scale_learning_rates_(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rate of each parameter group to its initial one, times a factor.

        lr = initial_lr * factor

    A group's initial rate is the one that it has when it is first seen here, kept under
    `initial_lr`, the key of torch's own schedulers, and saved with the optimizer. So the groups
    keep their ratios, one that is added later begins from the rate it was added with, and to
    resume from a checkpoint takes the optimizer's state and the time, as a schedule is a function
    of time alone.

    A rate that is a tensor (`capturable`, or a compiled step) is filled in place, since what was
    captured reads that tensor.

    Args:
        optimizer: The optimizer; call this before each of its steps.
        factor: The factor for all groups, such as `warm_restarts` gives at its eta_max of 1.

    Raises:
        ValueError: If the factor is not finite; no rate is changed.

    >>> weights, biases = torch.zeros(2), torch.zeros(2)
    >>> groups = [{"params": weights}, {"params": biases, "lr": 0.2}]
    >>> optimizer = torch.optim.SGD(groups, lr=0.1)
    >>> for update in range(3):
    ...     scale_learning_rates_(optimizer, warm_restarts(update, T_0=2))
    ...     print([group["lr"] for group in optimizer.param_groups])
    [0.1, 0.2]
    [0.05, 0.1]
    [0.1, 0.2]
    """
    if not math.isfinite(factor):
        raise ValueError(f"factor must be finite, got {factor}. Look at the schedule it is from.")
    initial: dict[int, float | Tensor] = {}  # by tensor: groups that name no rate share one
    for group in optimizer.param_groups:
        rate = group["lr"]
        if isinstance(rate, Tensor):
            group.setdefault("initial_lr", initial.get(id(rate), rate.clone()))
            initial[id(rate)] = group["initial_lr"]
            rate.copy_(torch.as_tensor(group["initial_lr"] * factor))
        else:
            group["lr"] = group.setdefault("initial_lr", rate) * factor


def _exact(number: float | Fraction) -> int | Fraction:
    return Fraction(str(float(number))) if isinstance(number, float) else number


class _Cycle(NamedTuple):
    """One cycle: exact times, and its peak."""

    start: Fraction
    top: Fraction
    """The end of the warm-up."""
    end: Fraction
    peak: float


class _Schedule:
    """A schedule; it keeps the cycle that was wanted last, in which the next time mostly lies."""

    def __init__(
        self,
        T_0: float,
        T_mult: float,
        T_up: float,
        gamma: float,
        eta_min: float,
        eta_max: float,
        warmup: Warmup,
    ) -> None:
        for name, value, rule, holds in (
            ("T_0", T_0, "> 0 and finite", 0 < T_0 < math.inf),
            ("T_mult", T_mult, ">= 1 and finite", 1 <= T_mult < math.inf),
            ("T_up", T_up, f">= 0 and < T_0 ({T_0})", 0 <= T_up < T_0),
            ("gamma", gamma, "> 0 and <= 1", 0 < gamma <= 1),
            ("eta_min", eta_min, f">= 0 and <= {eta_max}", 0 <= eta_min <= eta_max),
            ("eta_max", eta_max, "finite", eta_max < math.inf),
            ("warmup", warmup, "each or first", warmup in get_args(Warmup)),
        ):
            if not holds:
                raise ValueError(f"{name} must be {rule}, got {value}.")
        first, self.T_mult, self.T_up = (Fraction(_exact(t)) for t in (T_0, T_mult, T_up))
        self.cosine, self.each = first - self.T_up, warmup == "each"
        self.gamma, self.eta_min, self.eta_max = gamma, eta_min, eta_max
        self.last = self.cycle_at(Fraction(0))

    def at(self, t: float | Fraction) -> float:
        """Give back the learning rate at a time."""
        if not 0 <= t < math.inf:
            raise ValueError(f"t must be >= 0 and finite, got {t}.")
        time, cycle = _exact(t), self.last
        if not cycle.start <= time < cycle.end:
            cycle = self.last = self.cycle_at(time)
        if time < cycle.top:
            share = float((time - cycle.start) / (cycle.top - cycle.start))
        else:
            phase = float((time - cycle.top) / (cycle.end - cycle.top))
            share = (1 + math.cos(math.pi * phase)) / 2
        return share * cycle.peak + (1 - share) * self.eta_min  # exact at both ends

    def cycle_at(self, t: int | Fraction) -> _Cycle:
        """Give back the cycle that a time is in."""
        number = self._number(t)
        start, end = self._start(number), self._start(number + 1)
        top = start + self.T_up if self.each or number == 0 else start
        return _Cycle(start, top, end, max(self.eta_max * self.gamma**number, self.eta_min))

    def _number(self, t: int | Fraction) -> int:
        if self.T_mult > 1:
            later = 1
            while self._start(later) <= t:
                later *= 2
            return bisect_right(range(later), t, key=self._start) - 1
        if self.each:
            return t // (self.cosine + self.T_up)
        return max(0, (t - self.T_up) // self.cosine)

    def _start(self, number: int) -> Fraction:
        """The sum of the cycles before."""
        cosines: int | Fraction = number
        if self.T_mult > 1:
            cosines = (self.T_mult**number - 1) / (self.T_mult - 1)
        return self.cosine * cosines + self.T_up * (number if self.each else min(number, 1))


# typed, since 0.1 equals the fraction that it is stored as, yet counts as 1/10 here
_schedule = lru_cache(maxsize=128, typed=True)(_Schedule)


@final
@dataclass(frozen=True)
class WarmRestarts(Trick):
    """Replace the scheduler by cosine annealing with warm restarts (`schedule`).

    The base learning rate of each parameter group is its first peak, so groups keep their ratios.
    Times are in epochs or updates; in epochs too the rate changes at every update. At the end of
    a cycle the rate is at its lowest: the best time to stop (`cycle_ends`).

    Attributes:
        T_0: The length of the first cycle, > 0, its warm-up included.
        T_mult: How much longer each cosine is than the one before, >= 1.
        T_up: The length of a warm-up, >= 0 and < T_0.
        gamma: The ratio of a peak to the one before, > 0 and <= 1.
        eta_min: The lowest learning rate, as a share of the base rate, 0 to 1.
        warmup: Which cycles have a warm-up: `each`, or the `first`.
        unit: What T_0 and T_up count: `epoch` or `update`.

    Raises:
        ValueError: If a value is out of its range.
    """

    replaces: ClassVar[tuple[str, ...]] = ("schedule",)

    T_0: float = 5.0
    T_mult: float = 2.0
    T_up: float = 0.0
    gamma: float = 1.0
    eta_min: float = 0.0
    warmup: Warmup = "each"
    unit: Unit = "epoch"

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"WarmRestarts.unit must be epoch or update, got {self.unit!r}.")
        try:
            self._schedule()
        except ValueError as error:
            raise ValueError(f"WarmRestarts.{error}") from None

    def schedule(self, factor: float, time: Time) -> float:  # noqa: ARG002
        """Give back the schedule's own factor, whatever the scheduler's."""
        epochs = Fraction(time.update, time.updates_per_epoch)
        t = time.update if self.unit == "update" else epochs
        return self._schedule().at(t)

    def cycle_ends(self, length: float) -> tuple[float, float]:
        """Give back the ends of cycles nearest to a length of training: one before, one after.

        Both are the length itself where it ends a cycle; the first is 0 within the first cycle.

        Args:
            length: The length of training, > 0, in the trick's unit.

        >>> WarmRestarts(T_0=5, T_mult=2).cycle_ends(20), WarmRestarts(T_0=5).cycle_ends(15)
        ((15.0, 35.0), (15.0, 15.0))
        """
        cycle = self._schedule().cycle_at(_exact(length))
        after = cycle.start if cycle.start == _exact(length) else cycle.end
        return float(cycle.start), float(after)

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:
        """Warn where training ends within a cycle, and name the lengths that would not.

        >>> WarmRestarts(T_0=5, T_mult=2).caveats(updates=200, updates_per_epoch=10)
        ['training ends within a cycle, after 20 epochs; cycles end after 15 and 35.']
        """
        length = updates if self.unit == "update" else updates / updates_per_epoch
        before, after = self.cycle_ends(length)
        if before == length:
            return []
        ends = f"cycles end after {before:g} and" if before else "the first ends after"
        done = f"{length:g} {self.unit}{'' if length == 1 else 's'}"
        return [f"training ends within a cycle, after {done}; {ends} {after:g}."]

    def _schedule(self) -> _Schedule:
        return _schedule(
            self.T_0, self.T_mult, self.T_up, self.gamma, self.eta_min, 1.0, self.warmup
        )
