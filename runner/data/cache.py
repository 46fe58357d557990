"""The cache of decoded images: an .npz file with a fingerprint of the files it was made from.

It is written atomically and read without pickle; the checksums of the format reveal damage.
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

LOCK_GRACE = 60.0  # seconds; a process takes less from creating a file to locking it
FORMAT = 2  # to be raised when the same files are decoded into other pixels than before


def path(folder: str | None, root: Path, size: int | None) -> Path:
    """Return the cache file of an image folder at a size; it stays when the images change.

    Raises:
        UserError: If there is no default folder.
    """
    name = hashlib.sha256(os.fsencode(root) + f"\0{size}".encode()).hexdigest()[:16]
    return (Path(os.path.expanduser(folder)) if folder else default_folder()) / f"images-{name}.npz"


def fingerprint(files: Iterable[tuple[object, ...]]) -> str:
    """Return a digest of a folder's listing: it changes with any path, size or time."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for file in files:
        digest.update(os.fsencode("\0".join(map(str, file)) + "\n"))
    return digest.hexdigest()


def load(file: Path, key: str, count: int, size: int | None) -> NDArray[np.uint8] | None:
    """Return the images if they are cached, undamaged, and made from files of this fingerprint."""
    try:
        if not file.is_file():  # reading a pipe would block
            return None
        with zipfile.ZipFile(file) as archive:
            if str(read_array(archive, "key")) != key:
                return None
            images: NDArray[np.uint8] = read_array(archive, "images")
    except Exception:  # any kind of damage: the images are decoded again
        return None
    whole = images.dtype == np.uint8 and images.ndim == 4 and images.size and len(images) == count
    fits = size is None or images.shape[2:] == (size, size)
    return images if whole and fits and images.shape[1] in (1, 3) else None


def save(file: Path, key: str, images: NDArray[np.uint8]) -> None:
    """Write the images with their fingerprint, in place of an older cache.

    Raises:
        OSError: If the folder cannot be created.
        UserError: If the file cannot be written; nothing is left behind then.
    """

    def write(handle: BinaryIO) -> None:
        with suppress(OSError):  # where the file system has no locks, nobody else can lock it
            fcntl.flock(handle, fcntl.LOCK_EX)
        np.savez(handle, key=np.array(key), images=images)

    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, write)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of killed processes; a running process has locked its own.

    The process id in the name would not do: machines may share the folder.
    """
    for leftover in folder.glob(".images-*.npz.*.tmp"):
        with suppress(OSError), leftover.open("r+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            state = os.fstat(handle.fileno())
            # an empty new file may be just about to be locked
            if state.st_size or time.time() - state.st_mtime > LOCK_GRACE:
                leftover.unlink()


def default_folder() -> Path:
    """Return the user's cache folder: $BISCUITS_CACHE, else biscuits in that of the XDG standard.

    Raises:
        UserError: If neither is set and the user has no home.
    """
    if own := os.environ.get("BISCUITS_CACHE"):
        return Path(os.path.expanduser(own))
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "biscuits"
    except RuntimeError as error:
        raise UserError(
            "No folder for the cache: this user has no home directory. "
            "Set BISCUITS_CACHE in the environment, or data.cache, to a folder."
        ) from error
