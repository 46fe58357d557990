"""Files that are whole or not there: written beside, flushed to the disk, then renamed."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from runner.errors import UserError

FORMAT = 1
"""The number of the format of every file of a run; raised when an older reader would misread."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader, or a crash, finds the old one or the new one, never half.

    Args:
        path: Where it shall be; its folder exists.
        write: Writes the content into an open binary file.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    _flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically, with the number of its format first."""
    write_text(path, json.dumps({"format": FORMAT, **content}, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON file of a run; None if it is not there.

    Raises:
        UserError: If it is damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        content = error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must be a whole JSON object, got a damaged one ({content}). "
            "Remove that file, and give the same command: the run goes on from its checkpoint."
        )
    return content


def digest(content: dict[str, Any]) -> str:
    """Give back a hash of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
