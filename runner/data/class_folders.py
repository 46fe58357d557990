"""A data set that is a folder of images: found, checked, and decoded once."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.data import cache as cached
from runner.data.decode import decode
from runner.data.source import Source, Split
from runner.errors import UserError
from runner.texts import listed, reason, tell

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder; files with others are left alone."""


class Picture(NamedTuple):
    """One file, and what tells whether it has changed."""

    path: str
    """Below the root."""
    label: int
    size: int
    """Bytes."""
    modified: int
    """Nanoseconds."""


class Listing(NamedTuple):
    """What a folder of images holds."""

    classes: tuple[str, ...]
    train: list[Picture]
    test: list[Picture]


def image_folder(root: str, size: int | None = None, cache: str | None = None) -> Source:
    """Give back the images of `root/train/<class>/*` and `root/test/<class>/*`.

    The classes are the folders of `train`, sorted. The images become RGB, or grey where every one
    of them is; transparency is dropped, and a camera's rotation mark is not followed. They are
    decoded once, into a file below `cache`, and again when a file is added, removed or changed.

    Args:
        root: The folder.
        size: Side to which all images are resized, in pixels (bilinear, antialiased; the shape
            of an image that is not square is not kept). None: they must be all of one size.
        cache: Folder of the decoded images; None for $BISCUITS_CACHE, else
            $XDG_CACHE_HOME/biscuits, else ~/.cache/biscuits.

    Raises:
        UserError: If a folder is missing or empty, there is one class only, or one in `test` only;
            images differ in size, or some cannot be read, these all by name; or the folder
            changed meanwhile.
    """
    if size is not None and size < 1:
        raise UserError(f"data.size must be >= 1 (pixels), got {size}. Drop it, or raise it.")
    folder = Path(os.path.expanduser(root))
    listing = scan(folder)
    images = torch.from_numpy(_load(folder.resolve(), listing, size, cache))
    count = len(listing.train)
    return Source(
        Split(images[:count], _labels(listing.train)),
        Split(images[count:], _labels(listing.test)),
        listing.classes,
    )


def scan(root: Path) -> Listing:
    """List the images below a folder, in the order of classes and names.

    Raises:
        UserError: If the folders are not `train/<class>/` and `test/<class>/`, hold no images, or
            cannot be read.
    """
    try:
        return _scan(root)
    except OSError as error:
        raise UserError(
            f"data.root must be a folder that can be read, got "
            f"{tell(error.filename or root)}: {reason(error)}. Mend that, or set another."
        ) from error


def _scan(root: Path) -> Listing:
    if problem := _problem(root):
        raise UserError(
            f"data.root must be a folder with train/<class>/ and test/<class>/, got "
            f"{tell(root)}: {problem}."
        )
    classes = _subfolders(root / "train")
    if surplus := [name for name in _subfolders(root / "test") if name not in classes]:
        raise UserError(
            f"{tell(root)}/test must hold classes of train/ only, got {listed(surplus)}. "
            "Rename or remove them, or add images of them to train/."
        )
    train, test = (
        [p for label, name in enumerate(classes) for p in _pictures(root, split, name, label)]
        for split in ("train", "test")
    )
    seen = {picture.label for picture in train}
    if empty := [name for label, name in enumerate(classes) if label not in seen]:
        raise UserError(
            _no_images(f"{tell(root)}/train", f"of each class, got none of {listed(empty)}")
        )
    if not test:
        raise UserError(_no_images(f"{tell(root)}/test", "got none"))
    return Listing(tuple(classes), train, test)


def _problem(root: Path) -> str | None:
    """Say what keeps a folder from being one of train/<class>/ and test/<class>/."""
    if not root.is_dir():
        return "it is not a folder" if root.exists() else "it does not exist"
    for split in ("train", "test"):
        if not (root / split).is_dir():
            return f"it has no {split}/, but {listed(_subfolders(root)) or 'no folder at all'}"
    classes = _subfolders(root / "train")
    if len(classes) == 1:
        return f"its train/ has one class only, {tell(classes[0])}"
    return None if classes else "its train/ has no folder in it"


def _no_images(where: str, got: str) -> str:
    return f"{where} must hold images ({' '.join(SUFFIXES)}), {got}. Add images to the folder."


def _subfolders(folder: Path) -> list[str]:
    """List the folders in a folder; a class that is a link to nothing is not lost in silence."""
    with os.scandir(folder) as content:
        entries = [entry for entry in content if not entry.name.startswith(".")]
    if lost := sorted(e.name for e in entries if e.is_symlink() and not os.path.exists(e)):
        raise UserError(
            f"{tell(folder)} must hold folders and files, got links to nothing: {listed(lost)}. "
            "Remove them, or bring back what they lead to."
        )
    return sorted(entry.name for entry in entries if entry.is_dir())


def _pictures(root: Path, split: str, name: str, label: int) -> list[Picture]:
    """List the images of one class in one split; there may be no folder for it."""
    folder = root / split / name
    if not folder.is_dir():
        return []
    with os.scandir(folder) as content:
        entries = sorted(content, key=lambda entry: entry.name)
    return [
        Picture(f"{split}/{name}/{entry.name}", label, *_stamp(entry))
        for entry in entries
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
    ]


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Give back size and time of a file; none for a link to nothing, which the decoder names."""
    try:
        stat = entry.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _labels(pictures: list[Picture]) -> Tensor:
    return torch.tensor([picture.label for picture in pictures])


def _load(root: Path, listing: Listing, size: int | None, folder: str | None) -> NDArray[np.uint8]:
    """Give back the images [N, C, H, W], training first, from the cache if nothing has changed."""
    pictures = listing.train + listing.test
    file, key = cached.path(folder, root, size), cached.fingerprint(pictures)
    cached.remove_leftovers(file.parent)
    images = cached.load(file, key, len(pictures), size)
    if images is not None:
        return images
    _say(
        f"Decoding the {len(pictures):,} images of {tell(root)}, once; they are kept in "
        f"{tell(file)}."
    )
    images = decode(root, [picture.path for picture in pictures], size)
    _refuse_changes(root, listing, scan(root))
    try:
        cached.save(file, key, images)
    except (OSError, UserError) as error:
        why = reason(error.__cause__ or error)
        _say(
            f"The decoded images are not kept: {tell(file)} cannot be written: {why}. "
            "Set data.cache to another folder."
        )
    return images


def _refuse_changes(root: Path, before: Listing, after: Listing) -> None:
    """Refuse a folder that changed while it was decoded: of whom would the images be?"""
    if before != after:
        changed = {p.path for p in {*before.train, *before.test} ^ {*after.train, *after.test}}
        raise UserError(
            f"{tell(root)} must stay as it is while it is read, got changes: "
            f"{listed(sorted(changed))}. Give the same command once nothing writes there."
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
