"""Real images that an exported model is held against: the run's own, or those that a user names."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from runner.build import build_data
from runner.data import Split
from runner.errors import UserError
from runner.run.saved import read_settings
from runner.store.runs import CONFIG
from runner.texts import reason
from runner.trained.answers import find_images
from runner.trained.model import TrainedModel

FEWEST, MOST = 16, 64
"""Images that an export is held against."""

NAME_THEM = f"Give at least {FEWEST} images with --images FILE_OR_FOLDER."


def named_images(model: TrainedModel, given: Sequence[str]) -> Tensor:
    """Read images [N, C, H, W] that the user names, from all over them.

    Raises:
        UserError: If they are too few.
    """
    files = find_images(given)
    pictures = [model.look_at(file) for file in files[:: -(-len(files) // MOST)]]
    pixels = [picture.pixels for picture in pictures if picture.pixels is not None]
    if len(pixels) < FEWEST:
        raise UserError(
            f"--images has {len(pixels)} images that can be read. Name at least {FEWEST}, "
            "or a folder of them."
        )
    return torch.stack(pixels)


def own_images(model: TrainedModel, folder: Path) -> Tensor:
    """Read test images [N, C, H, W] of the run in a folder, from all over the split.

    Raises:
        UserError: If they are not there any more, or are not those of the model.
    """
    try:
        settings = read_settings(folder / CONFIG)
        there = {k: v for k, v in {"download": False}.items() if k in settings.data}
        data = build_data(dataclasses.replace(settings, data={**settings.data, **there}))
    except UserError as error:
        raise UserError(
            f"The run's own test images cannot be read: {reason(error)}. {NAME_THEM}"
        ) from error
    if (data.test.shape, data.classes) != (model.shape, model.classes):
        raise UserError(f"The run's data set has other images or classes now. {NAME_THEM}")
    chosen = _spread(data.test)
    if len(chosen) < FEWEST:
        chosen = torch.cat([chosen, _spread(data.train)])[:MOST]
    if len(chosen) < FEWEST:
        raise UserError(f"The run's data set has {len(chosen)} images. {NAME_THEM}")
    return chosen


def _spread(split: Split) -> Tensor:
    """Give images from all over a split, at most `MOST`."""
    count = len(split.labels)
    return split.images_of(torch.arange(0, count, -(-count // MOST)))
