"""CutMix: paste a box of one image into another, with targets by the areas.

Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
ICCV 2019, https://arxiv.org/abs/1905.04899.

Where we differ from the authors' code: each sample has a box of its own, where it draws one for a
batch; and the box is as large as the formula has it, where it is cut to an even number of pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from tricks.mixing import (
    are_others,
    as_probabilities,
    check_images,
    check_mixing,
    draw,
    draw_beta,
)
from tricks.trick import Batch, Time, Trick, number

PATIENCE = 1024
"""Samples after which it is sure that all are mixed, and not by chance."""


def cutmix(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 1.0,
    probability: float = 1.0,
    *,
    num_classes: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Give back images with a box of another pasted in, and targets weighted by the areas.

    The box has the sides H sqrt(1 - l) and W sqrt(1 - l), with l from Beta(alpha, alpha), its
    centre is anywhere in the image, and what lies beyond the border is lost. A pixel is in the box
    if its centre is. The target is (1 - a) y_i + a y_j, with a the share of the pixels pasted.
    Each sample i has a box of its own, and another sample j as its partner: they are a random
    cycle. The targets are not smoothed.

    Args:
        inputs: Images after normalisation, floats [N, C, H, W].
        targets: Class ids, integers [N]; or class probabilities, floats [N, K]. Targets of -100 are
            ignored: their part of a mixture is zeros.
        alpha: Of the beta distribution, > 0.
        probability: Of each sample to be cut into, > 0 and <= 1.
        num_classes: K; for class ids alone.
        generator: Where random numbers come from, on any device; None for torch's global one.

    Returns:
        The inputs, in their shape and type, and class probabilities, [N, K].

    Raises:
        ValueError: If a value is out of its range, the inputs are integers or no images, the
            targets are neither class ids nor class probabilities, or are ids and there is no number
            of classes.

    >>> images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    >>> generator = torch.Generator().manual_seed(2)
    >>> cut, soft = cutmix(images, torch.arange(2), num_classes=2, generator=generator)
    >>> torch.equal(cut.mean((1, 2, 3)), soft[:, 1])
    True
    """
    check_mixing(alpha, probability)
    check_images(inputs, "cutmix")
    targets = as_probabilities(targets, num_classes, "cutmix")
    cut, soft, _ = _cut(inputs, targets, None, alpha, probability, generator)
    return cut, soft


def _cut(
    inputs: Tensor,
    targets: Tensor,
    mixed: Tensor | None,
    alpha: float,
    probability: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give back what `cutmix` does to samples that are not mixed yet, and which it cut, [N]."""
    if inputs.ndim != 4 or targets.ndim != 2:
        raise ValueError(
            "CutMix takes images [N, C, H, W] with one target each, class ids [N] or class "
            f"probabilities [N, K], got {list(inputs.shape)} and {list(targets.shape)}."
        )
    uniform, partners = draw(5, inputs, generator, left=mixed)
    chosen = uniform[2] < probability
    if mixed is not None:
        chosen = chosen & ~mixed
    area = torch.where(chosen, 1 - draw_beta(alpha, uniform[:2]), 0.0)
    height, width = inputs.shape[-2:]
    side = area.sqrt()
    rows, columns = _inside(side, uniform[3], height), _inside(side, uniform[4], width)
    box = rows[:, None, :, None] & columns[:, None, None, :]
    pasted = rows.sum(1) * columns.sum(1) / (height * width)
    own = (1 - pasted).to(targets.dtype).unsqueeze(1)
    cut = torch.where(box, inputs[partners], inputs)
    return cut, torch.lerp(targets[partners], targets, own), (pasted > 0) & are_others(partners)


def _inside(side: Tensor, centre: Tensor, pixels: int) -> Tensor:
    """Which pixels of a line lie in an interval of it, given as shares of the line; [N, pixels]."""
    middles = (torch.arange(pixels, device=side.device) + 0.5) / pixels
    return (middles - centre[:, None]).abs() < side[:, None] / 2


@final
@dataclass(eq=False)
class Cutmix(Trick):
    """Paste a box of another sample of the micro-batch into each (`batch`), as `cutmix` does.

    The targets become class probabilities. They are not smoothed: `LabelSmoothing` comes after.
    Samples that `Mixup` has mixed before are left as they are, and their images are not pasted into
    others: with `Mixup(probability=0.5)` each sample is mixed up or cut into.

    Reports `cut_share`: of the samples of the last update, the share that was cut into.

    Attributes:
        alpha: Of the beta distribution, > 0. The paper takes 1: any area is as likely.
        probability: Of each sample to be cut into, > 0 and <= 1. The paper takes .5 for CIFAR.

    Raises:
        ValueError: If a value is out of its range; in `batch`, if the inputs are integers, the
            targets are neither class ids nor class probabilities, are ids and `batch.classes` is
            None; or if every one of the first 1024 samples is mixed already.
    """

    after: ClassVar[tuple[str, ...]] = (
        *("TrivialAugment", "RandAugment", "RandomErasing", "AlternatingFlip"),
        *("ProgressiveResizing", "Mixup"),
    )
    activity: ClassVar[str | None] = "cut_share"

    alpha: float = 1.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        check_mixing(self.alpha, self.probability, "Cutmix.")
        self._begin()

    def _begin(self) -> None:
        self._mixed: int | None = 0  # samples that were mixed already; None once one was not
        self._cut: list[Tensor] = []  # whether the samples since the last update were
        self._share: Tensor | None = None  # of the last update

    def model(self, model: nn.Module) -> nn.Module:
        """Begin a training; the model stays as it is."""
        self._begin()
        return model

    def batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Cut into the samples."""
        check_images(batch.inputs, "Cutmix")
        targets = as_probabilities(batch.targets, batch.classes, "Cutmix")
        mixed = batch.mixed
        if self._mixed is not None:
            self._refuse_mixed(mixed)
        inputs, targets, cut = _cut(
            batch.inputs, targets, mixed, self.alpha, self.probability, generator
        )
        self._cut.append(cut)
        return batch._replace(
            inputs=inputs, targets=targets, mixed=cut if mixed is None else cut | mixed
        )

    def _refuse_mixed(self, mixed: Tensor | None) -> None:
        """Refuse a training all of whose samples are mixed already: it would cut into none."""
        if mixed is None or not mixed.all():
            self._mixed = None
            return
        self._mixed = (self._mixed or 0) + len(mixed)
        if self._mixed >= PATIENCE:
            raise ValueError(
                "Cutmix leaves samples alone that are mixed already, and all of the first "
                f"{self._mixed} were. Set Mixup.probability to 0.5 (tricks.mixup.probability=0.5), "
                "or switch one of the two off."
            )

    def weights(self, model: nn.Module, time: Time) -> None:  # noqa: ARG002
        """Count the samples that were cut into; the weights stay as they are."""
        cut, self._cut = self._cut, []
        self._share = torch.cat(cut).double().mean() if cut else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin at the beginning of an update: samples of one that was left out do not count."""
        super().load_state_dict(state)
        self._cut = []

    def report(self) -> dict[str, float | Tensor]:
        """Give back the share of the last update that was cut into."""
        return {} if self._share is None else {"cut_share": number(self._share)}
