"""A data set of image files, in one folder per class: listed, and decoded once."""

import os
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from runner.data import cache as cached
from runner.data.decode import decode
from runner.data.listing import Listing, scan
from runner.data.source import Source, Split
from runner.errors import UserError
from runner.texts import listed, reason, short

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
    folder = Path(os.path.expanduser(root))
    listing = scan(folder)
    images = torch.from_numpy(_load(folder.resolve(), listing, size, cache))
    parts = filter(None, (listing.train, listing.test, listing.validation))
    labels = [torch.tensor([file.label for file in files]) for files in parts]
    pieces = images.split([len(part) for part in labels])
    train, test, *validation = map(Split, pieces, labels)
    return Source(train, test, listing.classes, *validation)


def _load(root: Path, listing: Listing, size: int | None, folder: str | None) -> NDArray[np.uint8]:
    """Return the images [N, C, H, W], training first, from the cache if nothing has changed."""
    files = listing.files
    file, key = cached.path(folder, root, size), cached.fingerprint(files)
    cached.remove_leftovers(file.parent)
    if (images := cached.load(file, key, len(files), size)) is not None:
        return images
    rest = f" Ignored: {listing.ignored}." if listing.ignored else ""
    _log(f"Decoding the {len(files):,} images of {short(root)} once, into {short(file)}.{rest}")
    images = decode(root, [file.path for file in files], size)
    now = scan(root).files
    if now != files:
        changed = sorted({file.path for file in {*files} ^ {*now}})
        raise UserError(
            f"data.root: {short(root)} changed while it was being read: {listed(changed)}. "
            "Run the command again when nothing writes there."
        )
    try:
        cached.save(file, key, images)
    except (OSError, UserError) as error:
        _log(
            f"The decoded images are not cached: cannot write {short(file)}: "
            f"{reason(error.__cause__ or error)}. Set data.cache to another folder."
        )
    return images


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
