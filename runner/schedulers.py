"""Learning rate schedulers as pure functions of integer time, and torch's own in tables.

A scheduler returns a factor on the base learning rate of every parameter group, so that the groups
keep their ratios. It has no state: a run that resumes needs only its number of updates.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from runner.errors import UserError
from runner.texts import reason

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A factor on the learning rate; the config holds it to its range."""


def total_updates(epochs: float, updates_per_epoch: int) -> int:
    """Count the updates of a training: the nearest whole number, and at least one.

    >>> total_updates(15, 21), total_updates(2.5, 21), total_updates(0.01, 21)
    (315, 52, 1)
    """
    return max(1, round(epochs * updates_per_epoch))


class Scheduler(ABC):
    """A factor on the base learning rates, as a function of time."""

    @abstractmethod
    def factor(self, update: int, updates_per_epoch: int, epochs: float) -> float:
        """Return the factor for an update.

        Args:
            update: Number of updates done so far: 0 at the first.
            updates_per_epoch: Updates in one pass over the training set.
            epochs: Length of the training; it may end within an epoch, see `total_updates`.
        """


@dataclass(frozen=True)
class Constant(Scheduler):
    """Hold the base learning rate."""

    def factor(self, update: int, updates_per_epoch: int, epochs: float) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Step(Scheduler):
    """Multiply the learning rate by `gamma` at each milestone.

    The defaults are those of He et al. for CIFAR-10, who divide by 10 after 32,000 and 48,000 of
    64,000 updates: "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2,
    https://arxiv.org/abs/1512.03385. In torch's `MultiStepLR` a milestone is a number of epochs;
    here it is a share of the training, so that it moves with its length.

    Args:
        milestones: Shares of the training, in (0, 1), increasing; each at the nearest update.
        gamma: Factor at each milestone, >= 0.

    Raises:
        UserError: If the milestones are out of their range.

    >>> [round(Step().factor(update, 1, epochs=4), 3) for update in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    """

    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: Rate = 0.1

    def __post_init__(self) -> None:
        if not all(a < b for a, b in pairwise((0, *self.milestones, 1))):
            raise UserError(
                "scheduler.milestones must be increasing shares of the training in (0, 1), "
                f"got {list(self.milestones)}. Write epoch 10 of 20 as 0.5."
            )

    def factor(self, update: int, updates_per_epoch: int, epochs: float) -> float:
        """Return gamma to the power of the number of milestones reached."""
        updates = total_updates(epochs, updates_per_epoch)
        return self.gamma ** sum(update >= round(share * updates) for share in self.milestones)


@dataclass(frozen=True)
class Cosine(Scheduler):
    """Fall from 1 to `final` along half a cosine.

    With t the share of the training that is done: final + (1 - final) (1 + cos(pi t)) / 2. The
    value at t = 1 is that after the last update, as in torch's `CosineAnnealingLR`. This is one
    cycle of Loshchilov & Hutter, "SGDR", ICLR 2017, https://arxiv.org/abs/1608.03983; for restarts
    see the trick `warm_restarts`.

    Args:
        final: The factor at the end, >= 0.

    >>> [round(Cosine().factor(update, 1, epochs=4), 3) for update in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    final: Rate = 0.0

    def factor(self, update: int, updates_per_epoch: int, epochs: float) -> float:
        """Return the value of the cosine."""
        share = update / total_updates(epochs, updates_per_epoch)
        return _mix(1.0, self.final, _half_cosine(share))


@dataclass(frozen=True)
class Linear(Scheduler):
    """Go from `start` to `final` along a line; `final` is the value after the last update.

    Args:
        start: The factor at the first update, >= 0.
        final: The factor at the end, >= 0.

    >>> [Linear().factor(update, 1, epochs=4) for update in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    start: Rate = 1.0
    final: Rate = 0.0

    def factor(self, update: int, updates_per_epoch: int, epochs: float) -> float:
        """Return the value of the line."""
        return _mix(self.start, self.final, update / total_updates(epochs, updates_per_epoch))


@dataclass(frozen=True)
class OneCycle(Scheduler):
    """Rise from `start` to 1 and fall to `final`, each along half a cosine.

    The base learning rate is the highest. It equals torch's `OneCycleLR(max_lr=lr)` with
    pct_start = peak_at, div_factor = 1 / start and final_div_factor = start / final, except that
    the momentum stays; as there, of n updates, counted from 0, the peak is at n peak_at - 1 and
    `final` at n - 1. Smith & Topin, "Super-Convergence", 2018, https://arxiv.org/abs/1708.07120,
    rise and fall along lines and add a third phase.

    Args:
        peak_at: Share of the training spent on the rise, in [0, 1].
        start: The factor at the first update, >= 0.
        final: The factor at the last update, >= 0.

    >>> [round(OneCycle(peak_at=0.4).factor(update, 5, epochs=1), 3) for update in range(5)]
    [0.04, 1.0, 0.75, 0.25, 0.0]
    """

    peak_at: Annotated[float, Field(ge=0, le=1)] = 0.3
    start: Rate = 0.04
    final: Rate = 4e-6

    def factor(self, update: int, updates_per_epoch: int, epochs: float) -> float:
        """Return the value on the rise or on the fall."""
        last = total_updates(epochs, updates_per_epoch) - 1
        peak = self.peak_at * (last + 1) - 1
        if update < peak:
            return _mix(self.start, 1.0, _half_cosine(update / peak))
        return _mix(1.0, self.final, _half_cosine((update - peak) / (last - peak or 1)))


def tabulate(
    torch_class: type[LRScheduler],
    unit: str,
    arguments: Mapping[str, Any],
    *,
    lr: float,
    updates_per_epoch: int,
    epochs: float,
) -> Callable[[int], float]:
    """Run a torch scheduler once, and return its factors by the number of updates done.

    What torch computes step by step from a state becomes a pure function of time. The dummy
    optimizer has the real rate, for the classes whose arguments are rates (`max_lr`, `eta_min`).

    Args:
        torch_class: A class of `torch.optim.lr_scheduler`, or one like them.
        unit: How often it steps: each `epoch` or each `update`.
        arguments: Its arguments except the optimizer.
        lr: Base learning rate, > 0.
        updates_per_epoch: Updates in one pass over the training set.
        epochs: Length of the training.

    Raises:
        UserError: If it depends on more than time, changes more than the rate, or fails.

    >>> halving = torch.optim.lr_scheduler.ExponentialLR
    >>> factor = tabulate(halving, "epoch", {"gamma": 0.5}, lr=0.1, updates_per_epoch=2, epochs=3)
    >>> [factor(update) for update in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    refuse_impure(torch_class, arguments)
    if not lr > 0:
        raise UserError(f"optimizer.lr must be > 0 for a torch scheduler, got {lr}.")
    updates_per_step = updates_per_epoch if unit == "epoch" else 1
    steps = -(-total_updates(epochs, updates_per_epoch) // updates_per_step)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=lr)
    try:
        scheduler = torch_class(optimizer, **arguments)
        rates = [float(optimizer.param_groups[0]["lr"])]
        for _ in range(steps - 1):
            optimizer.step()  # without a gradient it does nothing; torch warns if it is missing
            scheduler.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
    except Exception as error:  # the class may raise anything for its arguments
        raise UserError(
            f"scheduler: {torch_class.__name__} with {dict(arguments)} fails for {steps} steps "
            f"(unit: {unit}): {reason(error)}. Correct these keys."
        ) from error
    return lambda update: rates[min(update // updates_per_step, steps - 1)] / lr


def refuse_impure(torch_class: type[LRScheduler], arguments: Mapping[str, Any]) -> None:
    """Refuse a class that depends on more than time, or changes more than the learning rate."""
    name = torch_class.__name__
    if issubclass(torch_class, ReduceLROnPlateau):
        raise UserError(
            f"scheduler._target_ must depend on time alone, but {name} waits for a metric. "
            "Use scheduler=step or scheduler=cosine."
        )
    cycle = signature(torch_class).parameters.get("cycle_momentum")
    if cycle is not None and arguments.get("cycle_momentum", cycle.default):
        raise UserError(
            f"scheduler must change the learning rate alone, but {name} also cycles the momentum. "
            "Add +scheduler.cycle_momentum=false."
        )


def _mix(start: float, end: float, share: float) -> float:
    """Return the point that lies a share of the way from start to end; exact at both."""
    return start * (1 - share) + end * share


def _half_cosine(share: float) -> float:
    """Return the share of the way that half a cosine has gone after a share of the time."""
    return (1 - math.cos(math.pi * share)) / 2
