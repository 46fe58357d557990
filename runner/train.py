"""The training loop: `Training.step` is the whole update, in its order, on one screen."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.losses import cross_entropy
from runner.micro_batches import micro_batches
from runner.observed import Averages, FirstNotFinite, first_not_finite
from runner.ranks import WHOLE, Parts, Passes
from tricks import Batch, Chain, Time, overrides, scale_learning_rates_
from tricks.gradients import norm_of, parameters_of


class Diverged(ArithmeticError):
    """The loss or a gradient is not finite.

    On a CPU the weights were not touched.
    """


class Training:
    """A model in training: everything that an update reads and writes.

    Args:
        model: The model, in training mode, as the tricks gave it back.
        optimizer: Its optimizer, as the tricks gave it back.
        trick: The tricks that are on; the empty chain for none.
        factor: The scheduler: the number of updates done to a factor on the base learning rate.
        updates_per_epoch: Updates in one pass over the training set.
        parts: How the samples of an update are cut into micro-batches, and dealt to ranks.
        precision: The type that convolutions and products are computed in.
        not_finite: What to do when the loss or a gradient is not finite: `error` ends the
            training, on a CPU before the weights are touched, on a card before anything is saved,
            logged or evaluated; `skip` leaves the update out and counts it, for which each update
            waits for the card. A float16 scaler's overflow is always skipped, waiting too: it is
            how the scale is found.
        loss: Logits [N, K] and targets to the losses of the samples, [N].
        updates: Updates of the whole training; None for one epoch.
        classes: K, for the tricks that need it.
        inputs: Normalised training inputs, as `Trick.evaluation` takes them.
        seed: What the random numbers of the tricks depend on.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        trick: Chain,
        factor: Callable[[int], float],
        updates_per_epoch: int,
        *,
        parts: Parts = WHOLE,
        precision: Literal["float32", "bfloat16", "float16"] = "float32",
        not_finite: Literal["error", "skip"] = "error",
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        updates: int | None = None,
        classes: int | None = None,
        inputs: Iterable[Tensor] = (),
        seed: int = 0,
    ) -> None:
        self.model, self.optimizer, self.trick = model, optimizer, trick
        self.factor, self.loss, self.classes, self.inputs = factor, loss, classes, inputs
        self.parts, self.ranks, self.not_finite = parts, parts.ranks, not_finite
        self.passes = Passes(model, parts.ranks, parts.together)
        self.begin = Time(0, updates_per_epoch, updates or updates_per_epoch, seed)
        self.device = self.parameters[0].device
        self.dtype: torch.dtype = getattr(torch, precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")
        # it begins with what it scales first, and a rank may have no part of the first update
        self.scaler.scale(torch.zeros((), device=self.device))
        self.changes_gradients = any(overrides(t, "gradients") for t in trick)
        self.draws = any(overrides(t, "batch") for t in trick)
        hooks = "batch", "loss", "backward"
        self.changed_by_batches = [t for t in trick if any(overrides(t, hook) for hook in hooks)]
        self.updates = self.skipped = 0
        self.recent, self.whole = Averages(), Averages()
        self.first_not_finite = FirstNotFinite()

    def epoch(self, batches: Iterable[Batch]) -> None:
        """Train on one pass of batches.

        Raises:
            Diverged: As `step`, and as `settle`.
        """
        for batch in batches:
            self.step(batch)
        self.settle()

    def step(self, batch: Batch, samples: int | None = None) -> None:
        """Make one update.

        Args:
            batch: Its samples; over ranks those of this rank.
            samples: How many all ranks have; None if this one has all.

        Raises:
            Diverged: If the loss or a gradient is not finite, and that is an error; on a card only
                `settle` raises it.
        """
        rate, before = self._set_learning_rate(), self._before_a_skip()
        self.ranks.seed(self.begin.seed, self.updates)
        plain: list[Tensor] = []  # the loss before the tricks, of each pass

        def compute() -> Tensor:
            self.optimizer.zero_grad()
            before_tricks, after_tricks = list[Tensor](), list[Tensor]()  # of each micro-batch
            cut = batch, self.time, self.parts, samples, self.classes, self.draws
            for micro, generator, share, is_last in micro_batches(*cut):
                with self.autocast():
                    micro = self.trick.batch(micro, generator)
                    outputs = self.passes(micro.inputs, is_last).float()
                losses = self.loss(outputs, micro.targets)
                changed = self.trick.loss(losses, outputs, micro.targets)
                mean = _part(changed, share)
                self.scaler.scale(mean).backward()
                after_tricks.append(mean.detach())
                as_is = changed is losses
                before_tricks.append(mean.detach() if as_is else _part(losses.detach(), share))
            loss, objective = self.passes.sums(before_tricks, after_tricks)
            plain.append(loss)
            return objective

        objective = self.trick.backward(compute, self.model)
        self.ranks.seed(self.begin.seed, self.updates, alike=True)
        self.scaler.unscale_(self.optimizer)
        norm = norm_after = norm_of(self.parameters)
        found = {"the loss": plain[0], "the loss after the tricks": objective, "a gradient": norm}
        if self._is_left_out(found, before):
            return
        self.trick.gradients(self.model, self.optimizer, objective, norm)
        if self.changes_gradients:
            norm_after = norm_of(self.parameters)
            if self._is_left_out({"a gradient after the tricks": norm_after}, before):
                return
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.updates += 1
        self.trick.weights(self.model, self.time)
        self._observe(
            {
                "train/loss": plain[0],
                "train/transformed_loss": self.trick.objective(objective),
                "train/gradient_norm": norm,
                "train/gradient_norm_after": norm_after,
                "train/learning_rate": rate,
            }
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """Give back the context in which the model computes in its precision."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @property
    def parameters(self) -> list[Tensor]:
        """Those of the optimizer, also of groups that were added to it later."""
        return [*parameters_of(self.optimizer)]

    @property
    def time(self) -> Time:
        """How far the training has come."""
        return Time(self.updates, *self.begin[1:])

    @property
    def predictor(self) -> nn.Module:
        """What gives the logits."""
        return self.trick.prediction(self.model)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Hold the weights to evaluate with in the model; afterwards it trains on as before.

        As long as every update was left out, these are the first ones.

        Raises:
            Diverged: As `settle`.
        """
        self.settle()
        with ExitStack() as stack:
            if self.updates > self.skipped:  # else no trick has an average
                with self.autocast():
                    stack.enter_context(self.trick.evaluation(self.model, self.inputs))
            yield

    def settle(self) -> None:
        """Wait for the updates to be known to be finite; before anything is saved or shown.

        Raises:
            Diverged: If the loss or a gradient of one was not: on a card no update waits for them.
        """
        if (found := self.first_not_finite.found()) is not None:
            update, what, number = found
            raise Diverged(f"{what} is not finite ({number}) at update {update}")

    def _set_learning_rate(self) -> float | Tensor:
        factor = self.trick.schedule(self.factor(self.updates), self.time)
        scale_learning_rates_(self.optimizer, factor)
        rate: float | Tensor = self.optimizer.param_groups[0]["lr"]
        return rate

    def _before_a_skip(self) -> tuple[list[Tensor], list[dict[str, Any]]] | None:
        """Copies of what micro-batches change: batch-norm statistics, and some tricks' states."""
        if self.not_finite == "error" and not self.scaler.is_enabled():
            return None
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        return buffers, [copy.deepcopy(trick.state_dict()) for trick in self.changed_by_batches]

    def _is_left_out(
        self,
        numbers: dict[str, Tensor],
        before: tuple[list[Tensor], list[dict[str, Any]]] | None,
    ) -> bool:
        """Leave the update out if a number is not finite, or raise, as the policy has it.

        On a card, where none is left out, `settle` raises: here nothing waits for the numbers.
        """
        if before is None and self.device.type != "cpu":
            self.first_not_finite.note(self.updates, numbers)
            return False
        wrong = first_not_finite({name: number.item() for name, number in numbers.items()})
        if wrong is None:
            return False
        what, number = wrong
        overflow = self.scaler.is_enabled() and what == "a gradient"
        if before is None or (self.not_finite == "error" and not overflow):
            raise Diverged(f"{what} is not finite ({number}) at update {self.updates}")
        self.scaler.update()  # `unscale_` has recorded the overflow
        buffers, states = before
        for buffer, saved in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(saved)
        for trick, state in zip(self.changed_by_batches, states, strict=True):
            trick.load_state_dict(state)
        self.skipped += 1
        self.updates += 1
        return True

    def _observe(self, numbers: dict[str, float | Tensor]) -> None:
        reported = {f"tricks/{name}": value for name, value in self.trick.report().items()}
        self.recent.add(numbers | reported)
        self.whole.add(reported)

    def state_dict(self) -> dict[str, Any]:
        """Give back all that the next update depends on, in tensors and plain values.

        Raises:
            Diverged: As `settle`.
        """
        self.settle()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "tricks": self.trick.state_dict(),
            "updates": self.updates,
            "skipped": self.skipped,
            "averages": [self.recent.state_dict(), self.whole.state_dict()],
            "random": _random_state(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.trick.load_state_dict(state["tricks"])
        self.updates, self.skipped = state["updates"], state["skipped"]
        for averages, saved in zip((self.recent, self.whole), state["averages"], strict=True):
            averages.load_state_dict(saved)
        _set_random_state(self.device, state["random"])


def _part(losses: Tensor, share: float) -> Tensor:
    """Give back the part of a micro-batch in the mean loss of its update."""
    mean = losses.mean()
    return mean if share == 1 else mean * share


def _random_state(device: torch.device) -> list[Tensor]:
    """The global generators: no trick draws from them, but a model with dropout does."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    cpu, *cuda = states
    torch.set_rng_state(cpu)
    for state in cuda:
        torch.cuda.set_rng_state(state, device)
