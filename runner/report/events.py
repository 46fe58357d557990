"""TensorBoard's event files that can be rewritten: views beside those of a run, and a run's own.

The name of a view ends in `.view`, and begins with the time of what it shows. The same events of
the same time give the same file, which is left as it is. Otherwise the new view replaces the old
one, which stays, empty, until the next: TensorBoard's reader in Python goes through the files of a
folder by their names, and stops for good at one that is gone. A view is written record by record,
since torch's writer puts the present time and process into its name and first event.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from itertools import accumulate
from math import nan
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from runner import tiles
from runner.errors import UserError
from runner.report.answers import read_answers, read_picture
from runner.store.files import Damaged
from runner.store.packed import look
from runner.store.runs import CONFIG, CONFUSION_TAG, METRICS, MISTAKES_TAG, Run, number
from runner.texts import printable

EVENTS = "events.out.tfevents.*"
VIEWS = "events.out.tfevents.*.view"

Logged = tuple[int, Summary]
"""A step, and what is shown there."""


def replace_view(
    root: Path, folder: Path, when: float, logged: Iterable[Logged], restart: bool = False
) -> None:
    """Make these events the view of a folder; without events it has no view.

    Args:
        root: Nothing is written outside of it, whatever `folder` is called or links to.
        folder: Made if it does not exist.
        when: The time of what is shown, in seconds; a reader takes a folder's files in this order.
        logged: What is shown.
        restart: Whether a reader should forget what earlier files of the folder showed.

    Raises:
        UserError: If the folder is not below the root.
        OSError: If it cannot be written to.
    """
    _refuse_outside(root, folder)
    events = [Event(wall_time=when, step=step, summary=summary) for step, summary in logged]
    path = folder / f"events.out.tfevents.{when:017.6f}.view"
    old = [other for other in folder.glob(VIEWS) if other != path or not events]
    opening = [Event(wall_time=when, file_version="brain.Event:2")]
    if restart:
        started = SessionLog(status=SessionLog.START)
        opening.append(Event(wall_time=when, session_log=started))
    written = bool(events) and _write(path, [*opening, *events])
    for other in old:
        if _holds(other, b""):
            if written:
                other.unlink()
        elif not other.is_dir():
            _put(other, b"")


def rebuild(run: Run) -> None:
    """Write a run's own events anew from metrics.jsonl and result.json, in place of the old ones.

    The last has the time of metrics.jsonl, and the others are as far apart as training took.

    Args:
        run: Nothing else writes into its folder: the caller has locked it.

    Raises:
        Damaged: If they cannot be read; the events are unchanged.
        OSError: If the folder cannot be written to.
    """
    lines, result = run.metrics, run.result or {}
    spent = list(accumulate(max(0.0, number(line.get("time/seconds")) or 0.0) for line in lines))
    end = modified(run.folder / METRICS)
    logged = [
        (end - spent[-1] + t, line["update"], line) for t, line in zip(spent, lines, strict=True)
    ]
    tested = {tag: value for tag, value in result.items() if tag.startswith("test/")}
    old = [file for file in run.folder.glob(EVENTS) if file.suffix != ".view" and not file.is_dir()]
    with SummaryWriter(str(run.folder)) as writer:
        if run.config:
            shown = (run.folder / CONFIG).read_text().splitlines()
            writer.add_text("config", "\n".join(f"    {line}" for line in shown), 0)
        for when, step, numbers in [*logged, (end, result.get("updates"), tested)]:
            for tag, value in numbers.items() if is_step(step) else ():
                known = nan if value is None else number(value)  # null was not finite
                if known is not None and tag not in ("epoch", "update"):
                    writer.add_scalar(printable(tag, 200), known, step, when)
        for tag, content in _pictures(run) if is_step(result.get("updates")) else ():
            shown = tiles.summary(tag, content)
            writer._get_file_writer().add_summary(shown, result["updates"], end)
    for file in old:
        file.unlink()


def _pictures(run: Run) -> Iterator[tuple[str, bytes]]:
    """Give the PNG files of a run by their tags, as far as their files can be read."""
    with suppress(FileNotFoundError, Damaged):
        yield MISTAKES_TAG, read_picture(run)
    if found := read_answers(run):
        yield CONFUSION_TAG, tiles.encode(tiles.matrix(found.counts, found.names))


def is_step(value: object) -> bool:
    """Whether TensorBoard takes it as a step."""
    return isinstance(value, int) and 0 <= value < 2**63


def modified(path: Path) -> float:
    """Give back when a file was last written; 0 if it does not exist."""
    about = look(path)
    return about.modified if about else 0.0


def _refuse_outside(root: Path, folder: Path) -> None:
    try:
        place = folder.resolve()
    except RuntimeError:  # a circle of links
        place = Path()
    if not place.is_relative_to(root.resolve()):
        raise UserError(
            f"{folder} leads to {place}, outside of {root.resolve()}. "
            "Restore sweep.yaml, or replace the link by the folder itself."
        )


def _write(path: Path, events: Iterable[Event]) -> bool:
    """Write a file of events; False if it has this content already."""
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
    """Whether it is a file, not a link or pipe, with this content."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != len(content):
        return False
    return path.read_bytes() == content


def _put(path: Path, content: bytes) -> None:
    """Write a file in place of whatever is there, but not through a link, nor into a pipe."""
    # not `write_atomically`: TensorBoard reads every file whose name holds `tfevents`
    beside = path.with_name(f".view.{os.getpid()}.tmp")
    try:
        beside.unlink(missing_ok=True)
        with open(beside, "xb") as file:
            file.write(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
