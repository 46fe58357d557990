"""From a `Source` to a `DataSet`: the validation split, and the statistics of the pixels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from runner.data.decode import Reading
from runner.data.remarks import find_remarks
from runner.data.remembered import remembered
from runner.data.source import Source, Split
from runner.errors import UserError
from runner.texts import listed
from tricks import derive_seed

AUTO_SHARE = 0.1  # held out of the training images where a data set has no split for validation
DRAWS = 100  # random orders of the groups, of which the best is taken


@dataclass(frozen=True, eq=False)
class DataSet:
    """The three splits of a data set, disjoint, and the statistics of the training pixels."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: Tensor
    """[C], float32, of the pixels / levels, 255 or 65535."""
    std: Tensor
    """[C], float32, of the pixels / levels; at least one level, 1 / levels."""
    notes: tuple[str, ...] = ()
    """What a user should know of the splits before reading the accuracy on them."""
    reading: Reading | None = None
    """How the image files were read; None where the data set is not of files."""
    files: tuple[str, ...] = ()
    """[M]: the image files that the rows of the splits count in, relative to their root."""

    def to(self, device: torch.device) -> "DataSet":
        """Return the data set on a device.

        Images that are mapped move to a card if all of them fit into half of its free memory; else
        they stay, and go over batch by batch.
        """
        splits = (self.train, self.validation, self.test)
        mapped = [split for split in splits if split.rows is not None]
        size = sum(len(split.labels) * split.images[:1].nbytes for split in mapped)
        fits = device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] / 2
        train, validation, test = (split.to(device, whole=fits) for split in splits)
        mean, std = self.mean.to(device), self.std.to(device)
        return replace(self, train=train, validation=validation, test=test, mean=mean, std=std)


def split_source(source: Source, validation: float | Literal["auto"], seed: int) -> DataSet:
    """Find or hold out the validation split, and measure the training images that remain.

    Args:
        source: A checked source.
        validation: Share of the training images that is held out, stratified, 0 <= share < 1;
            0 gives an empty split. `auto` is the source's own split, and 0.1 if it has none.
        seed: Seed of the choice.

    Raises:
        UserError: If the share takes no image at all, or cannot leave one of each class.
    """
    own = source.validation if validation == "auto" else None
    if validation == "auto":
        validation = AUTO_SHARE if own is None else 0.0
    labels, groups = source.train.labels, source.groups
    count, classes = round(validation * len(labels)), len(source.classes)
    if validation != 0 and not 1 <= count <= len(labels) - classes:
        raise UserError(
            f"data.validation={validation} takes {count} of {len(labels)} training images. It must "
            f"take at least one, and leave one of each of the {classes} classes; "
            "0 means no validation split."
        )
    own_seed = derive_seed(seed, "validation")
    if groups is None or count == 0:
        chosen = choose_stratified(labels, count, own_seed)
    else:
        chosen = choose_groups(labels, groups, count, own_seed, f"data.validation={validation}")
    train = source.train.take(~chosen)
    notes = [*source.notes, *_absent(source, "test", source.test)]
    if own is not None:
        notes += _absent(source, "validation", own)
    elif source.validation is not None:
        notes.append(
            f"the {len(source.validation.labels):,} images of the data set's own validation split "
            f"are not used, as data.validation={validation}; auto uses them"
        )
    mean, std = known_statistics(train)
    held_out = source.train.take(chosen) if own is None else own
    others = {"test": source.test, "validation": held_out}
    notes += find_remarks(train, others, source.classes, source.files)
    splits, classes_ = (train, held_out, source.test), source.classes
    return DataSet(*splits, classes_, mean, std, tuple(notes), source.reading, source.files)


def _absent(source: Source, name: str, split: Split) -> Iterator[str]:
    """Write which classes a split has no images of: an accuracy says nothing about them."""
    counts = split.labels.bincount(minlength=len(source.classes)).tolist()
    absent = [name for name, n in zip(source.classes, counts, strict=True) if n == 0]
    if absent:
        yield (
            f"the {name} split has no images of {listed(absent, 5)}: the {name} accuracy is over "
            f"{len(counts) - len(absent)} of {len(counts)} classes"
        )


def choose_stratified(labels: Tensor, count: int, seed: int) -> Tensor:
    """Choose samples at random, nearly the same share of each class and never a whole class.

    In a random order, sample r of the n of its class has the depth (r + 1/2) / n; those of least
    depth are chosen. So each class gives its share to within one, and the total is exact.

    Args:
        labels: [N] class ids.
        count: How many to choose; it must leave at least one sample of each class.
        seed: Seed of the order.

    Returns:
        A mask [N].

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> labels[choose_stratified(labels, 3, seed=0)]
    tensor([0, 0, 1])
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    labels = labels[order]
    sizes = labels.bincount()
    by_class = labels.argsort(stable=True)
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    depth = (rank + 0.5) / sizes[labels]
    depth[rank == sizes[labels] - 1] += 1  # keep the last of each class
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order[depth.argsort(stable=True)[:count]]] = True
    return chosen


def choose_groups(labels: Tensor, groups: Tensor, count: int, seed: int, setting: str) -> Tensor:
    """Choose whole groups at random, about so many samples, nearly the same share of each class.

    Of `DRAWS` random orders of the groups, each with as many first groups as come nearest to the
    count, that one is taken in which the shares of the classes are nearest to the whole share. The
    only group of a class is never chosen.

    Args:
        labels: [N] class ids.
        groups: [N] ids.
        count: How many samples to choose, about.
        seed: Seed of the orders.
        setting: What the count comes from, for the error.

    Returns:
        A mask [N].

    Raises:
        UserError: If no order leaves a sample of each class.
    """
    groups = groups.unique(return_inverse=True)[1]
    table = torch.zeros(int(groups.max()) + 1, int(labels.max()) + 1)
    table.index_put_((groups, labels), torch.ones(len(labels)), accumulate=True)
    alone = (table > 0).sum(0) == 1
    free = (table[:, alone] == 0).all(1).nonzero()[:, 0]
    table, totals = table[free], table.sum(0)
    generator = torch.Generator().manual_seed(seed)
    best, least = None, float("inf")
    for _ in range(DRAWS if len(free) else 0):
        order = torch.randperm(len(free), generator=generator)
        sizes = table[order].sum(1).cumsum(0)
        first = order[: int((sizes - count).abs().argmin()) + 1]
        taken = table[first].sum(0)
        error = float((taken / totals.clamp(min=1) - count / len(labels)).abs().sum())
        if error < least and bool((taken < totals).logical_or(totals == 0).all()):
            best, least = first, error
    if best is None:
        raise UserError(
            f"{setting} cannot take whole groups and leave an image of each class. "
            "Lower it, or divide the images into more groups."
        )
    return torch.isin(groups, free[best])


def known_statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Return `pixel_statistics`, from an earlier run if it has computed them of the same images."""
    found = remembered(
        [split], "mean and std", lambda: [each.tolist() for each in pixel_statistics(split)]
    )
    mean, std = map(torch.tensor, found)  # the same bits: a float32 is exact as a number of JSON
    return mean, std


def pixel_statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, float32 [C], of the pixels / levels.

    Exact but for the last rounding: the levels, 0 to 255 or 65535, are counted, in integers. The
    deviation is that of the whole population (divided by N), and at least one level, so that
    a constant channel can be divided by it.

    Args:
        split: Not empty.

    >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    >>> pixel_statistics(Split(images, torch.tensor([0, 1])))
    (tensor([0.5000]), tensor([0.5000]))
    """
    white = split.levels
    counts = torch.zeros(split.shape[0], white + 1, dtype=torch.int64)
    for chunk in split.chunks():
        for count, channel in zip(counts, chunk.unbind(1), strict=True):
            values = channel.flatten()
            values = values.int() if values.dtype == torch.uint16 else values
            count += values.bincount(minlength=white + 1)
    shares = counts.double() / counts.sum(1, keepdim=True)
    levels = torch.arange(white + 1, dtype=torch.float64) / white
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]).square()).sum(1)
    return mean.float(), variance.sqrt().clamp(min=1 / white).float()
