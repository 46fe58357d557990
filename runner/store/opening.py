"""A file is opened if it is one: not a link, a pipe or a device. And what seals an archive."""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MARK = b"sha256:"
SEAL = len(MARK) + 64  # bytes


class Damaged(ValueError):
    """A file is not as it was written; the message says what is wrong with it."""


@contextmanager
def opened(path: Path, follow: bool = False) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a regular file, and give back what the system says of it too.

    Args:
        path: The file.
        follow: Whether it may be a link: where the user named it, and not in a folder of runs.

    Raises:
        FileNotFoundError: If it is not there.
        Damaged: If it is no file, a link, or cannot be read.
    """
    flags = os.O_NONBLOCK if follow else os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        # without waiting, as for who writes into a pipe
        with open(path, "rb", opener=lambda name, how: os.open(name, how | flags)) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise Damaged("is not a regular file")
            yield file, about
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise Damaged("is a link, which is not followed") from error
        raise Damaged(f"cannot be read ({error.strerror or error})") from error


def comment(digest: str) -> bytes:
    """Give back the end of a zip file: the length of its comment, and the comment, a SHA-256."""
    return struct.pack("<H", SEAL) + MARK + digest.encode()
