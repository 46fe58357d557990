"""Flooding: hold the training loss near a level instead of letting it sink to zero.

Ishida et al., "Do We Need Zero Training Loss After Achieving Zero Training Error?", ICML 2020,
https://arxiv.org/abs/2002.08709. Per sample (iFlood): Xie et al., ICLR 2022,
https://openreview.net/forum?id=MsHnJPaBUZE.

Where we differ: the level applies to the mean loss of a whole update, whatever the number of
micro-batches and ranks it is computed in, by one sign on the gradients.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tricks.gradients import multiply_, parameters_of
from tricks.trick import Batch, Trick, number


def flood(loss: Tensor, level: float) -> Tensor:
    """Give back |loss - level| + level: the loss above the level, its mirror image below.

    Args:
        loss: The mean loss of a batch, a scalar, or the losses of samples, [N]; in nats.
        level: The flood level, >= 0, in nats.

    Raises:
        ValueError: If the level is out of its range.

    >>> flood(torch.tensor([1.5, 0.25]), level=1.0)
    tensor([1.5000, 1.7500])
    """
    _check_level("level", level)
    return (loss - level).abs() + level


@final
@dataclass(eq=False)
class Flooding(Trick):
    """Flood the mean loss of an update (`gradients`), or each sample's loss (`loss`).

    The gradient of |L - level| + level is that of L, times the sign of L - level: the gradients
    of the whole update are multiplied by it once. At the level exactly they become zero. In a loop
    of your own L is the mean over all micro-batches and, where there are several ranks, over them:
    all-reduce it, so that all ranks turn around together. Without any gradient, as after
    `check_gradients_` dropped them, the update counts as left out.

    Reports `flooded_share`: of the updates, or of the samples since the last update, the share not
    above the level.

    Attributes:
        level: The flood level, >= 0, in nats; the paper seeks it from 0 to .2 on a validation set.
        per_sample: Flood the loss of each sample (iFlood) instead of the mean of the update.

    Raises:
        ValueError: If the level is out of its range; in `batch`, if the targets are class ids or
            class probabilities, [N, K, ...], that allow no cross-entropy below the level: those of
            a training's first batch, and the first of another kind. Other targets are not checked.
        FloatingPointError: In `gradients`, if the mean loss is infinite or not a number, which is
            neither above the level nor below; no gradient is changed. (On a card nothing waits for
            the loss: where it is not a number, the gradients become so too.)

    >>> weight = torch.tensor(0.2, requires_grad=True)
    >>> optimizer = torch.optim.SGD([weight], lr=0.1)
    >>> for micro_batch in (weight, 2 * weight):  # a mean loss of 0.3, in two parts
    ...     (micro_batch / 2).backward()
    >>> Flooding(level=0.5).gradients(nn.Module(), optimizer, torch.tensor(0.3))
    >>> weight.grad
    tensor(-1.5000)
    """

    after: ClassVar[tuple[str, ...]] = (
        *("Mixup", "Cutmix", "LabelSmoothing", "SelectiveBackward"),
        "BinaryCrossEntropy",
    )
    activity: ClassVar[str | None] = "flooded_share"

    level: float = 0.05
    per_sample: bool = False

    def __post_init__(self) -> None:
        _check_level("Flooding.level", self.level)
        self._begin()

    def _begin(self) -> None:
        self._checked: tuple[bool, torch.Size] | None = None  # the kind of targets
        self._flooded: list[Tensor] = []  # of the samples since the last update
        self._share: float | Tensor | None = None  # of the last update

    def model(self, model: nn.Module) -> nn.Module:
        """Begin a training; the model stays as it is."""
        self._begin()
        return model

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """Refuse a level that the loss cannot fall below, at the first batch of such targets."""
        targets: object = batch.targets  # of a loss that is the user's own they may be anything
        if not isinstance(targets, Tensor):
            return batch
        kind = targets.is_floating_point(), targets.shape[1:2]
        if kind != self._checked:
            floor = _floor(targets, self.per_sample)
            if floor is not None and self.level <= floor:
                raise ValueError(
                    f"Flooding.level must be > {floor:.4g} nats, the lowest loss that these "
                    f"targets allow, got {self.level}. Raise it, or switch the trick off."
                )
            self._checked = kind
        return batch

    def loss(self, losses: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Flood each sample's loss, if per sample."""
        if not self.per_sample:
            return losses
        self._flooded.append((losses.detach() <= self.level).flatten())
        return flood(losses, self.level)

    def objective(self, loss: Tensor) -> Tensor:
        """Flood the mean loss of the update, unless per sample."""
        return loss if self.per_sample else flood(loss, self.level)

    @torch.no_grad()
    def gradients(self, model: nn.Module, optimizer: Optimizer, loss: Tensor) -> None:  # noqa: ARG002
        """Multiply the gradients by the sign of the mean loss less the level."""
        flooded, self._flooded, self._share = self._flooded, [], None
        gradients = [p.grad for p in parameters_of(optimizer) if p.grad is not None]
        if not gradients:
            return
        loss = torch.as_tensor(loss)
        waits = loss.device.type == "cpu"
        if waits and not loss.isfinite():
            raise FloatingPointError(
                f"The mean loss is {loss.item()}, neither above the flood level nor below. Call "
                "check_gradients_(parameters, 'skip', loss) before the tricks to leave such "
                "updates out."
            )
        if self.per_sample:
            self._share = torch.cat(flooded).double().mean() if flooded else None
            return
        sign = torch.sign(loss - self.level)
        self._share = number((sign != 1.0).double())
        if not waits:
            multiply_(gradients, sign)
        elif sign.item() != 1.0:
            torch._foreach_mul_(gradients, sign.item())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin at the beginning of an update: losses of one that was left out do not count."""
        super().load_state_dict(state)
        self._flooded = []

    def report(self) -> dict[str, float | Tensor]:
        """Give back the share of the last update that was flooded."""
        return {} if self._share is None else {"flooded_share": number(self._share)}


def _check_level(where: str, level: float) -> None:
    if not 0 <= level < math.inf:
        raise ValueError(
            f"{where} must be >= 0 (nats) and finite, got {level}. "
            "To train without flooding, leave it out."
        )


def _floor(targets: Tensor, per_sample: bool) -> float | None:
    """The lowest cross-entropy: 0 of class ids, the entropy of probabilities; None of others."""
    if not targets.is_floating_point():
        return 0.0
    if targets.ndim < 2 or targets.shape[1] < 2 or not targets.numel():
        return None
    sums = targets.double().sum(1)
    # to the rounding of bfloat16; targets that are ignored are rows of zeros
    if not (((sums - 1).abs() < 0.01) | (sums == 0)).all() or (targets < 0).any():
        return None
    entropies = torch.special.entr(targets.double()).sum(1)
    return float(entropies.min() if per_sample else entropies.mean())
