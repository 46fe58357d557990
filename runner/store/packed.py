"""Finished runs in one archive a variant, `runs.zip`: each file is read as if it lay in its folder.

A folder with a `config.yaml` of its own speaks for the run, whatever the archive holds of it. The
archive is a zip file of any program, with the SHA-256 of its list as the comment. Whoever wrote it,
nothing of it is executed, and no name of it is followed: a file is looked up by its run's.
"""

import hashlib
import os
import re
import stat
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from runner.store.opening import SEAL, Damaged, comment, opened

ARCHIVE = "runs.zip"
CONFIG = "config.yaml"
LARGEST = 2**24
"""Bytes of a file in an archive; larger ones stay in the folder of the run."""
MOST_LISTED = 2**26  # bytes of the list of an archive
SLACK = 2**16  # bytes by which packing may make a file larger
LISTS = 8  # that are kept in memory

RUN = re.compile(r"seed=\d{1,19}")
_MEMBER = re.compile(rf"({RUN.pattern})/([A-Za-z][\w.+-]{{0,250}})", re.ASCII)
_END, _END_MARK, _LARGER_MARK = struct.Struct("<4s4H2LH"), b"PK\5\6", b"PK\6\7"
_STAMP = re.compile(rb"\d{1,20}")


class Member(NamedTuple):
    """A file of a packed run."""

    info: zipfile.ZipInfo
    modified: int
    """When it was written, in nanoseconds."""

    @property
    def size(self) -> int:
        """Its bytes, unpacked."""
        return self.info.file_size


class Archive:
    """The list of an archive, which is opened for each file that is read of it.

    Args:
        path: It.

    Raises:
        Damaged: If it is not as it was written, or was never one of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, dict[str, Member]] = {}
        with opened(path) as (file, about):
            self.is_of = _key(about)
            _check_list(file, about.st_size)
            try:
                with zipfile.ZipFile(file) as found:
                    members = found.infolist()
            except Exception as error:  # one made by hand can fail in any way
                raise Damaged(f"is damaged ({error})") from error
        for info in members:
            named = _MEMBER.fullmatch(info.orig_filename)
            stamped = _STAMP.fullmatch(info.comment)
            fits = max(info.file_size, info.compress_size - SLACK) <= LARGEST
            plain = info.compress_type == zipfile.ZIP_DEFLATED and not info.flag_bits & 1
            if not (named and stamped and fits and plain):
                raise Damaged(f"holds {info.orig_filename[:80]!r}, which is no file of a run")
            run = self.runs.setdefault(named[1], {})
            if named[2] in run:
                raise Damaged(f"holds {named[0]} twice")
            run[named[2]] = Member(info, int(stamped[0]))

    def read(self, run: str, name: str) -> bytes:
        """Read a file of a run that is there.

        Raises:
            Damaged: If it is not as it was written.
            Replaced: If the archive is another one now.
        """
        info = self.runs[run][name].info
        with opened(self.path) as (file, about):
            if _key(about) != self.is_of:
                raise Replaced("was replaced while it was read")
            file.seek(info.header_offset + 26)
            lengths = file.read(4)  # of the name and of what may follow it
            file.seek(sum(struct.unpack("<2H", lengths)) if len(lengths) == 4 else 0, os.SEEK_CUR)
            content = file.read(info.compress_size)
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, info.file_size + 1)
        except zlib.error as error:
            raise Damaged(f"is damaged ({run}/{name}: {error})") from error
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise Damaged(f"is damaged ({run}/{name} has another checksum)")
        return content


class Replaced(Damaged):
    """An archive was replaced by a newer one."""


def _key(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_ino, about.st_size, about.st_mtime_ns


def _check_list(file: BinaryIO, size: int) -> None:
    """Check the list at the end of an archive against its checksum, before it is parsed."""
    length = _END.size + SEAL
    file.seek(max(0, size - length))
    end = file.read(length)
    if len(end) < length or end[:4] != _END_MARK:
        raise Damaged("is damaged (it does not end as an archive of runs)")
    _, disk, first, here, count, bytes_, start, _ = _END.unpack(end[: _END.size])
    if disk or first or here != count or start + bytes_ != size - length or bytes_ > MOST_LISTED:
        raise Damaged("is damaged (its end is not that of an archive of runs)")
    file.seek(start)
    listed = file.read(bytes_)
    is_larger = listed[-20:-16] == _LARGER_MARK  # none of ours is
    if is_larger or end[_END.size - 2 :] != comment(hashlib.sha256(listed).hexdigest()):
        raise Damaged("is damaged (its checksum is not that of its list)")


def open_archive(variant: Path) -> Archive | None:
    """Read the list of the archive of a variant's folder; None if it has none.

    Raises:
        Damaged: If it is damaged.
    """
    path = variant / ARCHIVE
    try:
        return _open(path, _key(os.lstat(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None


@lru_cache(LISTS)
def _open(path: Path, _: tuple[int, int, int]) -> Archive:
    return Archive(path)


def is_own(folder: Path) -> bool:
    """Whether the folder of a run speaks for itself."""
    return os.path.lexists(folder / CONFIG)


def problem(folder: Path) -> str | None:
    """Say what is wrong with the archive that a run's folder may be in; None if nothing is."""
    if folder.name != ARCHIVE and (not RUN.fullmatch(folder.name) or is_own(folder)):
        return None
    try:
        open_archive(folder.parent)
    except Damaged as error:
        return f"{ARCHIVE} {error}"
    return None


def is_packed(folder: Path) -> bool:
    """Whether a run is read from an archive; also where that is damaged, and may hold it."""
    if not RUN.fullmatch(folder.name) or is_own(folder):
        return False
    try:
        archive = open_archive(folder.parent)
    except Damaged:
        return True
    return archive is not None and folder.name in archive.runs


def packed_runs(variant: Path) -> list[str]:
    """List the runs that are read from the archive of a variant's folder.

    Raises:
        Damaged: If it is damaged.
    """
    archive = open_archive(variant)
    return [run for run in archive.runs if not is_own(variant / run)] if archive else []


def find(path: Path) -> Member | None:
    """Find a file of a run that is packed; None if it is not there, or the archive is damaged."""
    try:
        found = _find(path)
    except Damaged:
        return None
    return found and found[1]


def _find(path: Path) -> tuple[Archive, Member] | None:
    run = path.parent
    if not RUN.fullmatch(run.name) or is_own(run):
        return None
    archive = open_archive(run.parent)
    member = archive and archive.runs.get(run.name, {}).get(path.name)
    return (archive, member) if archive and member else None


def read(path: Path, most: int) -> bytes | None:
    """Read a file of a run that is packed; None if it is not there.

    Raises:
        Damaged: If it cannot be read, or is larger than `most` bytes.
    """
    try:
        if (found := _find(path)) is None:
            return None
        archive, member = found
        if member.size > most:
            raise Damaged(f"has {member.size:,} bytes, more than {most:,}")
        return archive.read(path.parent.name, path.name)
    except Replaced:
        return read(path, most)
    except Damaged as error:
        raise Damaged(f"cannot be read: {ARCHIVE} {error}") from error


def is_there(path: Path) -> bool:
    """Whether a run has a file, in its folder or packed."""
    return path.is_file() or find(path) is not None


class About(NamedTuple):
    """What is known of a file without reading it."""

    size: int
    modified: float
    """In seconds."""


def look(path: Path) -> About | None:
    """Look at a file of a run, in its folder or packed; None if it is not there, or is no file."""
    try:
        about = os.lstat(path)
    except OSError:
        if (member := find(path)) is None:
            return None
        seconds, rest = divmod(member.modified, 10**9)
        return About(member.size, seconds + 1e-9 * rest)  # the bits that the system gives
    return About(about.st_size, about.st_mtime) if stat.S_ISREG(about.st_mode) else None
