"""What the network sees, as pictures: batches with their normalising undone."""

import copy
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from runner.data.batches import Batches
from runner.micro_batches import micro_batches
from runner.ranks import Parts
from tricks import Batch, overrides

SIDE = 64  # pixels of an image in a sheet, about
BORDER = 2  # pixels around each of them
STRETCHED = 2.0  # standard deviations around the mean that are black and white for 16 bits


MOST, PIXELS = 32, 2**19  # images of a sheet, and their pixels: it is drawn in an instant


def first_sheet(batches: Batches, micro: int | None = None, classes: int | None = None) -> Tensor:
    """Lay out the first images of the first batch, [3, H', W'], uint8: 32, or fewer large ones.

    Args:
        batches: Of the training split.
        micro: As for `as_trained`.
        classes: As for `as_trained`.
    """
    height, width = batches.split.shape[1:]
    most = min(MOST, max(8, PIXELS // (height * width)))
    mixes = any(overrides(trick, "batch") for trick in batches.trick)
    batch = next(batches.epoch(0)) if mixes else batches.first(most)
    return sheet(to_pixels(as_trained(batches, batch, 0, micro, classes)[:most], batches))


def as_trained(
    batches: Batches, batch: Batch, update: int, micro: int | None, classes: int | None
) -> Tensor:
    """Give back the inputs of an update as the tricks' `batch` changes them.

    Tricks with a state change them as in a first update; their state stays as it is.

    Args:
        batches: Whose batch it is.
        batch: The whole batch.
        update: Which update it is for, from 0.
        micro: Samples of a micro-batch; None for a whole batch.
        classes: How many classes there are.
    """
    trick, time = copy.deepcopy(batches.trick), batches.begin._replace(update=update)
    parts = micro_batches(batch, time, Parts(micro), classes=classes)
    return torch.cat([trick.batch(part, generator).inputs for part, generator, *_ in parts])


def to_pixels(inputs: Tensor, batches: Batches) -> Tensor:
    """Undo the normalising, for the eye.

    Of more than three channels the first three are shown, of two the first. Images of 16 bits
    rarely use their range: black and white are two standard deviations below and above the mean.

    Args:
        inputs: [N, C, H, W], as the network gets them.
        batches: Which normalised them.

    Returns:
        [N, 3, H, W], uint8, on the CPU.
    """
    shown = inputs[:, : 3 if inputs.shape[1] >= 3 else 1].float().cpu()
    if batches.split.levels > 255:
        pixels = (shown + STRETCHED) / (2 * STRETCHED)
    else:
        mean, std = (
            each[: shown.shape[1], None, None].cpu() for each in (batches.mean, batches.std)
        )
        pixels = shown * std + mean
    return (255 * pixels).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)


def sheet(images: Tensor, columns: int = 8) -> Tensor:
    """Lay images [N, 3, H, W], uint8, side by side on white: [3, H', W'], uint8.

    Small ones are enlarged by a whole factor, large ones are reduced.
    """
    side = max(images.shape[2:])
    if side <= SIDE:
        images = images.repeat_interleave(SIDE // side, 2).repeat_interleave(SIDE // side, 3)
    else:
        size = [max(1, round(length * SIDE / side)) for length in images.shape[2:]]
        images = F.interpolate(images.float(), size, mode="area").round().to(torch.uint8)
    images = F.pad(images, (BORDER,) * 4, value=255)
    rows = ceil(len(images) / columns)
    images = F.pad(images, (0,) * 7 + (rows * columns - len(images),), value=255)
    lines = (torch.cat([*line], 2) for line in images.split(columns))
    return torch.cat([*lines], 1)
