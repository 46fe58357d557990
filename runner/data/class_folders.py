"""A data set of image files, in one folder per class: listed, and decoded once."""

import os
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from runner.data.decode import Reading
from runner.data.images import read_images
from runner.data.listing import scan
from runner.data.source import Source, Split

Side = Annotated[int, Field(ge=1)]  # pixels


def image_folder(root: str, size: Side | None = None, cache: str | None = None) -> Source:
    """Return the images of `root/train/<class>/` and `root/test/<class>/`, at any depth there.

    Those of `root/val/<class>/` (or `valid/`, or `validation/`) are the validation split, where
    there is such a folder. The classes are the folders of `train`, sorted by name. The images are
    those that torchvision's ImageFolder lists, in its order, without hidden files; what else is
    there is reported once, before they are decoded.

    The images become RGB, or grey where all of them are. Of an animation the first frame is read;
    transparency, a fourth band that is marked as such, is dropped; the EXIF orientation is
    ignored. They are decoded once, into a file in `cache`, and again when a file is added, removed
    or changed.

    Args:
        root: The folder.
        size: Side to resize all images to, in pixels (bilinear, antialiased; the aspect ratio is
            not kept). None keeps their size, which must then be the same for all.
        cache: Folder of the decoded images; None for $BISCUITS_CACHE, else
            $XDG_CACHE_HOME/biscuits, else ~/.cache/biscuits.

    Raises:
        UserError: If a folder is missing or empty; there are fewer than two classes, or a class
            that `train` has not; images cannot be read or, without a `size`, differ in size; or
            the folder changes while it is read.
    """
    folder, reading = Path(os.path.expanduser(root)), Reading(size)
    listing, place = scan(folder), folder.resolve()
    images = read_images(
        place, listing.files, reading, cache, lambda: scan(place).files, listing.ignored
    )
    parts = [files for files in (listing.train, listing.test, listing.validation) if files]
    rows = torch.arange(len(images)).split([len(files) for files in parts])
    labels = [torch.tensor([file.label for file in files]) for files in parts]
    train, test, *validation = (Split(images, *each) for each in zip(labels, rows, strict=True))
    own = validation[0] if validation else None
    return Source(train, test, listing.classes, own, reading)
