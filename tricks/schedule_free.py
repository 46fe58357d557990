"""Schedule-free training: averaging of the weights in place of a learning rate schedule.

Defazio et al., "The Road Less Scheduled", NeurIPS 2024, https://arxiv.org/abs/2405.15682; the
authors' code is https://github.com/facebookresearch/schedule_free.

Where we differ from the authors' code: nobody has to switch the optimizer between training and
evaluation; the weights are in the model for training, and the average is put in place for an
evaluation, with its own statistics of batch norm, and taken out to the bit. A warm-up is a trick of
its own. Gradients are left as they are.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from tricks.averaging import recompute_batch_norm_, swap_state
from tricks.groups import Group
from tricks.layers import unwrapped
from tricks.trick import Time, Trick


class ScheduleFreeOptimizer(Optimizer):
    """The schedule-free form of SGD, or of AdamW for groups with `betas`; see `schedule_free`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Make one update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group: Group) -> None:
        rate, beta = float(group["lr"]), group["beta"]
        group["updates"] += 1
        group["highest_lr"] = max(rate, group["highest_lr"])
        weight = group["updates"] ** group["r"] * group["highest_lr"] ** group["weight_power"]
        group["weights"] += weight
        share = weight / group["weights"] if group["weights"] else 0.0
        y: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        if not y:
            return
        for parameter in y:
            if "z" not in self.state[parameter]:
                self.state[parameter]["z"] = parameter.clone()
        z = [self.state[parameter]["z"] for parameter in y]
        direction = [p.grad for p in y if p.grad is not None]
        if group["betas"] is not None:
            direction = self._by_size(y, direction, group)
        if decay := group["weight_decay"]:
            direction = list(torch._foreach_add(direction, y, alpha=decay))
        torch._foreach_lerp_(y, z, share)
        torch._foreach_add_(y, direction, alpha=rate * (beta * (1 - share) - 1))
        torch._foreach_sub_(z, direction, alpha=rate)

    def _by_size(self, y: list[Tensor], gradients: list[Tensor], group: Group) -> list[Tensor]:
        _, beta = group["betas"]
        for parameter in y:
            if "exp_avg_sq" not in self.state[parameter]:
                self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
        squares = [self.state[parameter]["exp_avg_sq"] for parameter in y]
        torch._foreach_mul_(squares, beta)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta)
        sizes = torch._foreach_div(squares, 1 - beta ** group["updates"])
        torch._foreach_sqrt_(sizes)
        torch._foreach_add_(sizes, group["eps"])
        return list(torch._foreach_div(gradients, sizes))

    @torch.no_grad()
    def averages(self) -> dict[Tensor, Tensor]:
        """Give back x of each parameter that was updated: y + (1 - 1 / beta) * (z - y)."""
        return {
            parameter: parameter.lerp(self.state[parameter]["z"], 1 - 1 / group["beta"])
            for group in self.param_groups
            for parameter in group["params"]
            if "z" in self.state.get(parameter, {})
        }


def schedule_free(
    optimizer: Optimizer,
    beta: float = 0.9,
    rate: float | None = None,
    r: float = 0.0,
    weight_power: float = 2.0,
) -> ScheduleFreeOptimizer:
    """Give back the schedule-free form of SGD, or of Adam or AdamW.

    At update t = 1, 2, ..., with the gradient g at y, of the size of AdamW's step for Adam,

        d = g + weight_decay * y
        z = z - lr * d
        x = (1 - c) * x + c * z
        y = (1 - beta) * z + beta * x

    and x = y = z in the beginning. c is the share of w in the sum of all w so far, where w is
    t**r * m**weight_power, with m the highest lr so far: in a warm-up, updates count less.

    The model has y, to train with; `at_averages` puts x in place. Hold the learning rate constant,
    after a warm-up. The averaging takes the place of momentum, Nesterov's too, and of Adam's first
    beta; Adam's weight decay becomes that of AdamW.

    Args:
        optimizer: A torch.optim.SGD, Adam or AdamW; its groups keep their options.
        beta: How close to x the gradients are taken, > 0 and < 1.
        rate: What each learning rate is multiplied by, > 0; None for (1 - dampening) / (1 -
            momentum) of SGD, which is the length of its steps in the end, and 1 of Adam.
        r: The power of t in the weights of the average, >= 0.
        weight_power: The power of the learning rate in them, >= 0.

    Raises:
        ValueError: If a value is out of its range, or the optimizer is another, or maximizes or has
            an option without such a form.

    >>> weight = torch.ones(1, requires_grad=True)
    >>> optimizer = schedule_free(torch.optim.SGD([weight], lr=0.1))
    >>> for _ in range(2):
    ...     weight.grad = weight.detach().clone()
    ...     optimizer.step()
    >>> weight, next(iter(optimizer.averages().values()))
    (tensor([0.8505], requires_grad=True), tensor([0.8550]))
    """
    _check(beta, rate, r, weight_power)
    kind = type(optimizer)
    if kind not in (SGD, Adam, AdamW):
        raise ValueError(
            f"ScheduleFree needs a torch.optim.SGD, Adam or AdamW, got {kind.__name__}. "
            "Use optimizer=sgd or optimizer=adamw, or switch the trick off."
        )
    groups = []
    for given in optimizer.param_groups:
        for option in ("maximize", "amsgrad", "differentiable"):
            if given.get(option):
                raise ValueError(f"ScheduleFree has no form of {kind.__name__} with {option}=True.")
        group = {name: given[name] for name in ("params", "lr", "weight_decay")}
        group |= {n: given[n] for n in ("param_names", "initial_lr") if n in given}
        momentum, betas = given.get("momentum", 0.0), given.get("betas")
        if momentum >= 1:
            raise ValueError(f"ScheduleFree needs a momentum < 1 in SGD, got {momentum}.")
        factor = (1 - given.get("dampening", 0.0)) / (1 - momentum) if rate is None else rate
        for name in group.keys() & {"lr", "initial_lr"}:
            group[name] = group[name] * factor
        groups.append({**group, "betas": betas, "eps": given.get("eps", 0.0)})
    own = {"beta": beta, "r": r, "weight_power": weight_power}
    begin = {"updates": 0, "weights": 0.0, "highest_lr": 0.0}
    return ScheduleFreeOptimizer(groups, {**own, **begin})


def _check(beta: float, rate: float | None, r: float, weight_power: float) -> None:
    for name, value, rule, holds in (
        ("beta", beta, "> 0 and < 1", 0 < beta < 1),
        ("rate", rate, "> 0 and finite, or None", rate is None or 0 < rate < math.inf),
        ("r", r, ">= 0 and finite", 0 <= r < math.inf),
        ("weight_power", weight_power, ">= 0 and finite", 0 <= weight_power < math.inf),
    ):
        if not holds:
            raise ValueError(f"{name} must be {rule}, got {value}.")


@contextmanager
def at_averages(
    optimizer: ScheduleFreeOptimizer,
    model: nn.Module,
    inputs: Iterable[Tensor],
    batches: int = 50,
) -> Iterator[None]:
    """Put the averages in place within a block, with the statistics of batch norm that are theirs.

    After the block, weights and statistics are back to the bit. Before the first update the average
    is the first weights, and everything stays.

    Args:
        optimizer: As `schedule_free` gives it.
        model: The model.
        inputs: Normalised training inputs [N, C, H, W], batch by batch; none are needed without
            batch norm.
        batches: How many of them the statistics are taken from, at most.
    """
    averages = optimizer.averages()
    named = unwrapped(model).named_parameters()
    if not (state := {name: averages[p] for name, p in named if p in averages}):
        yield
        return
    with swap_state(model, state):
        recompute_batch_norm_(model, islice(inputs, batches))
        yield


@final
@dataclass(eq=False)
class ScheduleFree(Trick):
    """Train SGD or AdamW without a schedule, and evaluate with the average of the weights.

    See `schedule_free` (`optimizer`) and `at_averages` (`evaluation`). The factor on the learning
    rate is 1 (`schedule`); a warm-up after it is advised.

    Attributes:
        beta: How close to the average the gradients are taken, > 0 and < 1.
        rate: What the learning rates are multiplied by, > 0; None for 1 / (1 - momentum) of SGD,
            and 1 of Adam.
        r: The power of the update's number in the weights of the average, >= 0.
        weight_power: The power of the learning rate in them, >= 0.
        batches: How many training batches the statistics of batch norm are taken from, >= 1.

    Raises:
        ValueError: If a value is out of its range; in `optimizer`, if the optimizer has no
            schedule-free form; in `evaluation`, if there is no optimizer yet.
    """

    replaces: ClassVar[tuple[str, ...]] = ("optimizer", "schedule", "evaluation")

    beta: float = 0.9
    rate: float | None = None
    r: float = 0.0
    weight_power: float = 2.0
    batches: int = 50

    def __post_init__(self) -> None:
        try:
            _check(self.beta, self.rate, self.r, self.weight_power)
        except ValueError as error:
            raise ValueError(f"ScheduleFree.{error}") from None
        if self.batches < 1:
            raise ValueError(f"ScheduleFree.batches must be >= 1, got {self.batches}.")
        self._optimizer: ScheduleFreeOptimizer | None = None  # which holds the averages

    def model(self, model: nn.Module) -> nn.Module:
        """Begin a training, without an optimizer; the model stays as it is."""
        self._optimizer = None
        return model

    def optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:  # noqa: ARG002
        """Give back the schedule-free form of the optimizer."""
        options = self.beta, self.rate, self.r, self.weight_power
        self._optimizer = schedule_free(optimizer, *options)
        return self._optimizer

    def schedule(self, factor: float, time: Time) -> float:  # noqa: ARG002
        """Give back 1, whatever the scheduler's factor."""
        return 1.0

    @contextmanager
    def evaluation(self, model: nn.Module, inputs: Iterable[Tensor]) -> Iterator[None]:
        """Put the averages in place."""
        if self._optimizer is None:
            raise ValueError(
                "ScheduleFree has no average before its hook `optimizer`. Call that first, and "
                "train with the optimizer that it gives."
            )
        with at_averages(self._optimizer, model, inputs, self.batches):
            yield
