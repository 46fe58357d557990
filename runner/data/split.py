"""From a `Source` to a `DataSet`: the validation split, and the statistics of the pixels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from runner.data.decode import Reading
from runner.data.source import Source, Split
from runner.errors import UserError
from runner.texts import listed
from tricks import derive_seed

AUTO_SHARE = 0.1  # held out of the training images where a data set has no split for validation


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

    def to(self, device: torch.device) -> "DataSet":
        """Return the data set with all its tensors on a device."""
        moved = {k: v.to(device) for k, v in vars(self).items() if hasattr(v, "to")}
        return replace(self, **moved)


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
    labels = source.train.labels
    count, classes = round(validation * len(labels)), len(source.classes)
    if validation != 0 and not 1 <= count <= len(labels) - classes:
        raise UserError(
            f"data.validation={validation} takes {count} of {len(labels)} training images. It must "
            f"take at least one, and leave one of each of the {classes} classes; "
            "0 means no validation split."
        )
    chosen = choose_stratified(labels, count, derive_seed(seed, "validation"))
    train = source.train.take(~chosen)
    notes = [*_absent(source, "test", source.test)]
    if own is not None:
        notes += _absent(source, "validation", own)
    elif source.validation is not None:
        notes.append(
            f"the {len(source.validation.labels):,} images of the data set's own validation split "
            f"are not used, as data.validation={validation}; auto uses them"
        )
    mean, std = pixel_statistics(train)
    held_out = source.train.take(chosen) if own is None else own
    splits, classes_ = (train, held_out, source.test), source.classes
    return DataSet(*splits, classes_, mean, std, tuple(notes), source.reading)


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
