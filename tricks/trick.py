"""What a trick is: `Trick`, the identity, and what its hooks are given: `Batch` and `Time`."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import FrozenInstanceError
from typing import Any, ClassVar, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Batch(NamedTuple):
    """The samples of one micro-batch, on the device."""

    inputs: Tensor
    """[N, C, H, W], float."""
    targets: Tensor
    """[N, ...] class ids, or [N, K, ...] class probabilities."""
    classes: int | None = None
    """K, the number of classes; None if it is not known."""
    mixed: Tensor | None = None
    """Which samples are a mixture of two, [N] bool; None for none."""


class Time(NamedTuple):
    """How far a training has come, in integers, and what its random numbers depend on."""

    update: int
    """Updates done."""
    updates_per_epoch: int
    """Updates in one pass over the training set."""
    updates: int
    """Updates of the whole training."""
    seed: int = 0
    """The seed of the training, for what stays the same from update to update."""


class Trick:
    """The identity: a trick overrides the hooks that it needs, and that is its declaration.

    | hook | transforms | when |
    | --- | --- | --- |
    | `model` | the model | once, before the optimizer exists |
    | `initialize` | the first weights, in place | once, then |
    | `optimizer` | the optimizer | once, then |
    | `schedule` | the factor on the base learning rate | every update |
    | `order` | the order of the samples | every epoch |
    | `images` | the images, before normalisation | every update |
    | `batch` | the samples, normalised | every micro-batch |
    | `loss` | the losses of the samples | every micro-batch |
    | `backward` | how the gradients are computed | once an update |
    | `gradients` | the gradients of the whole update, in place | once an update, before the step |
    | `weights` | the weights, in place | once an update, after the step |
    | `evaluation` | the weights to evaluate with, in place | every evaluation |
    | `prediction` | what gives the logits | every evaluation, and ever after |

    A trick is a final class, derived from this one and from nothing else. The fields of a dataclass
    are its parameters, which cannot be assigned to. Without state the dataclass is frozen, and two
    of the same parameters are equal. With state it is a `@dataclass(eq=False)`, equal to itself
    alone: what changes is in plain attributes, which `model` resets; what a resumed training needs
    of them is in `state_dict`.
    """

    after: ClassVar[tuple[str, ...]] = ()
    """The class names of the tricks that this one must follow in a chain."""

    replaces: ClassVar[tuple[str, ...]] = ()
    """What it puts its own in place of, as one trick of a chain can: `schedule`, `optimizer`,
    `loss`, `evaluation`, `flips`."""

    name: ClassVar[str] = "trick"
    """The class's name in snake case: the trick's key in a config and in a log."""

    varies_in_cost: ClassVar[bool] = False
    """Whether what an update costs depends on the time."""

    activity: ClassVar[str | None] = None
    """The reported number that stays 0 as long as the trick changes nothing, if there is one."""

    takes_norm: ClassVar[bool] = False
    """Whether `gradients` has a fourth argument, for the 2-norm of the gradients as it finds them:
    a tensor that it may not change, or None where it is not known."""

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

    def initialize(self, model: nn.Module, inputs: Iterable[Tensor]) -> None:
        """Set first weights in place; once a training, after `model`, before the optimizer exists.

        Args:
            model: The model, on its device.
            inputs: Normalised training inputs [N, C, H, W], batch by batch; may be read again.
        """

    def optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        """Give back the optimizer to use, given the model's; called once."""
        return optimizer

    def schedule(self, factor: float, time: Time) -> float:
        """Give back the factor on the base learning rate at an update; a pure function.

        Args:
            factor: The scheduler's own factor, to multiply (a warm-up) or to replace (restarts).
            time: Before the update.
        """
        return factor

    def order(self, samples: Tensor) -> Tensor:
        """Give back the samples of an epoch in their order, [N]; a pure function.

        Args:
            samples: Places in the training set, in the order that they would have.
        """
        return samples

    def images(
        self,
        images: Tensor,
        samples: Tensor,
        time: Time,
        generator: torch.Generator,
    ) -> Tensor:
        """Give back the images to train on, perhaps of another size; a pure function.

        Args:
            images: Of the whole update, uint8 (or uint16) [N, C, H, W], on the device.
            samples: Their places in the training set, [N].
            time: Before the update.
            generator: This trick's own source of randomness, fresh for the update.
        """
        return images

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Give back the samples to train on; every micro-batch, on the device.

        Args:
            batch: The samples.
            generator: This trick's own source of randomness, fresh for the micro-batch.
        """
        return batch

    def loss(self, losses: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Give back the losses of the samples, [N] in nats; every micro-batch.

        Args:
            losses: [N], to transform, or to put others in place of.
            outputs: Logits [N, K], float32.
            targets: [N] class ids, or [N, K] class probabilities.
        """
        return losses

    def objective(self, loss: Tensor) -> Tensor:
        """Give back what the update minimises, given its mean loss (a scalar); for the log alone.

        It differs from the mean of `loss` for a trick that acts once an update, on the gradients.
        """
        return loss

    def backward(self, compute: Callable[[], Tensor], model: nn.Module) -> Tensor:
        """Put the gradients of an update in place; give back its mean loss, a scalar.

        Args:
            compute: Puts the gradients of the mean loss at the weights as they are in place of
                those that are there, and gives back that loss. Under a loss scaler the gradients
                are still scaled, and may be infinite. Each call sees the same samples, and the
                tricks draw the same random numbers.
            model: The model.
        """
        return compute()

    def gradients(self, model: nn.Module, optimizer: Optimizer, loss: Tensor) -> None:
        """Change the gradients in place; once an update, just before the optimizer's step.

        Args:
            model: The model with its true gradients: accumulated, averaged over ranks, unscaled.
            optimizer: The optimizer that is about to step.
            loss: The mean loss over the whole update, a scalar without a graph.
        """

    def weights(self, model: nn.Module, time: Time) -> None:
        """Change the weights in place; once an update, just after the step, which `time` counts."""

    def evaluation(
        self,
        model: nn.Module,
        inputs: Iterable[Tensor],
    ) -> AbstractContextManager[None]:
        """Put the weights and buffers to evaluate with in place, for as long as the context lasts.

        Afterwards training goes on to the same bits as without it.

        Args:
            model: The model in training.
            inputs: As for `initialize`, for statistics.
        """
        return nullcontext()

    def prediction(self, model: nn.Module) -> nn.Module:
        """Give back what gives the logits [N, K] of inputs [N, C, H, W], made of the model."""
        return model

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:
        """List what to know before a training of so many updates, once `model` was called."""
        return []

    def report(self) -> Mapping[str, float | Tensor]:
        """Give back what the trick did in the last update, as named numbers to be averaged.

        What is on a card may stay there as a tensor: whoever logs it waits for it.
        """
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


def require_one_of(name: str, value: object, choices: Any, remedy: str = "") -> None:  # noqa: ANN401
    """Refuse a value that is none of the choices of a `Literal`."""
    if value not in get_args(choices):
        known = ", ".join(get_args(choices))
        raise ValueError(f"{name} must be one of {known}, got {value!r}.{remedy}")


def number(value: float | Tensor) -> float | Tensor:
    """Give back a number; on a card the tensor that it is, as nothing waits for it there."""
    is_away = isinstance(value, Tensor) and value.device.type != "cpu"
    return value if is_away else float(value)


def derive_seed(*parts: int | str) -> int:
    """Give back a seed that depends on all the parts: the same for the same, unrelated for others.

    Every random stream has one of its own, from (seed, purpose, step): nothing has to be saved
    for a run to resume exactly, and no stream moves another.

    >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 2)
    False
    """
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
