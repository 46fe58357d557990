"""From a `Source` to a `DataSet`: the validation split taken off, the training pixels measured."""

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.data.source import Source, Split
from runner.errors import UserError
from tricks import derive_seed

GREY_LEVELS = 256
IMAGES_AT_ONCE = 4096  # how many are counted at a time: the count must not need the memory of all


@dataclass(frozen=True, eq=False)
class DataSet:
    """The three splits of a data set, disjoint, and the statistics of the training pixels."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: Tensor
    """[C], float32, in units of the full scale: pixels / 255."""
    std: Tensor
    """[C], float32, in the same unit; at least one grey level, 1/255."""

    def to(self, device: torch.device) -> "DataSet":
        """Give back the data set with all its tensors on a device."""
        return DataSet(
            self.train.to(device),
            self.validation.to(device),
            self.test.to(device),
            self.classes,
            self.mean.to(device),
            self.std.to(device),
        )


def split_source(source: Source, validation: float, seed: int) -> DataSet:
    """Take a stratified validation split off the training images, and measure those that stay.

    Args:
        source: A checked source.
        validation: Share of the training images, 0 <= share < 1; 0 gives an empty split.
        seed: What the choice depends on.

    Raises:
        UserError: If no image would be taken, or none of some class be left.
    """
    labels = source.train.labels
    count, classes = round(validation * len(labels)), len(source.classes)
    if validation != 0 and not 1 <= count <= len(labels) - classes:
        raise UserError(
            f"data.validation must take at least one of the {len(labels)} training images and "
            f"leave one of each of the {classes} classes, got {validation}, which takes {count}. "
            "Take another share, or 0 for no validation split."
        )
    chosen = choose_stratified(labels, count, derive_seed(seed, "validation"))
    train = source.train.take(~chosen)
    mean, std = pixel_statistics(train.images)
    return DataSet(train, source.train.take(chosen), source.test, source.classes, mean, std)


def choose_stratified(labels: Tensor, count: int, seed: int) -> Tensor:
    """Choose samples at random, of each class nearly the same share; never a whole class.

    In a random order, sample r of the n of its class has the depth (r + 1/2) / n; the least deep
    are chosen. Each class so gives its share to within one, and the total is exact.

    Args:
        labels: [N] class ids.
        count: How many to choose; at least one sample of each class must be left over.
        seed: What the choice depends on.

    Returns:
        A mask [N].
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    labels = labels[order]
    sizes = labels.bincount()
    by_class = labels.argsort(stable=True)
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    depth = (rank + 0.5) / sizes[labels]
    depth[rank == sizes[labels] - 1] += 1  # the last of its class is not to be had
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[depth.argsort(stable=True)[:count]]] = True
    return chosen


def pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Give back mean and standard deviation of each channel, float32 [C], of pixels / 255.

    Exact but for the last rounding: the grey levels are counted, in integers. The deviation is
    that of the whole population (divided by its size), and at least one grey level, so that a
    constant channel can be divided by it.

    Args:
        images: [N, C, H, W], uint8, not empty.

    >>> pixel_statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    (tensor([0.5000]), tensor([0.5000]))
    """
    counts = torch.zeros(images.shape[1], GREY_LEVELS, dtype=torch.int64)
    for some in torch.split(images, IMAGES_AT_ONCE):
        for count, channel in zip(counts, some.unbind(1), strict=True):
            count += channel.flatten().bincount(minlength=GREY_LEVELS)
    shares = counts.double() / counts.sum(1, keepdim=True)
    levels = torch.arange(GREY_LEVELS, dtype=torch.float64) / 255
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]).square()).sum(1)
    return mean.float(), variance.sqrt().clamp(min=1 / 255).float()
