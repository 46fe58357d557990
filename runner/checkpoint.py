"""Checkpoints: atomic, verified when read, exact; the last good one and the one before it."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from runner.errors import UserError
from runner.files import FORMAT, write_atomically

FILES = LAST, BEFORE, NEW = "checkpoint.pt", "checkpoint.before.pt", "checkpoint.new.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the last one becomes the one before.

    Args:
        folder: The folder of the run.
        state: Tensors, numbers, text, and lists and dicts of them.
    """
    new, last = folder / NEW, folder / LAST
    write_atomically(new, lambda file: torch.save({"format": FORMAT, **state}, file))
    if last.exists():
        os.replace(last, folder / BEFORE)
    os.replace(new, last)


def load(folder: Path) -> dict[str, Any] | None:
    """Read the last good checkpoint of a run; None if it has none.

    A damaged one is named on the console and the one before it used. Nothing is unpickled but
    tensors and plain values.

    Raises:
        UserError: If the checkpoint was written by a newer version, or holds code.
    """
    for path in (folder / LAST, folder / BEFORE):
        if not path.exists():
            continue
        if (damage := _damage(path)) is not None:
            print(f"{path} is damaged ({damage}); looking for the one before it.")
            continue
        state = _read(path)
        if state["format"] > FORMAT:
            raise UserError(
                f"{path} must be of format {FORMAT} or older, got {state['format']}. "
                "Go on with the newer version that wrote it."
            )
        return state
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} must hold tensors and plain values alone, got something that would have to be "
            "executed. Trust it no further; remove it to start from the beginning."
        ) from error
    assert isinstance(state, dict)
    return state


def _damage(path: Path) -> str | None:
    """What is wrong with the file, by its checksums: torch.load passes over a flipped bit."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return str(error) or type(error).__name__
    return None if bad is None else f"checksum of {bad}"
