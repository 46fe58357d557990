"""A data set of image files, in one folder per class: listed, checked, and decoded once."""

import os
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from runner.data import cache as cached
from runner.data.decode import decode
from runner.data.source import Source, Split
from runner.errors import UserError
from runner.texts import listed, reason, tell

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder; files with other suffixes are ignored."""

Side = Annotated[int, Field(ge=1)]  # pixels


class ImageFile(NamedTuple):
    """One image file, with the size and time by which a change is noticed."""

    path: str
    """Relative to the root."""
    label: int
    size: int
    """Bytes."""
    modified: int
    """Nanoseconds."""


class Listing(NamedTuple):
    """The classes and files of a data set."""

    classes: tuple[str, ...]
    train: list[ImageFile]
    test: list[ImageFile]


def image_folder(root: str, size: Side | None = None, cache: str | None = None) -> Source:
    """Return the images of `root/train/<class>/*` and `root/test/<class>/*`.

    The classes are the folders of `train`, sorted by name. The images become RGB, or grey where
    all of them are; transparency is dropped, and the EXIF orientation is ignored. They are decoded
    once, into a file in `cache`, and again when a file is added, removed or changed.

    Args:
        root: The folder.
        size: Side to resize all images to, in pixels (bilinear, antialiased; the aspect ratio is
            not kept). None keeps their size, which must then be the same for all.
        cache: Folder of the decoded images; None for $BISCUITS_CACHE, else
            $XDG_CACHE_HOME/biscuits, else ~/.cache/biscuits.

    Raises:
        UserError: If a folder is missing or empty; there are fewer than two classes, or a class in
            `test` only; images cannot be read or, without a `size`, differ in size; or the folder
            changes while it is read.
    """
    folder = Path(os.path.expanduser(root))
    listing = scan(folder)
    images = torch.from_numpy(_load(folder.resolve(), listing, size, cache))
    train, test = (
        torch.tensor([f.label for f in files]) for files in (listing.train, listing.test)
    )
    count = len(train)
    return Source(Split(images[:count], train), Split(images[count:], test), listing.classes)


def scan(root: Path) -> Listing:
    """List the images in a folder, by class and name.

    Raises:
        UserError: If there are no folders `train/<class>/` and `test/<class>/`, or they hold no
            images or cannot be read.
    """
    try:
        if problem := _problem(root):
            raise UserError(
                f"data.root: {problem}. "
                "Expected train/<class>/*.jpg and test/<class>/*.jpg, for two classes or more."
            )
        classes = _subfolders(root / "train")
        if surplus := [name for name in _subfolders(root / "test") if name not in classes]:
            raise UserError(
                f"data.root: {tell(root)}/test has classes that train/ has not: {listed(surplus)}. "
                "Rename or remove them, or add them to train/."
            )
        train, test = (
            [file for n, name in enumerate(classes) for file in _files(root, split, name, n)]
            for split in ("train", "test")
        )
        seen = {file.label for file in train}
        empty = [f"train/{name}" for label, name in enumerate(classes) if label not in seen]
        if empty or not test:
            raise UserError(
                f"data.root: {tell(root)} has no images in {listed(empty or ['test'])}. "
                f"Expected files that end in {' '.join(SUFFIXES)}."
            )
        return Listing(tuple(classes), train, test)
    except OSError as error:
        raise UserError(
            f"data.root: cannot read {tell(error.filename or root)}: {reason(error)}. "
            "Make it readable, or set another folder."
        ) from error


def _problem(root: Path) -> str | None:
    """Return what keeps a folder from being one of train/<class>/ and test/<class>/."""
    if not root.is_dir():
        return f"{tell(root)} {'is not a folder' if root.exists() else 'does not exist'}"
    for split in ("train", "test"):
        if not (root / split).is_dir():
            present = listed(_subfolders(root)) or "no folder at all"
            return f"no folder {split}/ in {tell(root)}, which has {present}"
    classes = _subfolders(root / "train")
    if len(classes) == 1:
        return f"only one class in {tell(root)}/train, {tell(classes[0])}"
    return None if classes else f"no folder in {tell(root)}/train"


def _subfolders(folder: Path) -> list[str]:
    """List the folders in a folder; refuse broken links, any of which may be meant as a class."""
    with os.scandir(folder) as content:
        entries = [entry for entry in content if not entry.name.startswith(".")]
    if broken := sorted(e.name for e in entries if e.is_symlink() and not os.path.exists(e)):
        raise UserError(
            f"data.root: {tell(folder)} has broken links: {listed(broken)}. Repair or remove them."
        )
    return sorted(entry.name for entry in entries if entry.is_dir())


def _files(root: Path, split: str, name: str, label: int) -> list[ImageFile]:
    """List the images of one class in one split; none if it has no folder there."""
    folder = root / split / name
    if not folder.is_dir():
        return []
    with os.scandir(folder) as content:
        entries = sorted(content, key=lambda entry: entry.name)
    return [
        ImageFile(f"{split}/{name}/{entry.name}", label, *_stamp(entry))
        for entry in entries
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
    ]


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Return size and time of a file; (-1, -1) for a broken link, which the decoder reports."""
    try:
        stat = entry.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _load(root: Path, listing: Listing, size: int | None, folder: str | None) -> NDArray[np.uint8]:
    """Return the images [N, C, H, W], training first, from the cache if nothing has changed."""
    files = listing.train + listing.test
    file, key = cached.path(folder, root, size), cached.fingerprint(files)
    cached.remove_leftovers(file.parent)
    if (images := cached.load(file, key, len(files), size)) is not None:
        return images
    _log(f"Decoding the {len(files):,} images of {tell(root)} once, into {tell(file)}.")
    images = decode(root, [file.path for file in files], size)
    now = scan(root)
    if now != listing:
        changed = sorted({file.path for file in {*files} ^ {*now.train, *now.test}})
        raise UserError(
            f"data.root: {tell(root)} changed while it was being read: {listed(changed)}. "
            "Run the command again when nothing writes there."
        )
    try:
        cached.save(file, key, images)
    except (OSError, UserError) as error:
        _log(
            f"The decoded images are not cached: cannot write {tell(file)}: "
            f"{reason(error.__cause__ or error)}. Set data.cache to another folder."
        )
    return images


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
