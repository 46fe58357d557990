"""A data set of image files, in one folder per class: listed, and decoded once."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from runner.data.decode import Reading
from runner.data.folds import Fold, Folds, HoldOut, Share, SplitSeed, make_source, settle
from runner.data.images import read_images
from runner.data.listing import Listing, scan
from runner.data.source import Source

Side = Annotated[int, Field(ge=1)]  # pixels


def image_folder(
    root: str,
    size: Side | None = None,
    cache: str | None = None,
    test: Share | None = None,
    folds: Folds | None = None,
    fold: Fold | None = None,
    split_seed: SplitSeed = 0,
) -> Source:
    """Return the images of `root/train/<class>/` and `root/test/<class>/`, at any depth there.

    Those of `root/val/<class>/` (or `valid/`, or `validation/`) are the validation split, where
    there is such a folder; without `test/` they are the test split. With `test` or `fold` the test
    images are taken from those of `train/`, or from `root/<class>/` where there are no folders of
    splits, and `test/` is not read. The case of these names does not count, and they may be
    `training/` and `testing/`.

    The classes are the folders of `train`, sorted by name. The images are those that torchvision's
    ImageFolder lists, in its order, without hidden files; what else is there is reported once,
    before they are decoded.

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
        test: Share of the images that is held out for testing, nearly the same of each class.
        folds: Into how many folds the images are divided, equal to within one image, in all and in
            each class; None for five, where `fold` is given.
        fold: Which of them is the test split, from 0.
        split_seed: Seed of the choice: the same test images for every seed of a run.

    Raises:
        UserError: If a folder is missing or empty; there are fewer than two classes, or a class
            that `train` has not, or one with fewer images than folds; images cannot be read or,
            without a `size`, differ in size; or the folder changes while it is read.
    """
    folder, hold_out = Path(os.path.expanduser(root)), HoldOut(test, folds, fold, split_seed)

    def look() -> Listing:
        return scan(folder, hold_out.setting)

    listing, reading = settle(look(), hold_out), Reading(size)
    images = read_images(
        folder.resolve(),
        listing.files,
        reading,
        cache,
        rescan=lambda: look().files,
        ignored=listing.ignored,
    )
    return make_source(listing, images, reading)
