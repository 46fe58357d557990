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
        UserError: If a folder is missing or empty, a class is in `test` only, images differ in
            size, or some cannot be read: these all by name.
    """
    if size is not None and size < 1:
        raise UserError(f"data.size must be >= 1 (pixels), got {size}. Drop it, or raise it.")
    folder = Path(root).expanduser()
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
        UserError: If the folders are not `train/<class>/` and `test/<class>/`, or hold no images.
    """
    if problem := _problem(root):
        raise UserError(
            f"data.root must be a folder with train/<class>/ and test/<class>/, got {root}: "
            f"{problem}."
        )
    classes = _subfolders(root / "train")
    if surplus := [name for name in _subfolders(root / "test") if name not in classes]:
        raise UserError(
            f"{root}/test must hold classes of train/ only, got {', '.join(surplus)}. "
            "Rename or remove them, or add images of them to train/."
        )
    train, test = (
        [p for label, name in enumerate(classes) for p in _pictures(root, split, name, label)]
        for split in ("train", "test")
    )
    seen = {picture.label for picture in train}
    if empty := [name for label, name in enumerate(classes) if label not in seen]:
        raise UserError(_no_images(f"{root}/train", f"of each class, got none of {_list(empty)}"))
    if not test:
        raise UserError(_no_images(f"{root}/test", "got none"))
    return Listing(tuple(classes), train, test)


def _problem(root: Path) -> str | None:
    """Say what keeps a folder from being one of train/<class>/ and test/<class>/."""
    if not root.is_dir():
        return "it is not a folder" if root.exists() else "it does not exist"
    for split in ("train", "test"):
        if not (root / split).is_dir():
            return f"it has no {split}/, but {_list(_subfolders(root)) or 'no folder at all'}"
    return None if _subfolders(root / "train") else "its train/ has no folder in it"


def _no_images(where: str, got: str) -> str:
    return f"{where} must hold images ({' '.join(SUFFIXES)}), {got}. Add images to the folder."


def _list(names: list[str]) -> str:
    """List the first names, and count the rest."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _subfolders(folder: Path) -> list[str]:
    entries = os.scandir(folder)
    return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _pictures(root: Path, split: str, name: str, label: int) -> list[Picture]:
    """List the images of one class in one split; there may be no folder for it."""
    folder = root / split / name
    entries = sorted(os.scandir(folder), key=lambda e: e.name) if folder.is_dir() else []
    pictures = []
    for entry in entries:
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
            stat = entry.stat()
            path = f"{split}/{name}/{entry.name}"
            pictures.append(Picture(path, label, stat.st_size, stat.st_mtime_ns))
    return pictures


def _labels(pictures: list[Picture]) -> Tensor:
    return torch.tensor([picture.label for picture in pictures])


def _load(root: Path, listing: Listing, size: int | None, folder: str | None) -> NDArray[np.uint8]:
    """Give back the images [N, C, H, W], training first, from the cache if nothing has changed."""
    pictures = listing.train + listing.test
    file, key = cached.path(folder, root, size), cached.fingerprint(pictures)
    images = cached.load(file, key)
    if images is None:
        _say(f"Decoding the {len(pictures):,} images of {root}, once; they are kept in {file}.")
        images = decode(root, [picture.path for picture in pictures], size)
        try:
            cached.save(file, key, images)
        except OSError as error:
            _say(f"The decoded images are not kept: {error}. Set data.cache to another folder.")
    return images


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
