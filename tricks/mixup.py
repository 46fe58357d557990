"""Mixup: train on weighted means of two images, with the same means of their targets.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018,
https://arxiv.org/abs/1710.09412.

Where we differ from the authors' code: each sample has a coefficient of its own, where it draws one
for a batch, so that the batch size and the number of micro-batches change nothing but the partners.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from tricks.mixing import (
    are_others,
    as_probabilities,
    check_images,
    check_mixing,
    draw,
    draw_beta,
)
from tricks.trick import Batch, Trick


def mixup(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.2,
    probability: float = 1.0,
    *,
    num_classes: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Give back l x_i + (1 - l) x_j and l y_i + (1 - l) y_j, with l from Beta(alpha, alpha).

    Each sample i has a coefficient l of its own, and another sample j as its partner: they are a
    random cycle. The targets are not smoothed.

    Args:
        inputs: Images after normalisation, floats [N, ...].
        targets: Class ids, integers [N, ...]; or class probabilities, floats [N, K, ...]. Targets
            of -100 are ignored: their part of a mixture is zeros.
        alpha: Of the beta distribution, > 0; the smaller, the closer to one of the two images.
        probability: Of each sample to be mixed, > 0 and <= 1.
        num_classes: K; for class ids alone.
        generator: Where random numbers come from, on any device; None for torch's global one.

    Returns:
        The mixed inputs, in their shape and type, and class probabilities, [N, K, ...].

    Raises:
        ValueError: If a value is out of its range, the inputs are integers, the targets are neither
            class ids nor class probabilities, or are ids and there is no number of classes.

    >>> images, ids = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    >>> generator = torch.Generator().manual_seed(2)
    >>> mixed, soft = mixup(images, ids, alpha=1.0, num_classes=2, generator=generator)
    >>> torch.equal(mixed, soft[:, 1:])
    True
    """
    check_mixing(alpha, probability)
    check_images(inputs, "mixup")
    targets = as_probabilities(targets, num_classes, "mixup")
    mixed, soft, _ = _mix(inputs, targets, alpha, probability, generator)
    return mixed, soft


def _mix(
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    probability: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give back what `mixup` does, and which samples are mixed, [N]."""
    uniform, partners = draw(3, inputs, generator)
    chosen = uniform[2] < probability
    own = torch.where(chosen, draw_beta(alpha, uniform[:2]), 1.0)
    own = own.to(inputs.dtype)  # the targets have the coefficient of the images, as it is rounded
    mixed, soft = (
        torch.lerp(each[partners], each, own.to(each.dtype).view(-1, *[1] * (each.ndim - 1)))
        for each in (inputs, targets)
    )
    return mixed, soft, chosen & are_others(partners)


@final
@dataclass(frozen=True)
class Mixup(Trick):
    """Mix each sample with another of its micro-batch (`batch`), as `mixup` does.

    The targets become class probabilities. They are not smoothed: `LabelSmoothing` comes after.
    With `Cutmix` after it, `probability` is the share that is mixed up, and Cutmix takes the rest.
    A micro-batch of one sample has no other to be mixed with, and stays as it is.

    Attributes:
        alpha: Of the beta distribution, > 0. The paper takes .2 to .4 for ImageNet, 1 for CIFAR.
        probability: Of each sample to be mixed, > 0 and <= 1.

    Raises:
        ValueError: If a value is out of its range; in `batch`, if the inputs are integers, the
            targets are neither class ids nor class probabilities, or are ids and `batch.classes` is
            None.

    >>> mixed = Mixup().batch(
    ...     Batch(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]), 10), torch.Generator()
    ... )
    >>> mixed.targets.shape, mixed.targets.sum().item()
    (torch.Size([4, 10]), 4.0)
    """

    after: ClassVar[tuple[str, ...]] = (
        *("TrivialAugment", "RandAugment", "RandomErasing", "AlternatingFlip"),
        "ProgressiveResizing",
    )

    alpha: float = 0.2
    probability: float = 1.0

    def __post_init__(self) -> None:
        check_mixing(self.alpha, self.probability, "Mixup.")

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Mix the samples."""
        check_images(batch.inputs, "Mixup")
        targets = as_probabilities(batch.targets, batch.classes, "Mixup")
        inputs, targets, mixed = _mix(
            batch.inputs, targets, self.alpha, self.probability, generator
        )
        return batch._replace(inputs=inputs, targets=targets, mixed=mixed)
