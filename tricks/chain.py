"""Tricks in order: `Chain`, which is a trick too, and `in_order`, which finds an order."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tricks.trick import Batch, Time, Trick, derive_seed

REPLACED = {
    "evaluation": "weights to evaluate with",
    "flips": "flips",
    "loss": "loss",
    "optimizer": "optimizer",
    "schedule": "schedule",
}
"""What a trick may put its own in place of, in words."""


@final
class Chain(Trick):
    """Tricks in the order given. A chain is a trick; the empty chain is the identity.

    A chain within a chain is spliced: `Chain(a, Chain(b, c))` equals `Chain(a, b, c)`. The order
    within a hook is the chain's own; it is checked against each trick's `after`, never changed.

    Raises:
        ValueError: If a trick stands before one that it must follow, or two replace the same.

    >>> from tricks import Centralization, Clipping
    >>> Chain(Clipping(), Centralization())
    Traceback (most recent call last):
        ...
    ValueError: Clipping must come after Centralization, got Clipping -> Centralization. Write
    Centralization -> Clipping.
    """

    def __init__(self, *tricks: Trick) -> None:
        self.tricks = tuple(leaf for trick in tricks for leaf in trick)
        names = [type(trick).__name__ for trick in self.tricks]
        for index, trick in enumerate(self.tricks):
            if late := [name for name in names[index + 1 :] if name in trick.after]:
                right = " -> ".join(kind.__name__ for kind in in_order([*map(type, self.tricks)]))
                raise ValueError(
                    f"{names[index]} must come after {' and '.join(late)}, "
                    f"got {' -> '.join(names)}. Write {right}."
                )
        for what in sorted({what for trick in self.tricks for what in trick.replaces}):
            rivals = [n for n, t in zip(names, self.tricks, strict=True) if what in t.replaces]
            if len(rivals) > 1:
                raise ValueError(
                    f"{' and '.join(rivals)} each bring their own {REPLACED.get(what, what)}. "
                    "Keep one of them."
                )
        own = [trick.name for trick in self.tricks]
        counts = [own[: i + 1].count(name) for i, name in enumerate(own)]
        self.names = tuple(n if c == 1 else f"{n}_{c}" for n, c in zip(own, counts, strict=True))

    def __iter__(self) -> Iterator[Trick]:
        """Run through the single tricks."""
        yield from self.tricks

    def __repr__(self) -> str:
        """Write the chain as the expression that makes it."""
        return f"Chain({', '.join(map(repr, self.tricks))})"

    def model(self, model: nn.Module) -> nn.Module:
        """Pass the model through every trick."""
        return reduce(lambda model, trick: trick.model(model), self.tricks, model)

    def initialize(self, model: nn.Module, inputs: Iterable[Tensor]) -> None:
        """Let every trick set first weights."""
        for trick in self.tricks:
            trick.initialize(model, inputs)

    def optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        """Pass the optimizer through every trick."""
        return reduce(lambda optimizer, t: t.optimizer(optimizer, model), self.tricks, optimizer)

    def schedule(self, factor: float, time: Time) -> float:
        """Pass the factor through every trick."""
        return reduce(lambda factor, trick: trick.schedule(factor, time), self.tricks, factor)

    def order(self, samples: Tensor) -> Tensor:
        """Pass the order of an epoch through every trick."""
        return reduce(lambda samples, trick: trick.order(samples), self.tricks, samples)

    def images(
        self, images: Tensor, samples: Tensor, time: Time, generator: torch.Generator
    ) -> Tensor:
        """Pass the images through every trick; each draws as in `batch`."""
        for trick, own in self._drawing("images", generator):
            images = trick.images(images, samples, time, own)
        return images

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Pass the samples through every trick.

        Each trick draws from a generator of its own, which depends on the given one and on the
        trick's name: switching a trick on moves no other trick's random numbers.
        """
        for trick, own in self._drawing("batch", generator):
            batch = trick.batch(batch, own)
        return batch

    def _drawing(
        self, hook: str, generator: torch.Generator
    ) -> Iterator[tuple[Trick, torch.Generator]]:
        """Run through the tricks that have a hook, each with its own generator."""
        seed = generator.initial_seed()
        for name, trick in zip(self.names, self.tricks, strict=True):
            if overrides(trick, hook):  # most do not: spare them the seeding
                yield trick, torch.Generator(generator.device).manual_seed(derive_seed(seed, name))

    def loss(self, losses: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Pass the losses through every trick."""
        return reduce(lambda each, trick: trick.loss(each, outputs, targets), self.tricks, losses)

    def objective(self, loss: Tensor) -> Tensor:
        """Pass the mean loss through every trick."""
        return reduce(lambda loss, trick: trick.objective(loss), self.tricks, loss)

    def backward(self, compute: Callable[[], Tensor], model: nn.Module) -> Tensor:
        """Let every trick compute gradients, each by way of those before it."""

        def through(compute: Callable[[], Tensor], trick: Trick) -> Callable[[], Tensor]:
            return lambda: trick.backward(compute, model)

        return reduce(through, self.tricks, compute)()

    def gradients(
        self, model: nn.Module, optimizer: Optimizer, loss: Tensor, norm: Tensor | None = None
    ) -> None:
        """Let every trick change the gradients.

        Args:
            model: As for `Trick.gradients`, as are the optimizer and the loss.
            optimizer: Its parameters have the gradients.
            loss: The mean loss over the whole update.
            norm: Their norm, if it is known: for the first trick that changes them, if it
                `takes_norm`.
        """
        for trick in self.tricks:
            known: tuple[Any, ...] = (norm,) if trick.takes_norm else ()
            trick.gradients(model, optimizer, loss, *known)
            if overrides(trick, "gradients"):
                norm = None

    def weights(self, model: nn.Module, time: Time) -> None:
        """Let every trick change the weights."""
        for trick in self.tricks:
            trick.weights(model, time)

    @contextmanager
    def evaluation(self, model: nn.Module, inputs: Iterable[Tensor]) -> Iterator[None]:
        """Let every trick put its weights in place; they are taken back in reverse."""
        with ExitStack() as stack:
            for trick in self.tricks:
                stack.enter_context(trick.evaluation(model, inputs))
            yield

    def prediction(self, model: nn.Module) -> nn.Module:
        """Pass what predicts through every trick."""
        return reduce(lambda model, trick: trick.prediction(model), self.tricks, model)

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:
        """Gather the tricks' caveats, each after its name."""
        return [
            f"{name}: {caveat}"
            for name, trick in zip(self.names, self.tricks, strict=True)
            for caveat in trick.caveats(updates, updates_per_epoch)
        ]

    def report(self) -> dict[str, float | Tensor]:
        """Gather the tricks' numbers, as `trick_name/number`."""
        return {
            f"{name}/{number}": value
            for name, trick in zip(self.names, self.tricks, strict=True)
            for number, value in trick.report().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Gather the tricks' states, by their names."""
        return {n: trick.state_dict() for n, trick in zip(self.names, self.tricks, strict=True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hand each trick its state.

        Raises:
            ValueError: If the state is that of other tricks.
        """
        if tuple(state) != self.names:
            raise ValueError(
                f"The state must be that of {' -> '.join(self.names) or 'no trick'}, "
                f"got {' -> '.join(state) or 'no trick'}. Build the chain that was saved."
            )
        for name, trick in zip(self.names, self.tricks, strict=True):
            trick.load_state_dict(state[name])


def in_order(tricks: Sequence[type[Trick]]) -> list[type[Trick]]:
    """Give back the tricks so that each follows those it must; otherwise in the order given.

    Raises:
        ValueError: If some of them would each have to follow another.
    """
    waiting, ordered = list(tricks), list[type[Trick]]()
    while waiting:
        names = {trick.__name__ for trick in waiting}
        free = next((t for t in waiting if not names.intersection(t.after) - {t.__name__}), None)
        if free is None:
            raise ValueError(f"{' and '.join(sorted(names))} must each follow another of them.")
        waiting.remove(free)
        ordered.append(free)
    return ordered


def overrides(trick: Trick, hook: str) -> bool:
    """Whether a trick has a hook of its own, not the identity."""
    return getattr(getattr(trick, hook), "__func__", None) is not getattr(Trick, hook)
