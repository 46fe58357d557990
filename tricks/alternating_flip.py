"""Alternating flip: every image is mirrored in every other epoch.

Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
https://arxiv.org/abs/2404.00498. A random flip shows an image twice the same way round in half of
all pairs of epochs; here it is seen both ways in any two that follow each other.

Where we differ from the author's code: which images begin mirrored is a function of the seed and of
the image's place in the training set. Nothing is drawn in the first epoch and kept, so a training
resumes exactly.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from tricks.trick import Time, Trick, derive_seed

WORD = 0xFFFFFFFF  # 32 bits


def flip_alternately(images: Tensor, samples: Tensor, epoch: int, seed: int = 0) -> Tensor:
    """Mirror image i left and right if (h(seed, i) + epoch) is even, h a random bit.

    Args:
        images: [N, C, H, W], of any type.
        samples: Which images of the training set they are, integers [N] >= 0, on the same device.
        epoch: From 0.
        seed: What h depends on.

    Returns:
        [N, C, H, W].

    Raises:
        ValueError: If there is not one sample for each image.

    >>> image = torch.tensor([[[[1, 2]]]])
    >>> [flip_alternately(image, torch.tensor([7]), epoch).flatten().tolist() for epoch in range(3)]
    [[2, 1], [1, 2], [2, 1]]
    """
    if samples.shape != images.shape[:1] or samples.is_floating_point():
        raise ValueError(
            f"samples must be integers [{len(images)}], one for each image, "
            f"got {str(samples.dtype).removeprefix('torch.')} {list(samples.shape)}."
        )
    mirrored = (_bits(samples, seed) + epoch) % 2 == 0
    # the same bits: torch chooses between no uint16 on a card
    plain = images.view(torch.int16) if images.dtype == torch.uint16 else images
    return torch.where(mirrored[:, None, None, None], plain.flip(3), plain).view(images.dtype)


def _bits(samples: Tensor, seed: int) -> Tensor:
    """Give back a random bit for each number, [N]: two rounds of the finalizer of MurmurHash3."""
    key = derive_seed(seed, "alternating_flip")
    mixed = samples.long()
    for word in (key & WORD, key >> 32):
        mixed = (mixed ^ word) & WORD
        mixed = ((mixed ^ (mixed >> 16)) * 0x85EBCA6B) & WORD
        mixed = ((mixed ^ (mixed >> 13)) * 0xC2B2AE35) & WORD
        mixed = mixed ^ (mixed >> 16)
    return mixed & 1


@final
@dataclass(frozen=True)
class AlternatingFlip(Trick):
    """Mirror each training image in every other epoch (`images`), as `flip_alternately` does.

    An image that is drawn several times in an epoch is the same way round each time.
    """

    replaces: ClassVar[tuple[str, ...]] = ("flips",)

    def images(
        self,
        images: Tensor,
        samples: Tensor,
        time: Time,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Tensor:
        """Mirror every other image."""
        return flip_alternately(images, samples, time.update // time.updates_per_epoch, time.seed)
