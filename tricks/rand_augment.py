"""RandAugment: each image goes through a few random operations of one strength.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
https://arxiv.org/abs/1909.13719. The operations and their ranges are those of torchvision's
`RandAugment`, which gives the same pixels for the same draw.

Where we differ: in a batch each image has draws of its own; torchvision's transforms give a batch
one draw, https://github.com/pytorch/vision/issues/8484. The random numbers come from a generator,
not from torch's global one.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from tricks.operations import Interpolation, Space, apply, check_bins, check_images, draw, on_cpu
from tricks.trick import Time, Trick, require_one_of

RANGE = Space(shear=0.3, translate=(150.0 / 331.0, 0.0), rotate=30.0, enhance=0.9, posterize=4)


def rand_augment(
    images: Tensor,
    generator: torch.Generator,
    operations: int = 2,
    magnitude: int = 9,
    magnitude_bins: int = 31,
    interpolation: Interpolation = "nearest",
) -> Tensor:
    """Give back images that each went through some of 14 operations, drawn one after the other.

    The operations are those of `trivial_augment`. All have the same strength; its sign is drawn.

    Args:
        images: [N, C, H, W], uint8, C 1 or 3.
        generator: Source of the random numbers, on the device of the images.
        operations: How many for each image, drawn with replacement.
        magnitude: Which of the strengths, from 0, at which most operations change nothing.
        magnitude_bins: How many strengths there are, evenly spaced.
        interpolation: How shears, translations and rotations find a pixel's value.

    Returns:
        [N, C, H, W], uint8.

    Raises:
        ValueError: If the images are not such.

    >>> images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    >>> rand_augment(images, torch.Generator().manual_seed(0)).shape
    torch.Size([8, 3, 32, 32])
    """
    check_images(images, "rand_augment")
    for _ in range(operations):
        drawn = draw(len(images), magnitude_bins, generator)
        same = drawn._replace(bins=torch.full_like(drawn.bins, magnitude))
        images = apply(images, same, RANGE, magnitude_bins, interpolation)
    return images


@final
@dataclass(frozen=True)
class RandAugment(Trick):
    """Pass each training image through `rand_augment` (`images`).

    Attributes:
        operations: How many for each image, >= 1.
        magnitude: Which of the strengths, from 0 to magnitude_bins - 1.
        magnitude_bins: How many strengths there are, >= 2.
        interpolation: How shears, translations and rotations find a pixel's value.

    Raises:
        ValueError: If a parameter is out of its range; in `images`, if they are not of uint8 with
            1 or 3 channels.
    """

    after: ClassVar[tuple[str, ...]] = ("AlternatingFlip",)

    operations: int = 2
    magnitude: int = 9
    magnitude_bins: int = 31
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        if self.operations < 1:
            raise ValueError(
                f"RandAugment.operations must be >= 1, got {self.operations}. "
                "To leave the images as they are, switch the trick off."
            )
        check_bins("RandAugment.magnitude_bins", self.magnitude_bins)
        if not 0 <= self.magnitude < self.magnitude_bins:
            raise ValueError(
                f"RandAugment.magnitude must be from 0 to {self.magnitude_bins - 1}, "
                f"magnitude_bins - 1, got {self.magnitude}. Correct one of them."
            )
        require_one_of("RandAugment.interpolation", self.interpolation, Interpolation)

    def images(
        self,
        images: Tensor,
        samples: Tensor,  # noqa: ARG002
        time: Time,  # noqa: ARG002
        generator: torch.Generator,
    ) -> Tensor:
        """Change each image."""
        check_images(images, "RandAugment")
        given = self.operations, self.magnitude, self.magnitude_bins, self.interpolation
        return rand_augment(images, on_cpu(generator), *given)
