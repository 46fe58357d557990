"""Batches of a split: shuffled, augmented and normalised on the device.

Batch k of epoch e is a pure function of (seed, e, k): a run that resumes in mid-epoch sees the same
batches as an uninterrupted one, and there is no state to save.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.data.augmentation import Augmentation, crop_and_flip, cut_out_
from runner.data.source import Split
from tricks import Batch, derive_seed

NO_AUGMENTATION = Augmentation()


def normalization(mean: Tensor, std: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return scale and shift, float32 [1, C, 1, 1]: (x / levels - mean) / std = x scale + shift.

    Args:
        mean: [C], of the pixels / levels.
        std: [C], of the pixels / levels.
        levels: The value of white, 255 or 65535.
    """
    per_channel = std.double().view(1, -1, 1, 1)
    shift = (-mean.double().view(1, -1, 1, 1) / per_channel).float()
    return (1 / (levels * per_channel)).float(), shift


@dataclass(eq=False)
class Batches:
    """The batches of a split, on its device; the last one may be smaller.

    Args:
        split: The samples.
        batch_size: Samples per batch.
        mean: [C], of the pixels / levels, 255 or 65535.
        std: [C], of the pixels / levels.
        augmentation: How to augment the images; by default not at all.
        seed: Seed of the order and the augmentation.
        shuffle: Whether to shuffle the samples in each epoch, differently each time.
        memory_format: Memory format of the inputs.

    >>> split = Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.arange(5))
    >>> batches = Batches(split, 2, mean=torch.zeros(1), std=torch.ones(1))
    >>> [batch.targets.tolist() for batch in batches.epoch(0)]
    [[0, 1], [2, 3], [4]]
    """

    split: Split
    batch_size: int
    mean: Tensor
    std: Tensor
    augmentation: Augmentation = NO_AUGMENTATION
    seed: int = 0
    shuffle: bool = False
    memory_format: torch.memory_format = torch.contiguous_format

    def __post_init__(self) -> None:
        scale, shift = normalization(self.mean, self.std, self.split.levels)
        self._scale, self._shift = (t.to(self.split.labels.device) for t in (scale, shift))

    def __len__(self) -> int:
        return -(-len(self.split.labels) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from batch `start` on."""
        order = self._order(epoch)
        for index in range(start, len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            images = self.split.images_of(chosen)
            inputs = self._inputs(images, derive_seed(self.seed, "augmentation", epoch, index))
            yield Batch(inputs, self.split.labels.index_select(0, chosen))

    def _order(self, epoch: int) -> Tensor:
        count, device = len(self.split.labels), self.split.labels.device
        if not self.shuffle:
            return torch.arange(count, device=device)
        generator = torch.Generator(device).manual_seed(derive_seed(self.seed, "order", epoch))
        return torch.randperm(count, generator=generator, device=device)

    def _inputs(self, images: Tensor, seed: int) -> Tensor:
        """Augment and normalise: [n, C, H, W], integers to float32."""
        augmentation = self.augmentation
        if augmentation != NO_AUGMENTATION:
            draw = augmentation.draw(images, torch.Generator(images.device).manual_seed(seed))
        if augmentation.crop or augmentation.flip:
            images = crop_and_flip(images, augmentation.crop, draw.offsets, draw.flips)
        inputs = images.to(torch.float32, memory_format=self.memory_format)
        inputs.mul_(self._scale).add_(self._shift)
        if augmentation.cutout:
            cut_out_(inputs, augmentation.cutout, draw.centres)
        return inputs
