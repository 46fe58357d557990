"""A lock on a folder, of a run or of an ablation; it ends with the process that holds it.

It is two locks. The system's own holds among the processes of a machine, and on some file systems
among machines. Where it does not, a marker does: a file that its owner touches every few seconds,
and that a process of another machine may take over when it has not seen it touched for long
enough, by its own clock.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, LeaseSettingsMismatch, SoftFileLease, Timeout

from runner.errors import UserError
from runner.names import label
from runner.store.files import writing
from runner.store.runs import read_status
from runner.texts import printable, say

LOCK, MARKER = ".lock", ".lock.held"
BEAT = 10.0  # seconds between two touches of the marker
LEASE = 60.0  # seconds after which a marker that nobody touches may be taken over; all must agree
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system without locks answers."""


class Locked(UserError):
    """Another process works in the folder."""


@contextmanager
def lock_folder(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Lock a folder.

    Args:
        folder: The folder.
        wait: Seconds to wait for another process to unlock it. For a process of another machine,
            which may be gone, as long as it takes to see that: up to `LEASE` seconds more.

    Raises:
        Locked: If another process keeps it locked; the message names that process, if known.
        UserError: If no file can be written there.
    """
    end = time.monotonic() + wait
    lock = FileLock(folder / LOCK, fallback_to_soft=False)
    held = SoftFileLease(
        folder / MARKER,
        lease_duration=LEASE,
        heartbeat_interval=BEAT,
        on_compromise=lambda lost: _end(folder, lost.reason),
    )
    try:
        with writing(folder / LOCK):
            _lock(lock, folder, wait)
            _hold(held, folder, end)
        yield
    finally:
        with suppress(OSError):  # the folder is gone, or its disk
            held.release()
        lock.release()


def _lock(lock: BaseFileLock, folder: Path, wait: float) -> None:
    """Take the lock of the system, if it has one there."""
    try:
        lock.acquire(timeout=wait, poll_interval=1.0)
    except Timeout:
        raise _locked(folder, "another process") from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise


def _hold(held: SoftFileLease, folder: Path, end: float) -> None:
    """Put up the marker; take over one that has not been touched for `LEASE` seconds."""
    first, since, told = _touched(folder), time.monotonic(), False
    while not held.is_locked:
        try:
            held.acquire(timeout=0)
        except (Timeout, LeaseSettingsMismatch):
            is_alive, waited = _touched(folder) != first, time.monotonic() - since
            if (owner := held.owner) is None or owner.lease_duration != LEASE:
                if waited < BEAT:  # it may be half written
                    time.sleep(BEAT / 10)
                    continue
                raise UserError(
                    f"{label(folder / MARKER)} is not one of this version. If no process works "
                    "in that folder, remove it."
                ) from None
            who = printable(f"process {owner.pid} on {owner.hostname}")
            if time.monotonic() >= end and (is_alive or waited > LEASE + BEAT):
                raise _locked(folder, who) from None
            if not told and not is_alive:
                say(
                    f"{label(folder)}  {who} has locked it, and may be gone. "
                    f"Waiting up to {LEASE:.0f} seconds to see."
                )
                told = True
            time.sleep(BEAT / 10)


def _touched(folder: Path) -> int | None:
    """When the marker was touched last, by the clock of whoever knows; None if there is none."""
    try:
        with open(folder / MARKER, "rb") as file:  # opened, since what is known of it may be old
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _locked(folder: Path, who: str) -> Locked:
    status = read_status(folder)
    if {"process", "host"} <= status.keys():
        who = f"process {status['process']} on {status['host']}"
    return Locked(f"{label(folder)} is locked by {who}. Wait or stop it.")


def _end(folder: Path, reason: str) -> None:
    """End the process: its folder may be another's by now, and two must not write there."""
    taken = reason == "owner-changed"
    why = "another process took it over" if taken else f"{MARKER} is gone or cannot be reached"
    text = f"{label(folder)}  is no longer locked by this process: {why}. The process ends.\n"
    with suppress(OSError):
        os.write(2, text.encode())
    os._exit(1)
