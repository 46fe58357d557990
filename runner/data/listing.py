"""The files of a folder of images: by split, by class, and at any depth below a class."""

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from runner.errors import UserError
from runner.texts import listed, reason, short

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder; files with other suffixes are ignored."""

VALIDATION = ("val", "valid", "validation")
"""What the folder of a validation split may be called."""

EXPECTED = "Expected train/<class>/*.jpg and test/<class>/*.jpg, for two classes or more."


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
    validation: list[ImageFile]
    """Empty where there is no such folder."""
    ignored: str
    """What else is there, in words."""

    @property
    def files(self) -> list[ImageFile]:
        """All images, the training split first."""
        return self.train + self.test + self.validation


def scan(root: Path) -> Listing:
    """List the images in a folder, in the order of torchvision's ImageFolder.

    Raises:
        UserError: If there are no folders `train/<class>/` and `test/<class>/`, or they hold no
            images or cannot be read.
    """
    try:
        if problem := _problem(root):
            raise UserError(f"data.root: {problem}. {EXPECTED}")
        classes = _subfolders(root / "train")
        own = [name for name in VALIDATION if (root / name).is_dir()]
        if len(own) > 1:
            raise UserError(
                f"data.root: {short(root)} has {listed(own)}, and each could be the validation "
                "split. Keep one, or give the others another name."
            )
        for split in ("test", *own):
            _refuse_surplus(root, split, classes)
        rest = Counter[str]()
        found = [
            [file for n, name in enumerate(classes) for file in _files(root, split, name, n, rest)]
            for split in ("train", "test", *own)
        ]
        train, test, validation = found if own else (*found, [])
        seen = {file.label for file in train}
        empty = [f"train/{name}" for label, name in enumerate(classes) if label not in seen]
        empty += [] if test else ["test"]
        empty += [] if validation else own
        if empty:
            raise UserError(
                f"data.root: {short(root)} has no images in {listed(empty)}. "
                f"Expected files that end in {' '.join(SUFFIXES)}. Add some, or remove the folder."
            )
        ignored = _ignored(root, ("train", "test", *own), rest)
        return Listing(tuple(classes), train, test, validation, ignored)
    except OSError as error:
        raise UserError(
            f"data.root: cannot read {short(error.filename or root)}: {reason(error)}. "
            "Make it readable, or set another folder."
        ) from error


def _problem(root: Path) -> str | None:
    """Return what keeps a folder from being one of train/<class>/ and test/<class>/."""
    if not root.is_dir():
        return f"{short(root)} {'is not a folder' if root.exists() else 'does not exist'}"
    for split in ("train", "test"):
        if not (root / split).is_dir():
            present = listed(_subfolders(root)) or "no folder at all"
            return f"no folder {split}/ in {short(root)}, which has {present}"
    classes = _subfolders(root / "train")
    if len(classes) == 1:
        return f"only one class in {short(root)}/train, {short(classes[0])}"
    return None if classes else f"no folder in {short(root)}/train"


def _refuse_surplus(root: Path, split: str, classes: list[str]) -> None:
    """Refuse classes that the training images do not have, or spell in another way."""
    spelled = {_folded(name): name for name in classes}
    surplus = {n: spelled.get(_folded(n)) for n in _subfolders(root / split) if n not in classes}
    if surplus:
        meant = [f"{name} (train/{other}?)" for name, other in surplus.items() if other]
        new = [name for name, other in surplus.items() if not other]
        raise UserError(
            f"data.root: {short(root)}/{split} has classes that train/ lacks: "
            f"{listed(meant + new)}. Rename or remove them, or add them to train/."
        )


def _folded(name: str) -> str:
    """Return a name without what the eye passes over: case, spaces, how accents are encoded."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _subfolders(folder: Path) -> list[str]:
    """List the folders in a folder; refuse broken links, any of which may be meant as a class."""
    with os.scandir(folder) as content:
        entries = [entry for entry in content if not entry.name.startswith(".")]
    _refuse_broken(folder, [entry.name for entry in entries if _is_broken(entry)])
    return sorted(entry.name for entry in entries if entry.is_dir())


def _is_broken(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry)


def _refuse_broken(folder: Path, broken: list[str]) -> None:
    if broken:
        raise UserError(
            f"data.root: {short(folder)} has broken links: {listed(sorted(broken))}. "
            "Repair or remove them."
        )


def _files(root: Path, split: str, name: str, label: int, rest: Counter[str]) -> list[ImageFile]:
    """List the images of one class in one split, at any depth; none if it has no folder there.

    Links are followed, as ImageFolder does, but no folder is read twice: links that lead back
    would never end. What is ignored is counted in `rest`.
    """
    folders = [f"{split}/{name}"] if (root / split / name).is_dir() else []
    real, found = dict[str, str](), list[ImageFile]()
    while folders:
        folder = folders.pop()
        place = os.path.realpath(root / folder)
        if place in real:
            raise UserError(
                f"data.root: {short(real[place])} and {short(folder)} in {short(root)} are the "
                "same folder, by a link. Remove the link."
            )
        real[place], broken = folder, []
        with os.scandir(root / folder) as content:
            for entry in content:
                is_image = entry.name.lower().endswith(SUFFIXES)
                if entry.name.startswith("."):  # as ._a.png, which macOS writes beside a.png
                    rest["hidden"] += is_image or os.path.isdir(entry)
                elif is_image:
                    found.append(ImageFile(f"{folder}/{entry.name}", label, *_stamp(entry)))
                elif _is_broken(entry):
                    broken.append(entry.name)
                elif os.path.isdir(entry):
                    folders.append(f"{folder}/{entry.name}")
                else:
                    rest[os.path.splitext(entry.name)[1].lower() or "without a suffix"] += 1
        _refuse_broken(root / folder, broken)
    return sorted(found, key=lambda file: os.path.split(file.path))


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Return size and time of a file; (-1, -1) for a broken link, which the decoder reports."""
    try:
        stat = entry.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _ignored(root: Path, splits: tuple[str, ...], rest: Counter[str]) -> str:
    """Write what is in the folder and was not listed; "" if there is nothing."""
    words = [f"{count:,} {kind}" for kind, count in rest.most_common() if count]
    for split in splits:
        with os.scandir(root / split) as content:
            loose = sum(e.name.lower().endswith(SUFFIXES) and e.name[0] != "." for e in content)
        words += [f"{loose:,} beside the classes of {split}/"] if loose else []
    others = [name for name in _subfolders(root) if name not in splits]
    return listed(words + [f"the folder {name}/" for name in others])
