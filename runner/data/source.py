"""`Source`, what a data-set function returns, and the check that it is well formed."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from runner.data.cache import Origin
from runner.data.decode import Reading
from runner.data.stream import Ahead
from runner.errors import UserError
from runner.texts import listed, short

PLAIN = (torch.strided, "cpu")
BLOCK = 2**24  # bytes of the images that are looked at at a time
LEVELS = {torch.uint8: 255, torch.uint16: 65535}


class Split(NamedTuple):
    """Images and their labels.

    The images are all in memory, or a memory map, of which the splits of a data set share one and
    `rows` says whose is what. Read them by `images_of` and `chunks`, which know. On a card, mapped
    images are there as a whole, or on the CPU while the labels are there.
    """

    images: Tensor
    """[M, C, H, W], uint8 or uint16."""
    labels: Tensor
    """[N], int64: indices into `classes`."""
    rows: Tensor | None = None
    """[N], int64: which images are the split's; None: all of them, in order (M = N)."""
    origin: Origin | None = None
    """The file of the images, where they were mapped as an earlier run left them."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image, (C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def levels(self) -> int:
        """The value of white: 255 or 65535."""
        return LEVELS[self.images.dtype]

    def images_of(self, index: Tensor) -> Tensor:
        """Return the images [n, C, H, W] at places [n] in the split, on the device of the index."""
        device = index.device
        if self.images.device != device:
            index = index.to(self.images.device)
        if self.rows is not None:
            index = self.rows.index_select(0, index)
        # index_select: ten times as fast as images[index] on a CPU
        images = self.images.index_select(0, index)
        return images if images.device == device else images.to(device)

    def chunks(self) -> Iterator[Tensor]:
        """Yield all images in order, in blocks [n, C, H, W] of some megabytes."""
        count = max(1, BLOCK // max(1, self.images[:1].nbytes))
        if self.rows is None:
            yield from self.images.split(count)
            return
        ahead = Ahead(self.images, self.rows)
        for number, rows in enumerate(self.rows.split(count)):
            ahead.reach((number + 1) * count)
            yield self.images.index_select(0, rows)

    def take(self, chosen: Tensor) -> "Split":
        """Return the samples that a mask [N] chooses."""
        if self.rows is None:
            return Split(self.images[chosen], self.labels[chosen])
        return self._replace(labels=self.labels[chosen], rows=self.rows[chosen])

    def to(self, device: torch.device, whole: bool = True) -> "Split":
        """Return the split on a device; if not `whole`, its images stay, and come one by one."""
        labels = self.labels.to(device)
        if self.rows is None:
            return Split(self.images.to(device), labels)
        if not whole or device.type == "cpu":
            return self._replace(labels=labels)
        shape = (len(labels), *self.shape)
        images, start = torch.empty(shape, dtype=self.images.dtype, device=device), 0
        for chunk in self.chunks():
            images[start : start + len(chunk)] = chunk
            start += len(chunk)
        return Split(images, labels)


@dataclass(frozen=True, eq=False)
class Source:
    """What a data-set function returns: a training split, a test split, the names of the classes.

    A custom data set is a function with annotated keyword parameters that returns this.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    validation: Split | None = None
    """None to take it from the training split, as `data.validation` says."""
    reading: Reading | None = None
    """How its image files are read, if it is of files: so that others can be read alike."""
    _: KW_ONLY
    groups: Tensor | None = None
    """[N] of the training images, ids from 0: images of one group, such as those of one patient,
    are not divided between training and validation. None: every image by itself."""
    files: tuple[str, ...] = ()
    """[M]: the files of the images that the rows of the splits count in, if it is of files."""
    notes: tuple[str, ...] = ()
    """What a user should know of the splits."""


def check_source(source: object, where: str) -> None:
    """Refuse a malformed source.

    Raises:
        UserError: If it is not a `Source` of two `Split`s and names; a tensor has the wrong type,
            shape or device; a split is empty; a label is out of range; there are fewer than two
            classes, or one has no training image.
    """
    if not isinstance(source, Source):
        raise UserError(
            f"{where} must return a runner.data.Source, got {type(source).__name__}. "
            "Return Source(train, test, classes)."
        )
    _check_classes(source.classes, where)
    splits = {"train": source.train, "test": source.test, "validation": source.validation}
    if source.validation is None:
        del splits["validation"]
    for name, split in splits.items():
        _check_split(split, len(source.classes), f"{where}: {name}")
    train, *others = ((n, s.shape) for n, s in splits.items() if s is not None)
    for name, shape in others:
        if shape != train[1]:
            raise UserError(
                f"{where}: the training images have the shape {train[1]}, the {name} images "
                f"{shape}. Convert them to one shape."
            )
    if source.groups is not None:
        _check_groups(source.groups, len(source.train.labels), where)
    counts = source.train.labels.bincount(minlength=len(source.classes)).tolist()
    if unseen := [name for name, n in zip(source.classes, counts, strict=True) if n == 0]:
        raise UserError(
            f"{where}: no training images of class {listed(unseen, 5)}. "
            "Add some, or number the classes from 0 without it."
        )


def _check_classes(classes: object, where: str) -> None:
    if not isinstance(classes, tuple | list) or not all(isinstance(n, str) for n in classes):
        raise UserError(
            f"{where}: classes must be a tuple of str, got {short(classes)}. Return one name each."
        )
    if len(set(classes)) < max(2, len(classes)):
        remedy = "Give each class its own name" if classes[1:] else "Add a second class"
        raise UserError(
            f"{where}: classes must be two or more different names, got "
            f"{listed(classes, 5) or 'none'}. {remedy}."
        )


def _check_split(split: object, classes: int, where: str) -> None:
    if not isinstance(split, Split):
        raise UserError(
            f"{where} must be a runner.data.Split, got {type(split).__name__}. "
            "Return Split(images, labels)."
        )
    for name, tensor in split._asdict().items():
        if isinstance(tensor, Tensor) and (tensor.layout, tensor.device.type) != PLAIN:
            raise UserError(
                f"{where}.{name} must be a dense tensor on the CPU, got {tensor.layout} on "
                f"{tensor.device}. It is moved to the device of the run later."
            )
    images, labels, rows = split[:3]
    if not any(_is_tensor(images, dtype, 4) for dtype in LEVELS):
        raise UserError(
            f"{where}.images must be uint8 or uint16 [N, C, H, W], got {_describe(images)}. Scale "
            "the pixels to integers from 0 to 255 (65535), and put the channels second."
        )
    if rows is not None:
        _check_rows(rows, len(images), where)
    count = len(images if rows is None else rows)
    if not _is_tensor(labels, torch.int64, 1) or len(labels) != count:
        raise UserError(
            f"{where}.labels must be int64 [{count}], one for each image, "
            f"got {_describe(labels)}. Return the index of each image's class."
        )
    if images.numel() == 0 or count == 0:
        raise UserError(f"{where} is empty: {_describe(images)}. Return at least one image.")
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= classes:
        raise UserError(
            f"{where}.labels must be from 0 to {classes - 1}, as there are {classes} classes, "
            f"got {low if low < 0 else high}. Number the classes from 0, or name all of them."
        )


def _check_groups(groups: Tensor, count: int, where: str) -> None:
    if not _is_tensor(groups, torch.int64, 1) or len(groups) != count or bool((groups < 0).any()):
        raise UserError(
            f"{where}: groups must be int64 [{count}] from 0, one for each training image, got "
            f"{_describe(groups)}. Return the number of each image's group, or None."
        )


def _check_rows(rows: object, count: int, where: str) -> None:
    if not _is_tensor(rows, torch.int64, 1):
        raise UserError(
            f"{where}.rows must be int64 [N] or None, got {_describe(rows)}. "
            "Return the index of each sample's image."
        )
    assert isinstance(rows, Tensor)
    outside = rows[(rows < 0) | (rows >= count)]
    if len(outside):
        raise UserError(
            f"{where}.rows must be from 0 to {count - 1}, as there are {count} images, "
            f"got {int(outside[0])}. Return the index of each sample's image."
        )


def _is_tensor(tensor: object, dtype: torch.dtype, dimensions: int) -> bool:
    return isinstance(tensor, Tensor) and tensor.dtype == dtype and tensor.ndim == dimensions


def _describe(tensor: object) -> str:
    """Return type and shape, and whether NaN or infinity is in it: no scaling removes them."""
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    text = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    finite = not tensor.is_floating_point() or bool(tensor.double().isfinite().all())
    return text if finite else f"{text} with NaN or infinity in it"
