"""The files of a folder of images: by split, by class, and at any depth below a class."""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from runner.data.layout import EXPECTED, find_layout, is_broken, refuse_broken, subfolders
from runner.errors import UserError
from runner.quoting import as_text
from runner.texts import listed, reason, short

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder; files with other suffixes are ignored."""


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
    """The classes and files of a data set, and which files are in which split."""

    classes: tuple[str, ...]
    files: list[ImageFile]
    """Each of them once."""
    train: Sequence[int]
    """Which of the files; where test images are held out, they are among these."""
    test: Sequence[int]
    validation: Sequence[int]
    """Empty where there is no such split."""
    ignored: str = ""
    """What else is there, in words."""
    notes: tuple[str, ...] = ()
    """What a user should know of the splits."""
    groups: list[int] | None = None
    """Of each file an id from 0: files of one group are not divided between splits."""


def scan(root: Path, hold_out: str = "") -> Listing:
    """List the images in a folder, in the order of torchvision's ImageFolder, training first.

    Args:
        root: The folder.
        hold_out: The setting by which the test images are held out of the others; "" if none are.

    Raises:
        UserError: If the folders are not those that `image_folder` expects, hold no images, or
            cannot be read.
    """
    try:
        layout = find_layout(root, hold_out)
        train, *others = layout.folders
        classes = subfolders(root / train)
        if len(classes) < 2:
            raise UserError(f"data.root: {_too_few(root, train, classes)}")
        for split in others:
            _refuse_surplus(root, split, train, classes)
        rest = Counter[str]()
        files, rows, empty = list[ImageFile](), dict[str | None, range](), list[str]()
        for split in layout.folders:
            found = [_files(root, split, name, n, rest) for n, name in enumerate(classes)]
            rows[split] = range(len(files), len(files) + sum(map(len, found)))
            files += (file for part in found for file in part)
            lacking = [os.path.join(split, c) for c, f in zip(classes, found, strict=True) if not f]
            empty += lacking if split == train else [split] * (not rows[split])
        if empty:
            raise UserError(
                f"data.root: {short(root)} has no images in {listed(empty)}. "
                f"Expected files that end in {' '.join(SUFFIXES)}. Add some, or remove the folder."
                f"{_unlabelled(root, layout.test, empty)}"
            )
        test, validation = (rows.get(split, range(0)) for split in layout[1:3])
        about = _ignored(root, layout.folders, rest), layout.notes
        return Listing(tuple(classes), files, rows[train], test, validation, *about)
    except OSError as error:
        raise UserError(
            f"data.root: cannot read {short(error.filename or root)}: {reason(error)}. "
            "Make it readable, or set another folder."
        ) from error


def _too_few(root: Path, train: str, classes: list[str]) -> str:
    """Say that a folder has not even two classes, and what may be meant."""
    folder = root / train
    if not classes:
        return f"no folder in {short(folder)}. {EXPECTED}"
    problem = f"only one class in {short(folder)}, {short(classes[0])}"
    inner = str(folder / classes[0])
    if not train and len(subfolders(folder / classes[0])) > 1:
        return f"{problem}. Did you mean {as_text('data.root', inner)}?"
    return f"{problem}. {EXPECTED}"


def _unlabelled(root: Path, test: str | None, empty: list[str]) -> str:
    """Say what to do where a folder of test images has no folders of classes."""
    if test not in empty or subfolders(root / str(test)):
        return ""
    return f" If the images of {test}/ have no labels, hold out a share for testing: data.test=0.2."


def _refuse_surplus(root: Path, split: str, train: str, classes: list[str]) -> None:
    """Refuse classes that the training images do not have, or spell in another way."""
    spelled = {folded(name): name for name in classes}
    surplus = {n: spelled.get(folded(n)) for n in subfolders(root / split) if n not in classes}
    if surplus:
        meant = [f"{name} ({train}/{other}?)" for name, other in surplus.items() if other]
        new = [name for name, other in surplus.items() if not other]
        raise UserError(
            f"data.root: {short(root)}/{split} has classes that {train}/ lacks: "
            f"{listed(meant + new)}. Rename or remove them, or add them to {train}/."
        )


def folded(name: str) -> str:
    """Return a name without what the eye passes over: case, spaces, how accents are encoded."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _files(root: Path, split: str, name: str, label: int, rest: Counter[str]) -> list[ImageFile]:
    """List the images of one class in one split, at any depth; none if it has no folder there.

    Links are followed, as ImageFolder does, but no folder is read twice: links that lead back
    would never end. What is ignored is counted in `rest`.
    """
    folders = [os.path.join(split, name)] if (root / split / name).is_dir() else []
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
                elif is_broken(entry):
                    broken.append(entry.name)
                elif os.path.isdir(entry):
                    folders.append(f"{folder}/{entry.name}")
                else:
                    rest[os.path.splitext(entry.name)[1].lower() or "without a suffix"] += 1
        refuse_broken(root / folder, broken)
    return sorted(found, key=lambda file: os.path.split(file.path))


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Return size and time of a file; (-1, -1) for a broken link, which the decoder reports."""
    try:
        stat = entry.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _ignored(root: Path, splits: Sequence[str], rest: Counter[str]) -> str:
    """Write what is in the folder and was not listed; "" if there is nothing."""
    words = [f"{count:,} {kind}" for kind, count in rest.most_common() if count]
    for split in splits:
        with os.scandir(root / split) as content:
            loose = sum(e.name.lower().endswith(SUFFIXES) and e.name[0] != "." for e in content)
        words += [f"{loose:,} beside the classes of {split or root.name}/"] if loose else []
    others = [name for name in subfolders(root) if "" not in splits and name not in splits]
    return listed(words + [f"the folder {name}/" for name in others])
