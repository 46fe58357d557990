"""A lock on a folder, of a run or of an ablation; it ends with the process that holds it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from runner.errors import UserError
from runner.names import label
from runner.store.files import writing
from runner.store.runs import read_status


class Locked(UserError):
    """Another process works in the folder."""


@contextmanager
def lock_folder(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Lock a folder.

    Args:
        folder: The folder.
        wait: Seconds to wait for another process to unlock it.

    Raises:
        Locked: If another process keeps it locked; the message names that process, if known.
        UserError: If no file can be written there.
    """
    lock = FileLock(folder / ".lock")
    with writing(folder / ".lock"):
        try:
            lock.acquire(timeout=wait, poll_interval=1.0)
        except Timeout:
            status = read_status(folder)
            known = {"process", "host"} <= status.keys()
            who = f"process {status['process']} on {status['host']}" if known else "another process"
            raise Locked(f"{label(folder)} is locked by {who}. Wait or stop it.") from None
    try:
        yield
    finally:
        lock.release()
