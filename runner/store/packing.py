"""Packing finished runs into the archive of their variant, and unpacking them.

Each step can be killed: an archive is whole or not there, and a file is removed once the archive
that holds its bytes lasts. The `config.yaml` goes first and comes last: with it the run changes
from its folder to the archive, or back.
"""

import hashlib
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from runner.errors import UserError
from runner.names import label
from runner.store.files import (
    flush_files,
    flush_folder,
    read_bytes,
    remove_leftovers,
    write_atomically,
)
from runner.store.lock import lock_folder
from runner.store.opening import Damaged, comment
from runner.store.packed import ARCHIVE, CONFIG, LARGEST, Archive, is_own, open_archive
from runner.store.runs import WRITTEN, read_run

EVENTS = re.compile(r"events\.out\.tfevents\.[\w.+-]{1,200}", re.ASCII)
MOST_FILES, MOST_BYTES = 60_000, 3 * 2**30
"""Of an archive; zip files of more are read by fewer programs."""

Problems = list[str]
"""A line for each run that stays as it is."""


class _File(NamedTuple):
    """What goes into an archive."""

    name: str
    content: bytes
    modified: int


def pack(variant: Path, names: Sequence[str]) -> Problems:
    """Pack finished runs of a variant; those that cannot be packed are left as they are.

    Args:
        variant: Its folder, in which nobody else packs.
        names: The folders of its runs.

    Raises:
        Damaged: If there is an archive, and it is damaged: nothing is changed.
        UserError: If there is no room for the new one: nothing is changed.
    """
    problems: Problems = []
    archive = open_archive(variant)
    new = [n for n in names if not (archive and n in archive.runs) and _is_done(variant / n)]
    if new:
        if archive:
            _check(archive)
        written = _Writer(variant, archive, new, problems)
        write_atomically(variant / ARCHIVE, written.write)
        archive = open_archive(variant)
    if archive and not archive.runs:  # none could be read
        (variant / ARCHIVE).unlink()
    for name in names if archive else ():
        if archive and name in archive.runs:
            problems += _remove(variant / name, archive)
    return problems


def _is_done(folder: Path) -> bool:
    """Whether a folder, and no link, holds a finished run."""
    if folder.is_symlink() or not is_own(folder):
        return False
    run = read_run(folder, "")
    return run.state == "done" and run.status.get("status") == "done"


def _check(archive: Archive) -> None:
    """Read all of an archive, before another one takes its place."""
    for run, files in archive.runs.items():
        for name in files:
            archive.read(run, name)


class _Writer:
    """Writes an archive: what an older one holds, and more runs, as many as it takes."""

    def __init__(
        self, variant: Path, old: Archive | None, names: Sequence[str], problems: Problems
    ) -> None:
        self.variant, self.old, self.names, self.problems = variant, old, names, problems

    def write(self, file: BinaryIO) -> None:
        """Write it, and seal it with the checksum of its list."""
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=False) as new:
            for one in self._files():
                info = zipfile.ZipInfo(one.name)  # of 1980: the time of a zip file has no zone
                info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                info.comment = str(one.modified).encode()
                new.writestr(info, one.content)
        file.flush()
        with open(file.name, "rb") as again:
            again.seek(-22, os.SEEK_END)
            size, start = struct.unpack("<12x2L2x", again.read())
            again.seek(start)
            digest = hashlib.sha256(again.read(size)).hexdigest()
        file.seek(-2, os.SEEK_END)
        file.write(comment(digest))

    def _files(self) -> Iterator[_File]:
        count = size = 0
        for run, files in self.old.runs.items() if self.old else ():
            for name, member in files.items():
                assert self.old is not None
                yield _File(f"{run}/{name}", self.old.read(run, name), member.modified)
                count, size = count + 1, size + member.size
        for name in self.names:
            try:
                with lock_folder(self.variant / name):
                    found = [*_read(self.variant / name)] if _is_done(self.variant / name) else []
            except (Damaged, OSError, UserError) as error:
                self.problems.append(f"{label(self.variant / name)}: {error}")
                continue
            count, size = count + len(found), size + sum(len(each.content) for each in found)
            if count > MOST_FILES or size > MOST_BYTES:
                self.problems.append(
                    f"{label(self.variant / name)}: {ARCHIVE} is full. This run and those after it "
                    "stay as they are."
                )
                return
            yield from found


def _read(folder: Path) -> Iterator[_File]:
    """Read the files of a run that are not large."""
    for path in _own_files(folder):
        about = path.lstat()
        if about.st_size <= LARGEST:
            yield _File(f"{folder.name}/{path.name}", read_bytes(path, LARGEST), about.st_mtime_ns)


def _own_files(folder: Path) -> list[Path]:
    """List the files that a run writes, config.yaml first; whatever else is there is not."""
    names = sorted(n for n in os.listdir(folder) if n in WRITTEN or EVENTS.fullmatch(n))
    return [folder / name for name in sorted(names, key=lambda name: name != CONFIG)]


def _remove(folder: Path, archive: Archive) -> Problems:
    """Remove from a folder what the archive holds, byte for byte."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    try:
        with lock_folder(folder):
            remove_leftovers(folder)
            there = [path for path in _own_files(folder) if not _is_large(path)]
            if problem := _difference(folder, archive, there):
                return [problem]
            for path in there:
                path.unlink()
            (folder / ".lock").unlink(missing_ok=True)
    except (Damaged, OSError, UserError) as error:
        return [f"{label(folder)}: {error}"]
    with suppress(OSError):  # it stays if anything else is in it
        folder.rmdir()
    return []


def _is_large(path: Path) -> bool:
    return path.lstat().st_size > LARGEST


def _difference(folder: Path, archive: Archive, there: Sequence[Path]) -> str | None:
    """Say which file of a folder is not the same in the archive; None if all are."""
    for path in there:
        packed = path.name in archive.runs[folder.name]
        if not packed or read_bytes(path, LARGEST) != archive.read(folder.name, path.name):
            return (
                f"{label(folder)}: {path.name} is not as in {ARCHIVE}, which holds this run too. "
                "Move that folder away, and repeat the command."
            )
    return None


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def unpack(variant: Path) -> Problems:
    """Unpack the runs of a variant, and remove the archive once all are in their folders.

    Args:
        variant: Its folder, in which nobody else packs.

    Raises:
        Damaged: If the archive is damaged.
        UserError: If there is no room for the files.
    """
    if (archive := open_archive(variant)) is None:
        return []
    _check(archive)
    for run, files in archive.runs.items():
        for name in files:
            if name not in WRITTEN and not EVENTS.fullmatch(name):
                raise Damaged(f"holds {run}/{name}, which no run writes")
    problems = [line for run in archive.runs for line in _restore(variant / run, archive)]
    if not problems:
        (variant / ARCHIVE).unlink()
        flush_folder(variant)
    return problems


def _restore(folder: Path, archive: Archive) -> Problems:
    """Write the files of a run into its folder; what is there must be the same."""
    if folder.is_symlink():
        return [f"{label(folder)} is a link, which is not followed. Remove it"]
    folder.mkdir(exist_ok=True)
    members = archive.runs[folder.name]
    names = sorted(members, key=lambda name: name == CONFIG)  # the last one: then it is the run
    with lock_folder(folder):
        remove_leftovers(folder)
        there = [path for path in _own_files(folder) if not _is_large(path)]
        if problem := _difference(folder, archive, there):
            return [problem]
        for name in names:
            path, content = folder / name, archive.read(folder.name, name)
            if os.path.lexists(path):
                continue
            if name == CONFIG:
                flush_files(folder, members)
            write_atomically(path, partial(_write, content), lasts=name == CONFIG)
            os.utime(path, ns=(members[name].modified, members[name].modified))
    return []
