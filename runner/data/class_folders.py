"""A data set of image files, in one folder per class: listed, and decoded once."""

import os
from pathlib import Path

from runner.data.decode import Bands, Bits, Reading, Size
from runner.data.folds import Fold, Folds, HoldOut, Share, SplitSeed, make_source, settle
from runner.data.geometry import Resize
from runner.data.images import read_images
from runner.data.listing import Listing, scan
from runner.data.source import Source


def image_folder(
    root: str,
    size: Size | None = None,
    cache: str | None = None,
    test: Share | None = None,
    folds: Folds | None = None,
    fold: Fold | None = None,
    split_seed: SplitSeed = 0,
    resize: Resize = "stretch",
    bits: Bits = 8,
    bands: Bands = "auto",
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

    The images become RGB, or grey where all of them are. They are turned upright, as their EXIF
    orientation says. Of an animation the first frame is read; transparency, a fourth band that is
    marked as such, is dropped. They are decoded once, into a file in `cache`, and again when a file
    is added, removed or changed; from there they are mapped into memory, and may be larger than it.

    Args:
        root: The folder.
        size: Side, or height and width, to resize all images to, in pixels (bilinear, antialiased).
            None keeps their size, which must then be the same for all.
        cache: Folder of the decoded images; None for $BISCUITS_CACHE, else
            $XDG_CACHE_HOME/biscuits, else ~/.cache/biscuits.
        test: Share of the images that is held out for testing, nearly the same of each class.
        folds: Into how many folds the images are divided, equal to within one image, in all and in
            each class; None for five, where `fold` is given.
        fold: Which of them is the test split, from 0.
        split_seed: Seed of the choice: the same test images for every seed of a run.
        resize: `stretch` to the size; `pad`: fit within it, with a black border; `crop`: fill it,
            and cut off what goes beyond, evenly on both sides.
        bits: 8, or 16 for pixels from 0 to 65535, of PNG and TIFF files without loss; an image of
            8 bits is then scaled by 257. Of 8, more bits of grey are refused, and of colours cut.
        bands: `auto`, or `all` for every band as a channel, such as transparency or infrared; all
            images must have as many. A TIFF of 16 bits or of other bands is read by tifffile.

    Raises:
        UserError: If a folder is missing or empty; there are fewer than two classes, or a class
            that `train` has not, or one with fewer images than folds; images cannot be read or,
            without a `size`, differ in size; or the folder changes while it is read.
    """
    folder, hold_out = Path(os.path.expanduser(root)), HoldOut(test, folds, fold, split_seed)
    reading = Reading(size, resize, bits, bands)

    def look() -> Listing:
        return scan(folder, hold_out.setting)

    listing = settle(look(), hold_out)
    images, origin = read_images(
        folder.resolve(),
        listing.files,
        reading,
        cache,
        rescan=lambda: look().files,
        ignored=listing.ignored,
    )
    return make_source(listing, images, reading, origin)
