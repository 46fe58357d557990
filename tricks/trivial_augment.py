"""TrivialAugment: each image goes through one random operation of random strength.

Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
https://arxiv.org/abs/2103.10158. The operations and their range ("wide") are those of torchvision's
`TrivialAugmentWide`, which gives the same pixels for the same draw.

Where we differ: in a batch each image has a draw of its own; torchvision's transforms give a batch
one draw, https://github.com/pytorch/vision/issues/8484. The random numbers come from a generator,
not from torch's global one.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from tricks.operations import Interpolation, Space, apply, check_bins, check_images, draw, on_cpu
from tricks.trick import Time, Trick, require_one_of

WIDE = Space(shear=0.99, translate=(0.0, 32.0), rotate=135.0, enhance=0.99, posterize=6)


def trivial_augment(
    images: Tensor,
    generator: torch.Generator,
    magnitude_bins: int = 31,
    interpolation: Interpolation = "nearest",
) -> Tensor:
    """Give back images that each went through one of 14 operations, drawn with its strength.

    The identity, shears, translations and rotations, brightness, color, contrast, sharpness,
    posterize, solarize, autocontrast and equalize, all equally likely. Translations are of up to 32
    pixels, also in small images: of one of 32 x 32 little may be left.

    Args:
        images: [N, C, H, W], uint8, C 1 or 3.
        generator: Source of the random numbers, on the device of the images.
        magnitude_bins: How many strengths there are, evenly spaced.
        interpolation: How shears, translations and rotations find a pixel's value.

    Returns:
        [N, C, H, W], uint8.

    Raises:
        ValueError: If the images are not such.

    >>> images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    >>> trivial_augment(images, torch.Generator().manual_seed(0)).shape
    torch.Size([8, 3, 32, 32])
    """
    check_images(images, "trivial_augment")
    drawn = draw(len(images), magnitude_bins, generator)
    return apply(images, drawn, WIDE, magnitude_bins, interpolation)


@final
@dataclass(frozen=True)
class TrivialAugment(Trick):
    """Pass each training image through `trivial_augment` (`images`).

    Attributes:
        magnitude_bins: How many strengths there are, >= 2.
        interpolation: How shears, translations and rotations find a pixel's value.

    Raises:
        ValueError: If a parameter is out of its range; in `images`, if they are not of uint8 with
            1 or 3 channels.
    """

    after: ClassVar[tuple[str, ...]] = ("AlternatingFlip",)

    magnitude_bins: int = 31
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        check_bins("TrivialAugment.magnitude_bins", self.magnitude_bins)
        require_one_of("TrivialAugment.interpolation", self.interpolation, Interpolation)

    def images(
        self,
        images: Tensor,
        samples: Tensor,  # noqa: ARG002
        time: Time,  # noqa: ARG002
        generator: torch.Generator,
    ) -> Tensor:
        """Change each image."""
        check_images(images, "TrivialAugment")
        return trivial_augment(images, on_cpu(generator), self.magnitude_bins, self.interpolation)
