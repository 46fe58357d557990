"""Archives of torch, verified: a zip file as `torch.save` writes it, with its own SHA-256.

The digest is the archive's comment: `torch.load` reads the file as any other, and by itself would
pass over a flipped bit. Whoever wrote it, only tensors and plain values are unpickled.
"""

import hashlib
import pickle
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch

from runner.errors import UserError
from runner.store.files import FORMAT, Damaged, read_bytes
from runner.store.opening import SEAL, comment

SLACK = 2**24  # bytes that an archive may unpack to beyond its own: TorchScript packs its code


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
    file.write(comment(hashed.hash.hexdigest()))


def read(
    path: Path, kind: str, remedy: str, most: int = 2**40, follow: bool = False
) -> dict[str, Any]:
    """Read an archive that `write` wrote, with a dictionary and in it the number of its format.

    Args:
        path: The file.
        kind: What it should be, such as `a checkpoint`.
        remedy: What to do about a file that holds something else.
        most: The bytes that it may have.
        follow: Whether it may be a link.

    Raises:
        Damaged: If it is not as it was written.
        UserError: If it is as it was written, but by a newer version, or holds something else.
    """
    content = _verified(path, most, follow)
    try:
        refuse_packed(content)
        state: Any = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(number := state["format"], int):
            raise TypeError(f"its format is {number}")
    except Exception as error:  # one made by hand can fail in any way
        problem = f"is not {kind} ({' '.join(str(error).split())[:200]})"
        if isinstance(error, pickle.UnpicklingError):
            problem = "holds code beside tensors and plain values; nothing of it was executed"
        raise UserError(f"{path} {problem}. Do not trust it. {remedy}") from error
    if number > FORMAT:
        raise UserError(
            f"{path} has format {number}; this version reads {FORMAT} and older. "
            "Use the newer version that wrote it."
        )
    return dict(state)


def _verified(path: Path, most: int, follow: bool) -> bytes:
    """Read a file, and check it against its checksum."""
    try:
        content = read_bytes(path, most, follow)
    except (FileNotFoundError, MemoryError) as error:
        raise Damaged(str(error) or "it does not fit into memory") from error
    total = hashlib.sha256(memoryview(content)[: -SEAL - 2])
    total.update(b"\0\0")  # the length of the comment, before there was one
    if content[-SEAL - 2 :] != comment(total.hexdigest()):
        raise Damaged("its checksum does not match its content")
    return content


def refuse_packed(data: bytes) -> None:
    """Refuse an archive whose content is much larger than the file: torch.save packs nothing.

    Raises:
        Damaged: If it is.
    """
    if zipfile.is_zipfile(BytesIO(data)):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            size = sum(info.file_size for info in archive.infolist())
            if size > len(data) + SLACK:
                raise Damaged(f"would unpack to {size:,} bytes, which torch.save never does")
