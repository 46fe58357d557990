"""Progressive resizing: training begins with small images, which grow.

Howard, "Training Imagenet in 3 hours for USD 25; and CIFAR10 for USD 0.26" (fast.ai, 2018),
https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html; the default times are those of
Composer's `ProgressiveResizing`.

Where we differ from Composer: the size follows the update, not the epoch; bytes are resized, with
anti-aliasing, before normalisation; a crop is drawn for each image.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from tricks.trick import Time, Trick, require_one_of

By = Literal["resize", "crop"]


def resize_progressively(
    images: Tensor,
    progress: float,
    start: float = 0.5,
    since: float = 0.5,
    until: float = 0.8,
    step: int = 4,
    by: By = "resize",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Give back images of the size that they have at this point of the training.

    Each side is `start` of its own up to `since`, grows in a line, and is whole from `until` on. On
    the way it is rounded to a multiple of `step`.

    Args:
        images: [N, C, H, W], integers (uint8, uint16) or floats.
        progress: The share of the training that is done, from 0 to 1.
        start: Share of each side at first.
        since: Share of the training after which they grow.
        until: Share of the training after which they are whole.
        step: Pixels.
        by: `resize`, bilinear with anti-aliasing, or `crop`, a random part of each image.
        generator: Source of the random numbers of crops, on the device of the images.

    Returns:
        [N, C, H', W'].

    >>> images = torch.zeros(2, 3, 32, 48, dtype=torch.uint8)
    >>> [[*resize_progressively(images, progress).shape[2:]] for progress in (0.5, 0.65, 0.8)]
    [[16, 24], [24, 36], [32, 48]]
    """
    height, width = (_side(side, progress, start, since, until, step) for side in images.shape[2:])
    if (height, width) == images.shape[2:]:
        return images
    if by == "resize":
        numbers = images.to(torch.promote_types(images.dtype, torch.float32))
        small = F.interpolate(numbers, (height, width), mode="bilinear", antialias=True)
        return (small if images.is_floating_point() else small.round_()).to(images.dtype)
    return _crop(images, height, width, generator)


def _side(side: int, progress: float, start: float, since: float, until: float, step: int) -> int:
    """Give back the length of a side, in pixels."""
    if progress >= until:
        return side
    grown = max(0.0, progress - since) / (until - since)
    length = side * (start + (1 - start) * grown)
    return min(side, max(1, math.floor(length / step + 0.5)) * step)


def _crop(images: Tensor, height: int, width: int, generator: torch.Generator | None) -> Tensor:
    """Take a random part of each image."""
    count, device = len(images), images.device

    def below(bound: int) -> Tensor:
        return torch.randint(bound, (count,), generator=generator, device=device)

    # the same bits: torch indexes no uint16 on a card
    plain = images.view(torch.int16) if images.dtype == torch.uint16 else images
    parts = plain.unfold(2, height, 1).unfold(3, width, 1)  # views
    tops, lefts = below(parts.shape[2]), below(parts.shape[3])
    return parts[torch.arange(count, device=device), :, tops, lefts].view(images.dtype)


@final
@dataclass(frozen=True)
class ProgressiveResizing(Trick):
    """Train on small images first (`images`), as `resize_progressively` does. Evaluation is whole.

    The network has to take every size on the way.

    Attributes:
        start: Share of each side at first, > 0 and < 1.
        since: Share of the training after which they grow, >= 0.
        until: Share of the training after which they are whole, > `since` and <= 1.
        step: Pixels whose multiples the sides are on the way, >= 1.
        by: `resize` or `crop`.

    Raises:
        ValueError: If a parameter is out of its range; in `images`, if none would be smaller.
    """

    varies_in_cost: ClassVar[bool] = True
    after: ClassVar[tuple[str, ...]] = (
        "AlternatingFlip",
        "TrivialAugment",
        "RandAugment",
        "RandomErasing",
    )

    start: float = 0.5
    since: float = 0.5
    until: float = 0.8
    step: int = 4
    by: By = "resize"

    def __post_init__(self) -> None:
        if not 0 < self.start < 1:
            raise ValueError(
                f"ProgressiveResizing.start must be > 0 and < 1, got {self.start}. "
                "To train on whole images, switch the trick off."
            )
        if not 0 <= self.since < self.until <= 1:
            raise ValueError(
                "ProgressiveResizing must have 0 <= since < until <= 1, shares of the training, "
                f"got since={self.since}, until={self.until}. Correct one of them."
            )
        if self.step < 1:
            raise ValueError(
                f"ProgressiveResizing.step must be >= 1 pixel, got {self.step}. Raise it."
            )
        require_one_of("ProgressiveResizing.by", self.by, By)

    def images(
        self,
        images: Tensor,
        samples: Tensor,  # noqa: ARG002
        time: Time,
        generator: torch.Generator,
    ) -> Tensor:
        """Resize or crop the images."""
        given = self.start, self.since, self.until, self.step
        height, width = images.shape[2:]
        if all(_side(side, 0.0, *given) == side for side in (height, width)):
            raise ValueError(
                f"ProgressiveResizing changes nothing: start={self.start} of {height} x {width} "
                f"pixels, to a multiple of step={self.step}, is the whole. Lower start or step, or "
                "switch the trick off."
            )
        progress = time.update / time.updates
        return resize_progressively(images, progress, *given, self.by, generator)

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:
        """Say which sizes there are when, and at which the model is evaluated."""
        epochs = updates / updates_per_epoch
        since, until = (f"{share * epochs:.3g}" for share in (self.since, self.until))
        grow = "cropped to" if self.by == "crop" else "resized to"
        return [
            f"images are {grow} {self.start:g} of each side up to epoch {since}, then growing, and "
            f"whole from epoch {until} on; they are evaluated whole"
        ]
