"""Which folders of a data set hold which split, and where its classes lie."""

import os
from pathlib import Path
from typing import NamedTuple

from runner.errors import UserError
from runner.quoting import as_text
from runner.texts import listed, short

VALIDATION = ("val", "valid", "validation")

SPLITS = {"train": ("train", "training"), "test": ("test", "testing"), "validation": VALIDATION}
"""What the folder of a split may be called, in any case."""

EXPECTED = "Expected train/<class>/*.jpg and test/<class>/*.jpg, for two classes or more."


class Layout(NamedTuple):
    """The folders of the splits, relative to the root."""

    train: str
    """With the folders of the classes; `""` is the root itself."""
    test: str | None
    """None where the test images are held out of `train`."""
    validation: str | None
    notes: tuple[str, ...]
    """What a user should know of the choice."""

    @property
    def folders(self) -> list[str]:
        """The folders to be read, that of the training images first."""
        return [self.train, *(folder for folder in (self.test, self.validation) if folder)]


def find_layout(root: Path, hold_out: str) -> Layout:
    """Find out how a folder is laid out.

    Args:
        root: The folder.
        hold_out: The setting by which the test images are held out of the others; "" if none are.
            With one, a folder of test images is left alone, and without a folder of training
            images the classes lie in the root.

    Raises:
        UserError: If the folder is missing, or laid out in no way that is known.
        OSError: If it cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"data.root: {_no_folder(root)}")
    present = subfolders(root)
    found = {split: _of_split(root, split, present) for split in SPLITS}
    train, test, validation = found.values()
    if train is None:
        if hold_out and not (test or validation):
            return Layout("", None, None, ())
        raise UserError(f"data.root: {_no_training(root, present, test or validation)}")
    notes = []
    if hold_out and test:
        notes.append(f"{short(test)}/ is not read: {hold_out} takes the test images from {train}/")
        test = None
    elif not hold_out and not test:
        if not validation:
            raise UserError(
                f"data.root: no folder test/ or val/ in {short(root)}, which has {listed(present)}."
                f" Add it, or hold out a share of {train}/ for testing: data.test=0.2."
            )
        test, validation = validation, None
        notes.append(
            f"{short(test)}/ is the test split, as there is no test/; images for validation are "
            f"taken from {train}/ (data.validation)"
        )
    return Layout(train, test, validation, tuple(notes))


def subfolders(folder: Path) -> list[str]:
    """List the folders in a folder; refuse broken links, any of which may be meant as a class."""
    with os.scandir(folder) as content:
        entries = [entry for entry in content if not entry.name.startswith(".")]
    refuse_broken(folder, [entry.name for entry in entries if is_broken(entry)])
    return sorted(entry.name for entry in entries if entry.is_dir())


def is_broken(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a link to nowhere."""
    return entry.is_symlink() and not os.path.exists(entry)


def refuse_broken(folder: Path, broken: list[str]) -> None:
    """Refuse a folder with links to nowhere."""
    if broken:
        raise UserError(
            f"data.root: {short(folder)} has broken links: {listed(sorted(broken))}. "
            "Repair or remove them."
        )


def _of_split(root: Path, split: str, present: list[str]) -> str | None:
    """Return the folder of a split, if there is one."""
    named = [name for name in present if name.lower() in SPLITS[split]]
    if len(named) > 1:
        what = "training" if split == "train" else split
        raise UserError(
            f"data.root: {short(root)} has {listed(named)}, and each could be the {what} split. "
            "Keep one, or give the others another name."
        )
    return named[0] if named else None


def _no_folder(root: Path) -> str:
    """Say that the root is no folder."""
    if not root.exists():
        return f"{short(root)} does not exist. {EXPECTED}"
    if root.suffix.lower() in (".csv", ".tsv", ".npz"):
        kind = "npz" if root.suffix.lower() == ".npz" else "image_table"
        return (
            f"{short(root)} is a file. Read it with data={kind} {as_text('data.file', str(root))}."
        )
    return f"{short(root)} is not a folder. {EXPECTED}"


def _no_training(root: Path, present: list[str], other: str | None) -> str:
    """Say that there is no folder of training images, and what may be meant."""
    problem = (
        f"no folder train/ in {short(root)}, which has {listed(present) or 'no folder at all'}"
    )
    inner = [name for name in present if _has_training(root / name)]
    if len(present) == 1 and len(subfolders(root / present[0])) > 1:  # as archives unpack
        inner = present
    if len(inner) == 1:
        return f"{problem}. Did you mean {as_text('data.root', str(root / inner[0]))}?"
    if len(present) > 1 and not other:
        return (
            f"{problem}. If these are the classes, hold out a share for testing: data.test=0.2. "
            f"{EXPECTED.replace('Expected', 'Else expected')}"
        )
    if not present:
        return f"{problem}. {EXPECTED} Labels in a table are read by data=image_table."
    return f"{problem}. {EXPECTED}"


def _has_training(folder: Path) -> bool:
    return any(name.lower() in SPLITS["train"] for name in subfolders(folder))
