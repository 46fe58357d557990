"""The cache of decoded images: an array on the disk, mapped into memory, whole or not there.

A file is what `numpy.save` writes, followed by a line of JSON: the fingerprint of the image files,
the array's type and shape, and a checksum. It is written block by block into a temporary file,
which is then renamed, and read without pickle. So processes share its pages, it may be larger than
the memory, and `numpy.load(FILE, mmap_mode="r")` reads it too.
"""

import fcntl
import hashlib
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Iterable
from contextlib import suppress
from errno import ENOSPC
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from runner.data.decode import Reading
from runner.errors import UserError
from runner.store.arrays import memory_here
from runner.store.files import write_atomically

LOCK_GRACE = 60.0  # seconds; a process takes less from creating a file to locking it
FORMAT = 3  # to be raised when the same files are decoded into other pixels than before
PIECE = 2**22  # bytes that are read at a time for the checksum
LINE = 1000  # bytes that the line of JSON may have

Shape = tuple[int, int, int, int]


def path(folder: str | None, source: Path, reading: Reading) -> Path:
    """Return the cache file of a folder or a table read so; it stays when the images change.

    Raises:
        UserError: If there is no default folder.
    """
    name = hashlib.sha256(os.fsencode(source) + f"\0{reading}".encode()).hexdigest()[:16]
    return (Path(os.path.expanduser(folder)) if folder else default_folder()) / f"images-{name}.npy"


def fingerprint(files: Iterable[tuple[object, ...]]) -> str:
    """Return a digest of a folder's listing: it changes with any path, size or time."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for file in files:
        digest.update(os.fsencode("\0".join(map(str, file)) + "\n"))
    return digest.hexdigest()


class Origin(NamedTuple):
    """The file that images are mapped from, in the state in which it was then."""

    file: str
    size: int
    modified: int
    number: int

    @classmethod
    def of(cls, file: Path) -> "Origin | None":
        """Return the state of a file; None if there is none."""
        with suppress(OSError):
            about = file.stat()
            return cls(str(file), about.st_size, about.st_mtime_ns, about.st_ino)
        return None


def load(file: Path, key: str, count: int, reading: Reading) -> NDArray[Any] | None:
    """Map the images [count, C, H, W] if they were made from files of this fingerprint.

    Damage is found by the checksum where the array is smaller than half of the memory. Of a larger
    one, which would take as long to read as to decode, only size, type, shape and fingerprint are
    compared.
    """
    try:
        if not file.is_file():  # reading a pipe would block
            return None
        with open(file, "rb") as handle:
            npy.read_magic(handle)
            shape, _, dtype = npy.read_array_header_1_0(handle)
            start = handle.tell()
            size = start + prod(shape) * dtype.itemsize
            handle.seek(size)
            line = handle.read(LINE)
            about = json.loads(line)
            if line != _line(key, shape, dtype, about["checksum"]):
                return None
            if size < memory_here() / 2 and _checksum(handle, size) != about["checksum"]:
                return None
            if not _is_of(reading, count, shape, dtype):
                return None
            # of what is open: another process may have put a file of other images in its place
            return np.memmap(handle, dtype, "r", start, shape)
    except Exception:  # any kind of damage: the images are decoded again
        return None


def _is_of(reading: Reading, count: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Return whether an array has the type and shape of so many images, read so."""
    if len(shape) != 4 or min(shape) < 1 or dtype != dtype_of(reading):
        return False
    grey_or_rgb = shape[1] in (1, 3) or reading.bands == "all"
    return shape[0] == count and shape[2:] == (reading.sides or shape[2:]) and grey_or_rgb


def save(
    file: Path, key: str, shape: Shape, dtype: DTypeLike, images: Iterable[NDArray[Any]]
) -> NDArray[Any]:
    """Write images [C, H, W] of one shape, in place of an older cache, and map them.

    Raises:
        OSError: If the folder cannot be created, or has no room.
        UserError: If the file cannot be written; nothing is left behind then.
    """
    mapped = list[NDArray[Any]]()

    def write(handle: BinaryIO) -> None:
        with suppress(OSError):  # where the file system has no locks, nobody else can lock it
            fcntl.flock(handle, fcntl.LOCK_EX)
        kind = np.dtype(dtype)
        about = {"shape": shape, "fortran_order": False, "descr": npy.dtype_to_descr(kind)}
        npy.write_array_header_1_0(handle, about)
        handle.flush()
        with open(handle.name, "rb") as begun:
            checksum = _checksum(begun, handle.tell())
        for image in images:
            content = np.ascontiguousarray(image, kind).data
            checksum = zlib.crc32(content, checksum)
            handle.write(content)
        handle.write(_line(key, shape, kind, checksum))
        handle.flush()
        mapped.append(_map(Path(handle.name)))  # even if another process then replaces it

    file.parent.mkdir(parents=True, exist_ok=True)
    need, free = bytes_of(shape, dtype), shutil.disk_usage(file.parent).free
    if need > free:
        raise OSError(ENOSPC, f"{need / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free")
    write_atomically(file, write)
    return mapped[0]


def bytes_of(shape: Shape, dtype: DTypeLike) -> int:
    """Return how many bytes an array has."""
    return prod(shape) * np.dtype(dtype).itemsize


def _line(key: str, shape: tuple[int, ...], dtype: np.dtype[Any], checksum: int) -> bytes:
    about = {"key": key, "shape": shape, "dtype": dtype.str, "checksum": checksum}
    return json.dumps(about).encode() + b"\n"


def _checksum(handle: BinaryIO, size: int) -> int:
    """Return the CRC-32 of the first bytes of a file."""
    handle.seek(0)
    checksum = 0
    while size > 0 and (piece := handle.read(min(size, PIECE))):
        checksum = zlib.crc32(piece, checksum)
        size -= len(piece)
    return checksum


def dtype_of(reading: Reading) -> np.dtype[Any]:
    """Return the type of the pixels that are read so."""
    return np.dtype(np.uint8 if reading.bits == 8 else np.uint16)


def _map(file: Path) -> NDArray[Any]:
    mapped: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return mapped


def as_tensor(mapped: NDArray[Any]) -> Tensor:
    """Share a mapped array with torch, without copying; writing into it would end the process."""
    with warnings.catch_warnings():  # torch has no read-only tensors, and warns of that
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(mapped)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of killed processes; a running process has locked its own.

    The process id in the name would not do: machines may share the folder.
    """
    for leftover in folder.glob(".images-*.np[yz].*.tmp"):  # npz: of older versions
        with suppress(OSError), leftover.open("r+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            state = os.fstat(handle.fileno())
            # an empty new file may be just about to be locked
            if state.st_size or _now(folder) - state.st_mtime > LOCK_GRACE:
                leftover.unlink()


def _now(folder: Path) -> float:
    """Give back the time by the clock that stamps the files there, maybe another machine's."""
    with TemporaryFile(dir=folder) as new:
        return os.fstat(new.fileno()).st_mtime


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
