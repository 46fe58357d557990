"""What a trick is: `Batch`, `Trick` (the identity) and `Chain` (tricks in order, also a trick)."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import FrozenInstanceError
from functools import reduce
from typing import Any, ClassVar, NamedTuple, final, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Batch(NamedTuple):
    """The samples of one micro-batch, on the device."""

    inputs: Tensor
    """[N, C, H, W], float."""
    targets: Tensor
    """[N, ...] class ids, or [N, K, ...] class probabilities."""


class Trick:
    """The identity: a trick overrides the hooks that it needs, and that is its declaration.

    | hook | transforms | when |
    | --- | --- | --- |
    | `model` | the model | once, before the optimizer exists |
    | `optimizer` | the optimizer | once |
    | `schedule` | the factor on the base learning rate | every update |
    | `batch` | the samples, on the device | every micro-batch |
    | `loss` | the losses of the samples | every micro-batch |
    | `gradients` | the gradients of the whole update, in place | once an update, before the step |
    | `weights` | the weights, in place | once an update, after the step |

    A trick is a final class, derived from this one and from nothing else. The fields of a dataclass
    are its parameters, which cannot be assigned to. Without state the dataclass is frozen, and two
    of the same parameters are equal. With state it is a `@dataclass(eq=False)`, equal to itself
    alone: what changes is in plain attributes, which `model` resets; what a resumed training needs
    of them is in `state_dict`.
    """

    after: ClassVar[tuple[str, ...]] = ()
    """The class names of the tricks that this one must follow in a chain."""

    replaces_schedule: ClassVar[bool] = False
    """Whether `schedule` gives a factor of its own, whatever the scheduler's."""

    name: ClassVar[str] = "trick"
    """The class's name in snake case: the trick's key in a config and in a log."""

    activity: ClassVar[str | None] = None
    """The reported number that stays 0 as long as the trick changes nothing, if there is one."""

    def __init_subclass__(cls) -> None:
        cls.name = re.sub(
            r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__
        ).lower()

    def __setattr__(self, name: str, value: object) -> None:
        field = getattr(self, "__dataclass_fields__", {}).get(name)
        if field is not None and field.init and name in vars(self):
            raise FrozenInstanceError(f"cannot assign to field {name!r}")  # as a frozen one does
        super().__setattr__(name, value)

    def model(self, model: nn.Module) -> nn.Module:
        """Give back the model to train; called once a training, before the optimizer exists."""
        return model

    def optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Give back the optimizer to use; called once."""
        return optimizer

    def schedule(self, factor: float, update: int, updates_per_epoch: int) -> float:
        """Give back the factor on the base learning rate at an update; a pure function.

        Args:
            factor: The scheduler's own factor, to multiply (a warm-up) or to replace (restarts).
            update: The number of updates done so far, an integer.
            updates_per_epoch: Updates in one pass over the training set.
        """
        return factor

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Give back the samples to train on; every micro-batch, on the device.

        Args:
            batch: The samples.
            generator: This trick's own source of randomness, fresh for the micro-batch.
        """
        return batch

    def loss(self, losses: Tensor) -> Tensor:
        """Give back the losses of the samples, [N] in nats; every micro-batch."""
        return losses

    def objective(self, loss: Tensor) -> Tensor:
        """Give back what the update minimises, given its mean loss (a scalar); for the log alone.

        It differs from the mean of `loss` for a trick that acts once an update, on the gradients.
        """
        return loss

    def gradients(self, model: nn.Module, optimizer: Optimizer, loss: Tensor) -> None:
        """Change the gradients in place; once an update, just before the optimizer's step.

        Args:
            model: The model with its true gradients: accumulated, averaged over ranks, unscaled.
            optimizer: The optimizer that is about to step.
            loss: The mean loss over the whole update, a scalar without a graph.
        """

    def weights(self, model: nn.Module) -> None:
        """Change the weights in place; once an update, just after the step."""

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:
        """List what to know before a training of so many updates, once `model` was called."""
        return []

    def report(self) -> dict[str, float]:
        """Give back what the trick did in the last update, as named numbers to be averaged."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Give back what training changed in the trick: tensors, numbers, text and their lists."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave: at a resume, after `model`; or of a skipped update.

        Here the keys are checked; a trick with a state calls this, and then takes the values.
        """
        if set(state) != set(self.state_dict()):
            own = ", ".join(self.state_dict())
            raise ValueError(
                f"{type(self).__name__} {f'must hold {own}' if own else 'has no state'}, "
                f"got {sorted(state)}. Load the state of the chain that was saved."
            )

    def __iter__(self) -> Iterator["Trick"]:
        """Run through the single tricks of which this one is made."""
        yield self


@final
class Chain(Trick):
    """Tricks in the order given. A chain is a trick; the empty chain is the identity.

    A chain within a chain is spliced: `Chain(a, Chain(b, c))` equals `Chain(a, b, c)`. The order
    within a hook is the chain's own; it is checked against each trick's `after`, never changed.

    Raises:
        ValueError: If a trick stands before one that it must follow.

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

    def optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Pass the optimizer through every trick."""
        return reduce(lambda optimizer, trick: trick.optimizer(optimizer), self.tricks, optimizer)

    def schedule(self, factor: float, update: int, updates_per_epoch: int) -> float:
        """Pass the factor through every trick."""
        time = update, updates_per_epoch
        return reduce(lambda factor, trick: trick.schedule(factor, *time), self.tricks, factor)

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Pass the samples through every trick.

        Each trick draws from a generator of its own, which depends on the given one and on the
        trick's name: switching a trick on moves no other trick's random numbers.
        """
        seed = generator.initial_seed()
        for name, trick in zip(self.names, self.tricks, strict=True):
            if type(trick).batch is Trick.batch:
                continue  # most tricks: spare them the seeding of a generator
            own = torch.Generator(generator.device).manual_seed(derive_seed(seed, name))
            batch = trick.batch(batch, own)
        return batch

    def loss(self, losses: Tensor) -> Tensor:
        """Pass the losses through every trick."""
        return reduce(lambda losses, trick: trick.loss(losses), self.tricks, losses)

    def objective(self, loss: Tensor) -> Tensor:
        """Pass the mean loss through every trick."""
        return reduce(lambda loss, trick: trick.objective(loss), self.tricks, loss)

    def gradients(self, model: nn.Module, optimizer: Optimizer, loss: Tensor) -> None:
        """Let every trick change the gradients."""
        for trick in self.tricks:
            trick.gradients(model, optimizer, loss)

    def weights(self, model: nn.Module) -> None:
        """Let every trick change the weights."""
        for trick in self.tricks:
            trick.weights(model)

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:
        """Gather the tricks' caveats, each after its name."""
        return [
            f"{name}: {caveat}"
            for name, trick in zip(self.names, self.tricks, strict=True)
            for caveat in trick.caveats(updates, updates_per_epoch)
        ]

    def report(self) -> dict[str, float]:
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


def require_one_of(name: str, value: object, choices: Any, remedy: str = "") -> None:  # noqa: ANN401
    """Refuse a value that is none of the choices of a `Literal`."""
    if value not in get_args(choices):
        known = ", ".join(get_args(choices))
        raise ValueError(f"{name} must be one of {known}, got {value!r}.{remedy}")


def derive_seed(*parts: int | str) -> int:
    """Give back a seed that depends on all the parts: the same for the same, unrelated for others.

    Every random stream has one of its own, from (seed, purpose, step): nothing has to be saved
    for a run to resume exactly, and no stream moves another.

    >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 2)
    False
    """
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
