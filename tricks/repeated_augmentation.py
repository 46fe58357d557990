"""Repeated augmentation: a batch holds each of its images several times, differently augmented.

Hoffer et al., "Augment your batch: better training with larger batches",
https://arxiv.org/abs/1901.09335; Berman et al., https://arxiv.org/abs/1902.05509, gave it the name.

Where we differ: an epoch has as many updates as without, and so sees 1 / repeats of the images, as
in the second paper; the first keeps the images of an epoch, and makes the batch larger. timm's
`RepeatAugSampler` spreads the copies over processes, and shortens the epoch to a multiple of 256.
"""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from tricks.trick import Trick


def repeat_samples(samples: Tensor, repeats: int = 3) -> Tensor:
    """Give back the first samples, each so many times in a row, as many in all as there were.

    Args:
        samples: The samples of an epoch in a random order, [N].
        repeats: How often each is there; the last one perhaps less often.

    Returns:
        [N].

    Raises:
        ValueError: If `repeats` is less than 1.

    >>> import torch
    >>> repeat_samples(torch.tensor([4, 0, 3, 1, 2]), repeats=2)
    tensor([4, 4, 0, 0, 3])
    """
    if repeats < 1:
        raise ValueError(f"repeats must be >= 1, got {repeats}.")
    chosen = -(-len(samples) // repeats)
    return samples[:chosen].repeat_interleave(repeats)[: len(samples)]


@final
@dataclass(frozen=True)
class RepeatedAugmentation(Trick):
    """See a part of the training images in an epoch, each several times in a row (`order`).

    Copies are in one batch where its size is a multiple of `repeats`.

    Attributes:
        repeats: How often an image is in the epoch that it is in, >= 2.

    Raises:
        ValueError: If `repeats` is out of its range; in `order`, if there are too few images.
    """

    repeats: int = 3

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise ValueError(
                f"RepeatedAugmentation.repeats must be >= 2, got {self.repeats}. "
                "To see each image once, switch the trick off."
            )

    def order(self, samples: Tensor) -> Tensor:
        """Repeat the first samples."""
        if self.repeats > len(samples):
            raise ValueError(
                f"RepeatedAugmentation.repeats must be at most {len(samples)}, the images of an "
                f"epoch, got {self.repeats}. Lower it."
            )
        return repeat_samples(samples, self.repeats)

    def caveats(self, updates: int, updates_per_epoch: int) -> list[str]:  # noqa: ARG002
        """Say what an epoch is."""
        return [f"an epoch sees 1/{self.repeats} of the images, {self.repeats} times each"]
