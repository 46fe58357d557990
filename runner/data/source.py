"""What a data set gives back, `Source`, and the check that it is a sound one."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from runner.errors import UserError
from runner.texts import listed, tell

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PLAIN = (torch.strided, "cpu")


class Split(NamedTuple):
    """Images and their labels, all in memory."""

    images: Tensor
    """[N, C, H, W], uint8."""
    labels: Tensor
    """[N], int64: places in `classes`."""

    def take(self, chosen: Tensor) -> "Split":
        """Give back the chosen samples, a mask [N]."""
        return Split(self.images[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> "Split":
        """Give back the split on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Source:
    """What a data-set function gives back: a training and a test split, and the classes' names.

    A data set of one's own is a function of annotated keyword parameters that returns this.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]


def check_source(source: object, where: str) -> None:
    """Refuse a malformed source.

    Args:
        source: What a data-set function gave back.
        where: Which function it was, for the message.

    Raises:
        UserError: If it is no `Source` of two `Split`s and names, a tensor has a wrong type, shape
            or place, a split is empty, a label names no class, there are fewer than two classes, or
            one has no training image.
    """
    if not isinstance(source, Source):
        raise UserError(
            f"{where} must give back a runner.data.Source, got {type(source).__name__}. "
            "Return Source(train, test, classes)."
        )
    _check_classes(source.classes, where)
    _check_split(source.train, len(source.classes), f"{where}: train")
    _check_split(source.test, len(source.classes), f"{where}: test")
    train, test = (tuple(split.images.shape[1:]) for split in (source.train, source.test))
    if train != test:
        raise UserError(
            f"{where}: the test images must have the shape of the training images, {train}, "
            f"got {test}. Resize them."
        )
    counts = source.train.labels.bincount(minlength=len(source.classes)).tolist()
    if unseen := [name for name, n in zip(source.classes, counts, strict=True) if n == 0]:
        raise UserError(
            f"{where}: each class must have a training image, got none of {listed(unseen, 5)}. "
            "Leave the class out, or add images."
        )


def _check_classes(classes: object, where: str) -> None:
    if not isinstance(classes, tuple | list) or not all(isinstance(n, str) for n in classes):
        raise UserError(
            f"{where}: classes must be a tuple of names, got {tell(classes)}. Make each one a str."
        )
    if len(set(classes)) < max(2, len(classes)):
        remedy = "Give each class a name of its own" if classes[1:] else "Add images of another"
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
                f"{tensor.device}. Return it so: the bench brings it to the device."
            )
    images, labels = split
    if not _is(images, torch.uint8, 4):
        raise UserError(
            f"{where}.images must be uint8 [N, C, H, W], got {_told(images)}. "
            "Scale the pixels to whole numbers from 0 to 255, and put the channels second."
        )
    if not _is(labels, torch.int64, 1) or len(labels) != len(images):
        raise UserError(
            f"{where}.labels must be int64 [{len(images)}], one for each image, "
            f"got {_told(labels)}. Give the number of the class of each image."
        )
    if images.numel() == 0:
        raise UserError(f"{where} must hold an image, got {_told(images)}. Add images.")
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= classes:
        raise UserError(
            f"{where}.labels must be from 0 to {classes - 1}, as there are {classes} classes, "
            f"got {low if low < 0 else high}. Number the classes from 0, or name them all."
        )


def _is(tensor: object, dtype: torch.dtype, dimensions: int) -> bool:
    return isinstance(tensor, Tensor) and tensor.dtype == dtype and tensor.ndim == dimensions


def _told(tensor: object) -> str:
    """Write what a thing is: its type, its shape where it has one, and what no scaling mends."""
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    told = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    if tensor.dtype in FLOATS and not tensor.isfinite().all():
        return f"{told} with NaN or infinity in it"
    return told
