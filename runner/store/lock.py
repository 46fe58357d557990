"""A lock on a folder, of a run or of an ablation; it dies with the process that has it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from runner.errors import UserError
from runner.names import label
from runner.store.files import unwritable
from runner.store.runs import read_status


class Locked(UserError):
    """Another process works in the folder."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder.

    Raises:
        Locked: If another process has locked it; the message names that process, if it is known.
        UserError: If no file can be written there.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        status = read_status(folder)
        who = "another process"
        if "process" in status and "host" in status:
            who = f"process {status['process']} on {status['host']}"
        raise Locked(f"{label(folder)} is locked by {who}. Wait for it, or stop it.") from None
    except OSError as error:
        raise unwritable(folder / ".lock", error) from error
    try:
        yield
    finally:
        lock.release()
