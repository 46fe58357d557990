"""TensorBoard's event files that can be made again: views beside those of a run, and a run's own.

A view's name ends in `.view`, and begins with the time of what it shows. With the same events of
the same time it is the same file, and is left as it is; otherwise it takes the place of the old
one, which stays beside it, empty, until the next: TensorBoard's reader in Python goes through the
files of a folder by their names, and stops for good at one that is gone.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from math import nan
from pathlib import Path
from sys import float_info
from typing import Any, TypeGuard

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from runner.errors import UserError
from runner.store.runs import METRICS, Run
from runner.texts import shorten

EVENTS = "events.out.tfevents.*"
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
    _refuse_outside(root, folder)
    events = [Event(wall_time=when, step=step, summary=summary) for step, summary in logged]
    path = folder / f"events.out.tfevents.{when:017.6f}.view"
    old = [other for other in folder.glob(VIEWS) if other != path or not events]
    written = bool(events) and _write(path, [*_opening(when, restart), *events])
    for other in old:
        if _holds(other, b""):
            if written:
                other.unlink()
        elif not other.is_dir():
            _put(other, b"")


def rebuild(run: Run) -> int:
    """Write a run's own events again, from metrics.jsonl and result.json, in the place of all.

    The last has the time of metrics.jsonl, and each one before it is as much earlier as the
    training between them took.

    Args:
        run: Nothing writes into its folder meanwhile: the caller holds it.

    Returns:
        How many numbers there are.

    Raises:
        Damaged: If they cannot be read; the events are left as they are.
        OSError: If the folder cannot be written to.
    """
    lines, result = run.metrics, run.result or {}
    times = [_changed(run.folder / METRICS)]
    for line in reversed(lines[1:]):
        times.append(max(0.0, times[-1] - _duration(line)))
    logged = [(t, line["update"], line) for t, line in zip(reversed(times), lines, strict=False)]
    tested = {tag: number for tag, number in result.items() if tag.startswith("test/")}
    events = [
        Event(wall_time=when, step=step, summary=Summary(value=[_scalar(tag, number)]))
        for when, step, numbers in [*logged, (times[0], result.get("updates"), tested)]
        if isinstance(step, int) and 0 <= step < 2**63
        for tag, number in numbers.items()
        if tag not in ("epoch", "update") and (number is None or _is_number(number))
    ]
    path = run.folder / f"events.out.tfevents.{times[-1]:017.6f}.rebuilt"
    if events:
        _write(path, [*_opening(events[0].wall_time, restart=False), *events])
    for other in run.folder.glob(EVENTS):
        if other.suffix != ".view" and not (events and other == path) and not other.is_dir():
            other.unlink()
    return len(events)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) < float_info.max


def _duration(line: Mapping[str, Any]) -> float:
    seconds = line.get("time/seconds")
    return seconds if _is_number(seconds) and seconds > 0 else 0.0


def _scalar(tag: str, number: float | None) -> Summary.Value:
    """One number, as torch's writer has it; null stands for one that is not finite."""
    return Summary.Value(tag=shorten(tag, 200), simple_value=nan if number is None else number)


def _changed(path: Path) -> float:
    """When a file was last written; 0 if it is not there."""
    return path.stat().st_mtime if path.exists() else 0.0


def _refuse_outside(root: Path, folder: Path) -> None:
    try:
        place = folder.resolve()
    except RuntimeError:  # a circle of links
        place = Path()
    if not place.is_relative_to(root.resolve()):
        raise UserError(
            f"{folder} must lie in {root.resolve()}, got {place}. "
            "Put the plan back as it was, or the folder itself in the place of the link."
        )


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
    if _holds(path, content.getvalue()):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    _put(path, content.getvalue())
    return True


def _holds(path: Path, content: bytes) -> bool:
    """Whether it is a file, no link or pipe, of this content."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != len(content):
        return False
    return path.read_bytes() == content


def _put(path: Path, content: bytes) -> None:
    """Write a file in the place of whatever is there; through no link, and into no pipe."""
    # not `write_atomically`: TensorBoard reads every file whose name holds `tfevents`
    beside = path.with_name(f".view.{os.getpid()}.tmp")
    try:
        beside.unlink(missing_ok=True)
        with open(beside, "xb") as file:
            file.write(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
