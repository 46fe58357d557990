"""Checkpoints: atomic, verified when read, exact; the last good one and the one before it.

A file is what `torch.save` writes, a zip archive, with a SHA-256 of all of it as the archive's
comment: `torch.load` reads it as any other, and by itself would pass over a flipped bit.
"""

import hashlib
import pickle
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch

from runner.errors import UserError
from runner.store.files import FORMAT, Damaged, flush_folder, read_bytes, write_atomically, writing
from runner.texts import say

FILES = LAST, BEFORE, NEW = "checkpoint.pt", "checkpoint.before.pt", "checkpoint.new.pt"

_MARK = b"sha256:"
_COMMENT = len(_MARK) + 64  # bytes


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the last one becomes the one before.

    Raises:
        UserError: If there is no room for it; the ones before are kept.
    """
    new, last = folder / NEW, folder / LAST
    write_atomically(new, lambda file: write({"format": FORMAT, **state}, file))
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
    there = [path for path in (folder / NEW, folder / LAST, folder / BEFORE) if path.exists()]
    for path in there:
        try:
            return _read(path, _verified(path))
        except Damaged as damage:
            say(f"{path} is damaged ({damage}). Trying the checkpoint before it.")
    if there:
        say(f"{folder} has no good checkpoint. The run starts from the beginning.")
    return None


class _Hashed:
    """A file to write to, which keeps a SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash, self.flush = file, hashlib.sha256(), file.flush

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)


def write(state: Any, file: BinaryIO) -> None:  # noqa: ANN401
    """Write the archive, and its digest as the comment, whose length is its last field."""
    hashed: Any = _Hashed(file)
    torch.save(state, hashed)
    file.seek(-2, 2)
    file.write(_comment(hashed.hash.hexdigest()))


def _verified(path: Path) -> BytesIO:
    """Read a file, and check it against its checksum."""
    try:
        content = read_bytes(path, most=2**40)
    except (FileNotFoundError, MemoryError) as error:
        raise Damaged(str(error) or "it does not fit into memory") from error
    total = hashlib.sha256(memoryview(content)[: -_COMMENT - 2])
    total.update(b"\0\0")  # the length of the comment, before there was one
    if content[-_COMMENT - 2 :] != _comment(total.hexdigest()):
        raise Damaged("its checksum does not match its content")
    return BytesIO(content)


def _comment(digest: str) -> bytes:
    """Give back the end of the archive: the length of the comment, and the comment."""
    return struct.pack("<H", _COMMENT) + _MARK + digest.encode()


def _read(path: Path, content: BytesIO) -> dict[str, Any]:
    """Read a file whose checksum is right, whoever wrote it."""
    try:
        state: Any = torch.load(content, map_location="cpu", weights_only=True)
        if not isinstance(number := state["format"], int):
            raise TypeError(f"its format is {number}")
    except Exception as error:  # one made by hand can fail in any way
        problem = f"is not a checkpoint ({' '.join(str(error).split())[:200]})"
        if isinstance(error, pickle.UnpicklingError):
            problem = "holds code beside tensors and plain values; nothing of it was executed"
        raise UserError(
            f"{path} {problem}. Do not trust it. Remove it: the run then resumes from the "
            "checkpoint before it, or starts from the beginning."
        ) from error
    if number > FORMAT:
        raise UserError(
            f"{path} has format {number}; this version reads {FORMAT} and older. "
            "Use the newer version that wrote it."
        )
    return dict(state)
