"""Files that are whole or not there: written beside, flushed to the disk, then renamed."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from runner.errors import Unfit, causes
from runner.store import packed
from runner.store.opening import Damaged as Damaged
from runner.store.opening import opened

FORMAT = 1
"""The number of the format of every file of a run; raised when an older reader would misread."""

READABLE = 2**20
"""Characters of a JSON file up to which each value has a line."""

MOST = 2**25
"""Bytes that are read of a JSON or YAML file; the plan of 10,000 runs has a tenth of that."""

DEEPEST = 30
"""Levels that they may nest, and users' YAML too; ours have six."""

_WITHOUT = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""What a file system answers that flushes no folders."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object], lasts: bool = True) -> None:
    """Write a file so that a reader, or a crash, finds the old one or the new one, never half.

    Args:
        path: The file.
        write: Writes its content.
        lasts: Whether to wait until it lasts through a power cut; else `flush_files` is called
            before the file is relied on.

    Raises:
        Unfit: If the disk is full, or the system refuses it for another reason. What was
            there is as it was, and nothing is left of the attempt.
    """
    # a number as well, since processes of two machines may have the same
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.tmp")
    try:
        with writing(path):
            with open(beside, "xb") as file:
                write(file)
                file.flush()
                if lasts:
                    os.fsync(file.fileno())
            os.replace(beside, path)
            if lasts:
                flush_folder(path.parent)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Explain why a file cannot be written; an error that is not the system's stays as it is.

    Raises:
        Unfit: If the system refuses to write it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch wraps the system's error in one of its own
        cause = next((link for link in causes(error) if isinstance(link, OSError)), None)
        if cause is None:
            raise
        if cause.errno == errno.ELOOP and path.is_symlink():
            raise Unfit(f"{path} is a link, which is not written through. Remove it.") from error
        raise Unfit(
            f"{path} cannot be written: {cause.strerror or cause}. What was there is kept. "
            "Make room or correct that, and repeat the command."
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed had begun to write; the caller holds the folder."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str, lasts: bool = True) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda file: file.write(text.encode()), lasts)


def write_json(path: Path, content: dict[str, Any], lasts: bool = True) -> None:
    """Write a JSON file atomically, the number of its format first and a checksum last.

    One that nobody would read through is in one line: Python writes that several times as fast.
    """
    whole = {"format": FORMAT, **content}
    whole["checksum"] = digest(whole)
    text = json.dumps(whole, allow_nan=False)
    if len(text) < READABLE:
        text = json.dumps(whole, indent=1, allow_nan=False)
    write_text(path, f"{text}\n", lasts)


def read_json(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A JSON file and nothing, or nothing and what is wrong with it; neither if it is not there."""
    try:
        return checked(json.loads(read_bytes(path))), None
    except FileNotFoundError:
        return None, None
    except Damaged as error:
        return None, f"{path.name} {error}"
    except (ValueError, RecursionError) as error:
        return None, f"{path.name} is damaged ({error})"


def read_bytes(path: Path, most: int = MOST, follow: bool = False, tries: int = 3) -> bytes:
    """Read a whole file, if it is one: a pipe or a device would never end.

    That of a run may be packed: see runner/store/packed.py.

    Args:
        path: The file.
        most: The bytes that it may have.
        follow: Whether it may be a link: where the user named it, and not in a folder of runs.
        tries: Times that it is opened, where another machine replaces it while it is read.

    Raises:
        FileNotFoundError: If it is not there.
        Damaged: If it is no file, a link, is larger than `most` bytes, or cannot be read.
    """
    try:
        with opened(path, follow) as (file, about):
            if about.st_size > most:
                raise Damaged(f"has {about.st_size:,} bytes, more than {most:,}")
            return file.read()
    except FileNotFoundError:
        if (content := packed.read(path, most)) is None:
            raise
        return content
    except Damaged as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.ESTALE and tries > 1:
            return read_bytes(path, most, follow, tries - 1)
        raise


def checked(content: object) -> dict[str, Any]:
    """Give back an object that was read, without its checksum, if that and its format are right.

    A file without a checksum is taken as it is: none was written at first.

    Raises:
        Damaged: If it is not an object, its format is newer, or its checksum is wrong.
    """
    if not isinstance(content, dict):
        raise Damaged("is damaged (not a mapping)")
    if _is_deep(content):
        raise Damaged(f"is damaged (nested deeper than {DEEPEST} levels)")
    try:
        number = content.get("format", FORMAT)
        if not isinstance(number, int) or number > FORMAT:
            raise Damaged(f"is of format {str(number)[:40]}; this version reads {FORMAT} and older")
        checksum = content.pop("checksum", None)
        if checksum is None or checksum == digest(content):
            return content
    except Damaged:
        raise
    except (TypeError, ValueError):  # keys of several types, numbers of thousands of digits
        pass
    raise Damaged("is damaged (its checksum is not that of its content)")


def _is_deep(node: object, levels: int = DEEPEST) -> bool:
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    nested = (part for part in parts if isinstance(part, dict | list))
    return levels == 0 or any(_is_deep(part, levels - 1) for part in nested)


def digest(content: dict[str, Any]) -> str:
    """Give back a hash of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def flush_files(folder: Path, names: Iterable[str]) -> None:
    """Make files of a folder, those that are there, last through a power cut.

    A link, or a pipe, in the place of one is none of ours, and left alone.

    Raises:
        Unfit: If the system cannot write one.
    """
    for path in (folder / name for name in names):
        if path.is_file() and not path.is_symlink():
            with writing(path), open(path, "rb") as file:
                os.fsync(file.fileno())
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _WITHOUT:  # as on some networks
            raise
    finally:
        os.close(handle)
