"""A file of decoded images, which knows of which files they were made.

Written whole or not at all, read without pickle; the checksums of the .npz format tell damage.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runner.files import write_atomically

FORMAT = 1  # raised when the same files would be decoded into other pixels


def path(folder: str | None, root: Path, size: int | None) -> Path:
    """Name the cache file of an image folder at a size; a changed folder keeps its file's name.

    Args:
        folder: Folder of cache files; None for the user's, from the environment.
        root: The image folder, resolved.
        size: Side of the decoded images, None for their own.
    """
    name = hashlib.sha256(os.fsencode(root) + f"\0{size}".encode()).hexdigest()[:16]
    return (Path(folder).expanduser() if folder else default_folder()) / f"images-{name}.npz"


def fingerprint(files: Iterable[tuple[object, ...]]) -> str:
    """Digest the listing of a folder: another path, size or time gives another fingerprint."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for file in files:
        digest.update(os.fsencode("\0".join(map(str, file)) + "\n"))
    return digest.hexdigest()


def load(file: Path, key: str) -> NDArray[np.uint8] | None:
    """Give back the images if they are there, undamaged, and of files with this fingerprint."""
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
            if str(content["key"]) != key:
                return None
            images: NDArray[np.uint8] = content["images"]
            return images
    except Exception:  # missing, or damaged in whatever way: decoding mends it
        return None


def save(file: Path, key: str, images: NDArray[np.uint8]) -> None:
    """Write the images for the fingerprint, in place of what was there.

    Raises:
        OSError: If the folder cannot be written to.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda handle: np.savez(handle, key=np.array(key), images=images))


def default_folder() -> Path:
    """Give back the user's folder of what can be made again: $BISCUITS_CACHE, or as XDG has it."""
    if own := os.environ.get("BISCUITS_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "biscuits"
