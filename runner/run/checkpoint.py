"""Checkpoints: atomic, verified when read, exact; the last good one and the one before it."""

import os
from pathlib import Path
from typing import Any

from runner.store import archive
from runner.store.files import FORMAT, Damaged, flush_folder, write_atomically, writing
from runner.store.packed import find
from runner.store.runs import BEST, CHECKPOINTS
from runner.texts import say

LAST, BEFORE, NEW = CHECKPOINTS

REMEDY = (
    "Remove it: the run then resumes from the checkpoint before it, or starts from the beginning."
)


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the last one becomes the one before.

    Raises:
        UserError: If there is no room for it; the ones before are kept.
    """
    new, last = folder / NEW, folder / LAST
    write_atomically(new, lambda file: archive.write({"format": FORMAT, **state}, file))
    with writing(last):
        if last.exists():
            last.replace(folder / BEFORE)
        new.replace(last)
        flush_folder(folder)


def load(folder: Path) -> dict[str, Any] | None:
    """Read the last good checkpoint of a run; None if it has none.

    A damaged one is named on the console, and the one before it used. Only tensors and plain
    values are unpickled.

    Raises:
        UserError: If the checkpoint was written by a newer version, or holds code.
    """
    # the new one if it was not renamed
    there = [
        path
        for path in (folder / NEW, folder / LAST, folder / BEFORE)
        if path.exists() or find(path)
    ]
    for path in there:
        try:
            return archive.read(path, "a checkpoint", REMEDY)
        except Damaged as damage:
            say(f"{path} is damaged ({damage}). Trying the checkpoint before it.")
    if there:
        say(f"{folder} has no good checkpoint. The run starts from the beginning.")
    return None


def surplus(folder: Path, keep: str) -> list[Path]:
    """List the files that a finished run does not keep, which are there.

    Args:
        folder: The folder of the run.
        keep: `last`: the last checkpoint; `best`: best.pt, if it is there; `none`: neither.
    """
    is_gone = keep == "none" or (keep == "best" and (folder / BEST).is_file())
    names = [NEW, BEFORE, *([LAST] if is_gone else []), *([BEST] if keep == "none" else [])]
    return [folder / name for name in names if os.path.lexists(folder / name)]


def tidy(folder: Path, keep: str) -> None:
    """Remove what a finished run does not keep."""
    if (folder / NEW).is_file():  # the last one, if it was not renamed
        (folder / NEW).replace(folder / LAST)
    for path in surplus(folder, keep):
        path.unlink()
