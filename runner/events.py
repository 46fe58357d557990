"""A file of TensorBoard's events that can be made again: one in a folder, beside those of a run.

Its name ends in `.view`, and begins with the time of what it shows. With the same events of the
same time it is the same file, and is left as it is; otherwise it takes the place of the old one,
which stays beside it, emptied, until the next: TensorBoard's reader in Python goes through the
files of a folder by their names, and stops for good at one that is gone.
"""

import os
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from runner.errors import UserError

VIEWS = "events.out.tfevents.*.view"

Logged = tuple[int, Summary]
"""A step, and what is shown there."""


def replace_view(
    root: Path, folder: Path, when: float, logged: Iterable[Logged], restart: bool = False
) -> None:
    """Make these events the view of a folder; of no events, it shall have no view.

    Args:
        root: A folder that is not left, whatever `folder` is called or is a link to.
        folder: Made if it is not there.
        when: The time of what is shown, in seconds; a reader takes a folder's files in its order.
        logged: What is shown.
        restart: Whether a reader shall forget what other files of the folder showed before.

    Raises:
        UserError: If the folder is not below the root.
        OSError: If it cannot be written to.
    """
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{folder} must lie in {root.resolve()}, got {folder.resolve()}. "
            "Put the plan back as it was, or the folder itself in the place of the link."
        )
    events = [Event(wall_time=when, step=step, summary=summary) for step, summary in logged]
    path = folder / f"events.out.tfevents.{when:017.6f}.view"
    old = [other for other in folder.glob(VIEWS) if other != path or not events]
    written = bool(events) and _write(path, [*_opening(when, restart), *events])
    for other in old:
        if other.stat().st_size > 0:
            other.write_bytes(b"")
        elif written:
            other.unlink()


def _opening(when: float, restart: bool) -> Iterator[Event]:
    yield Event(wall_time=when, file_version="brain.Event:2")
    if restart:
        yield Event(wall_time=when, session_log=SessionLog(status=SessionLog.START))


def _write(path: Path, events: Iterable[Event]) -> bool:
    """Write a file of events at once; False if it holds them already."""
    content = BytesIO()
    writer = RecordWriter(content)
    for event in events:
        writer.write(event.SerializeToString(deterministic=True))
    if path.exists() and path.read_bytes() == content.getvalue():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the atomic writing of runner.files: TensorBoard reads all whose name holds `tfevents`
    beside = path.with_name(f".view.{os.getpid()}.tmp")
    try:
        beside.write_bytes(content.getvalue())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return True
