"""`Source`, what a data-set function returns, and the check that it is well formed."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from runner.errors import UserError
from runner.texts import listed, short

PLAIN = (torch.strided, "cpu")


class Split(NamedTuple):
    """Images and their labels, all in memory."""

    images: Tensor
    """[N, C, H, W], uint8."""
    labels: Tensor
    """[N], int64: indices into `classes`."""

    def take(self, chosen: Tensor) -> "Split":
        """Return the samples that a mask [N] chooses."""
        return Split(self.images[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> "Split":
        """Return the split on a device."""
        return Split(self.images.to(device), self.labels.to(device))


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
    train, *others = ((n, tuple(s.images.shape[1:])) for n, s in splits.items() if s is not None)
    for name, shape in others:
        if shape != train[1]:
            raise UserError(
                f"{where}: the training images have the shape {train[1]}, the {name} images "
                f"{shape}. Convert them to one shape."
            )
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
    images, labels = split
    if not _is_tensor(images, torch.uint8, 4):
        raise UserError(
            f"{where}.images must be uint8 [N, C, H, W], got {_describe(images)}. "
            "Scale the pixels to integers from 0 to 255, and put the channels second."
        )
    if not _is_tensor(labels, torch.int64, 1) or len(labels) != len(images):
        raise UserError(
            f"{where}.labels must be int64 [{len(images)}], one for each image, "
            f"got {_describe(labels)}. Return the index of each image's class."
        )
    if images.numel() == 0:
        raise UserError(f"{where} is empty: {_describe(images)}. Return at least one image.")
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= classes:
        raise UserError(
            f"{where}.labels must be from 0 to {classes - 1}, as there are {classes} classes, "
            f"got {low if low < 0 else high}. Number the classes from 0, or name all of them."
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
