"""Batches of a split: shuffled, augmented and normalised on the device.

Batch k of epoch e is a pure function of (seed, e, k): a run that resumes in mid-epoch sees the same
batches as an uninterrupted one, and there is no state to save.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from runner.data.augmentation import (
    Augmentation,
    Draw,
    Transform,
    crop_and_flip,
    cut_out_,
    pick,
    transform,
)
from runner.data.source import Split
from runner.data.stream import Ahead
from runner.ranks import WHOLE, Parts
from tricks import Batch, Chain, Time, derive_seed, overrides
from tricks.operations import send

NO_AUGMENTATION, NO_TRICK, START = Augmentation(), Chain(), Time(0, 1, 1)


def updates_per_epoch(samples: int, batch_size: int, drop_last: bool) -> int:
    """Count the batches of an epoch; the last one may be smaller, and is then left out if asked."""
    whole, rest = divmod(samples, batch_size)
    return whole + (rest > 0 and not drop_last)


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


def normalized(
    images: Tensor, scale: Tensor, shift: Tensor, memory_format: torch.memory_format
) -> Tensor:
    """Return images scale + shift, float32 [N, C, H, W], in a memory format.

    Args:
        images: Integers [N, C, H, W].
        scale: [1, C, 1, 1], as `normalization` returns it.
        shift: [1, C, 1, 1].
        memory_format: Of what is returned.
    """
    if memory_format is not torch.channels_last:
        return images.to(torch.float32, memory_format=memory_format).mul_(scale).add_(shift)
    count, channels, height, width = images.shape
    # several times as fast as a conversion: channel beside channel, then whole rows of pixels
    plain = images.view(torch.int16) if images.dtype == torch.uint16 else images
    pixels = torch.stack(plain.unbind(1), dim=3).view(images.dtype)
    rows = pixels.to(torch.float32).view(count, height, width * channels)
    rows.mul_(scale.view(-1).repeat(width)).add_(shift.view(-1).repeat(width))
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


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
        balanced: Whether to draw as many samples anew in each epoch instead, each class equally
            often on average, if they are shuffled at all.
        drop_last: Whether to leave out the last batch of an epoch if it is smaller.
        transforms: Other transforms of each image.
        trick: Tricks that change the order of an epoch, and the images of an update.
        begin: The time before the first update, for them.
        parts: How a batch is divided among ranks; this one's samples of it are made.

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
    balanced: bool = False
    drop_last: bool = False
    transforms: Sequence[Transform] = ()
    trick: Chain = NO_TRICK
    begin: Time = START
    parts: Parts = WHOLE

    def __post_init__(self) -> None:
        scale, shift = normalization(self.mean, self.std, self.split.levels)
        self._scale, self._shift = (t.to(self.split.labels.device) for t in (scale, shift))
        self._are_changed = any(overrides(trick, "images") for trick in self.trick)

    def __len__(self) -> int:
        return updates_per_epoch(len(self.split.labels), self.batch_size, self.drop_last)

    def epoch(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[Batch]:
        """Yield the batches of an epoch: every `step`-th, from batch `start` on."""
        order = self._known_where_the_images_are(self.order(epoch))
        ahead, read = self._ahead(order[1], start, step), 0
        for index in range(start, len(self), step):
            if ahead:
                ahead.reach(read + 2 * self.batch_size)
            batch = self._batch(order, epoch, index, self._places(index))
            read += len(batch.targets)
            yield batch

    def _places(self, index: int) -> Sequence[slice] | None:
        return self.parts.places(self.samples(index))

    def _ahead(self, order: Tensor, start: int, step: int) -> Ahead | None:
        """Give back what asks the disk for the images of these batches, if they are mapped."""
        if self.split.rows is None or start >= len(self):
            return None
        batches = [*enumerate(order.split(self.batch_size))][start : len(self) : step]
        own = (b if (p := self._places(i)) is None else pick(b, p) for i, b in batches)
        return Ahead(self.split.images, self.split.rows.index_select(0, torch.cat([*own])))

    def first(self, most: int) -> Batch:
        """Return the first samples of the first batch, without the work for the others.

        Tricks draw for a whole batch, and get one.
        """
        order = self._known_where_the_images_are(self.order(0))
        return self._batch(order, 0, 0, [slice(min(most, self.samples(0)))])

    def samples(self, index: int) -> int:
        """Count the samples of a batch of an epoch, those that are not wanted too."""
        return min(self.batch_size, len(self.split.labels) - index * self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Return the samples of an epoch in their order, as the tricks have it, [N].

        They are places in the split. Balanced, each is drawn with replacement: its class, all
        classes being equally likely, and then one of the class. So each of the n_c samples of one
        of K classes has the probability 1 / (K n_c), as with torch's `WeightedRandomSampler` and
        weights 1 / n_c, but exact for any number of samples.
        """
        return self.trick.order(self._drawn_order(epoch))

    def _drawn_order(self, epoch: int) -> Tensor:
        labels = self.split.labels
        count, device = len(labels), labels.device
        if not self.shuffle:
            return torch.arange(count, device=device)
        generator = torch.Generator(device).manual_seed(derive_seed(self.seed, "order", epoch))
        if not self.balanced:
            return torch.randperm(count, generator=generator, device=device)
        by_class = labels.argsort(stable=True)
        sizes = labels[by_class].unique_consecutive(return_counts=True)[1]
        drawn = torch.randint(len(sizes), (count,), generator=generator, device=device)
        share = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        sizes, starts = sizes[drawn], (sizes.cumsum(0) - sizes)[drawn]
        return by_class[starts + (share * sizes).long()]

    def _known_where_the_images_are(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Give back an order where the labels are, and where the images are: no batch waits."""
        return order, order.to(self.split.images.device)

    def _batch(
        self,
        order: tuple[Tensor, Tensor],
        epoch: int,
        index: int,
        places: Sequence[slice] | None = None,
    ) -> Batch:
        """Make a batch, or samples of it; what is drawn is drawn for all, and tricks see all."""
        start, samples = index * self.batch_size, self.samples(index)
        if places is not None and self._are_changed:
            inputs, targets, *_ = self._batch(order, epoch, index)
            return Batch(pick(inputs, places), pick(targets, places))
        there, here = (each[start : start + samples] for each in order)
        is_one, draw = order[0] is order[1], self._draw(samples, epoch, index)
        if places is not None:
            there, here = pick(there, places), pick(here, places)
            draw = draw and draw.at(places)
        wanted = [slice(samples)] if places is None else places  # or none, of a small last batch
        numbers = (n for place in wanted for n in range(samples)[place])
        seeds = (derive_seed(self.seed, "transforms", epoch, start + n) for n in numbers)
        images = self.split.images_of(there if is_one else here)
        images = images if is_one else send(images, there.device)
        images = self._augmented(images, draw, seeds)
        update = self.begin.update + epoch * len(self) + index
        inputs = self._inputs(self._changed(images, there, update), draw)
        return Batch(inputs, self.split.labels.index_select(0, there))

    def _changed(self, images: Tensor, samples: Tensor, update: int) -> Tensor:
        """Let the tricks change the images of an update, with random numbers of their own."""
        if not self._are_changed:
            return images
        seed = derive_seed(self.begin.seed, "images", update)
        generator = torch.Generator(images.device).manual_seed(seed)
        time = self.begin._replace(update=update)
        return self.trick.images(images, samples, time, generator)

    def _draw(self, count: int, epoch: int, index: int) -> Draw | None:
        """Draw for a whole batch, also where only some samples of it are wanted."""
        if not self.augmentation.draws:
            return None
        seed = derive_seed(self.seed, "augmentation", epoch, index)
        generator = torch.Generator(self.split.labels.device).manual_seed(seed)
        return self.augmentation.draw(count, self.split.shape[1:], generator)

    def _augmented(self, images: Tensor, draw: Draw | None, seeds: Iterable[int]) -> Tensor:
        """Crop, flip and transform: integers [n, C, H, W]."""
        augmentation = self.augmentation
        if draw and (augmentation.crop or augmentation.flip):
            images = crop_and_flip(images, augmentation.crop, draw.offsets, draw.flips)
        if self.transforms:
            images = transform(images, self.transforms, seeds)
        return images

    def _inputs(self, images: Tensor, draw: Draw | None) -> Tensor:
        """Normalise, and cut out: [n, C, H, W], integers to float32."""
        inputs = normalized(images, self._scale, self._shift, self.memory_format)
        if draw and self.augmentation.cutout:
            self._cut_out_(inputs, draw.centres)
        return inputs

    def _cut_out_(self, inputs: Tensor, centres: Tensor) -> None:
        """Cut out; of images that tricks have made smaller the same share, at the same place."""
        own, sides = self.split.shape[1:], inputs.shape[2:]
        pairs = zip(centres, sides, own, strict=True)
        centres = torch.stack([centre * side // whole for centre, side, whole in pairs])
        side = round(self.augmentation.cutout * max(sides) / max(own))
        cut_out_(inputs, max(1, side), centres)


@dataclass(eq=False, frozen=True)
class Inputs:
    """Normalised training inputs [N, C, H, W] of the first epoch, augmented, as no trick has them.

    Tricks take statistics from them: of images like those that the network will be given, neither
    mixed nor erased nor reduced.
    """

    batches: Batches

    def __iter__(self) -> Iterator[Tensor]:
        for batch in replace(self.batches, trick=NO_TRICK, parts=WHOLE).epoch(0):
            yield batch.inputs
