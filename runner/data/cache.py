"""A file of decoded images, which knows of which files they were made.

Written whole or not at all, read without pickle; the checksums of the .npz format tell damage.
"""

import fcntl
import hashlib
import os
import time
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from runner.errors import UserError
from runner.store.arrays import read_array
from runner.store.files import write_atomically

A_WHILE = 60.0  # seconds; from making a file to locking it, a process takes less
FORMAT = 1  # raised when the same files would be decoded into other pixels


def path(folder: str | None, root: Path, size: int | None) -> Path:
    """Name the cache file of an image folder at a size; a changed folder keeps its file's name.

    Args:
        folder: Folder of cache files; None for the user's, from the environment.
        root: The image folder, resolved.
        size: Side of the decoded images, None for their own.
    """
    name = hashlib.sha256(os.fsencode(root) + f"\0{size}".encode()).hexdigest()[:16]
    return (Path(os.path.expanduser(folder)) if folder else default_folder()) / f"images-{name}.npz"


def fingerprint(files: Iterable[tuple[object, ...]]) -> str:
    """Digest the listing of a folder: another path, size or time gives another fingerprint."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for file in files:
        digest.update(os.fsencode("\0".join(map(str, file)) + "\n"))
    return digest.hexdigest()


def load(file: Path, key: str, count: int, size: int | None) -> NDArray[np.uint8] | None:
    """Give back the images if they are there, undamaged, and of files with this fingerprint.

    Args:
        file: The cache file.
        key: The fingerprint.
        count: How many images there must be.
        size: The side that they must have; None for any.
    """
    try:
        if not file.is_file():  # a pipe would be waited for
            return None
        with zipfile.ZipFile(file) as archive:
            if str(read_array(archive, "key")) != key:
                return None
            images: NDArray[np.uint8] = read_array(archive, "images")
    except Exception:  # damaged in whatever way: decoding mends it
        return None
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        return None
    sides = images.shape[2:]
    fits = len(images) == count and sides == (sides if size is None else (size, size))
    return images if fits and images.shape[1] in (1, 3) else None


def save(file: Path, key: str, images: NDArray[np.uint8]) -> None:
    """Write the images for the fingerprint, in place of what was there.

    Raises:
        OSError: If the folder cannot be made.
        UserError: If the file cannot be written; nothing is left of the attempt.
    """

    def write(handle: BinaryIO) -> None:
        with suppress(OSError):  # some file systems have no locks; then nobody can take it, either
            fcntl.flock(handle, fcntl.LOCK_EX)
        np.savez(handle, key=np.array(key), images=images)

    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, write)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed had begun to write: a living one has it locked.

    The lock, and not the process id in the name, tells that: a folder may be shared by machines.
    """
    for leftover in folder.glob(".images-*.npz.*.tmp"):
        with suppress(OSError), leftover.open("r+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            state = os.fstat(handle.fileno())
            if state.st_size or time.time() - state.st_mtime > A_WHILE:  # else perhaps just begun
                leftover.unlink()


def default_folder() -> Path:
    """Give back the user's folder of what can be made again: $BISCUITS_CACHE, or as XDG has it."""
    if own := os.environ.get("BISCUITS_CACHE"):
        return Path(os.path.expanduser(own))
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "biscuits"
    except RuntimeError as error:
        raise UserError(
            "data.cache must be given to a user without a home, got none. Set it to a folder."
        ) from error
