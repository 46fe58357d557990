"""What a run writes as it goes: `metrics.jsonl` (the truth), TensorBoard (a view), one line."""

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from runner.errors import UserError
from runner.store.files import FORMAT, write_text, writing
from runner.store.runs import METRICS
from runner.tiles import summary


class RunLog:
    """The log of one run; a context, closed at its end.

    Args:
        folder: The folder of the run.
        lines: The lines of `metrics.jsonl` that a checkpoint holds. They replace what is there:
            an earlier attempt may have logged more, which is about to be done again.
        updates: The updates done before this attempt.
    """

    def __init__(self, folder: Path, lines: Iterable[str] = (), updates: int = 0) -> None:
        self.path = folder / METRICS
        self.lines = list(lines)
        write_text(self.path, "".join(self.lines), lasts=False)
        self.events = folder / "events.out.tfevents.*"
        with writing(self.events):
            self.tensorboard = SummaryWriter(str(folder), purge_step=updates + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with suppress(UserError) if error else nullcontext(), writing(self.events):
            self.tensorboard.close()

    def write(self, epoch: float, update: int, numbers: dict[str, float]) -> None:
        """Log one evaluation; a number that is not finite is written as null.

        Raises:
            UserError: If there is no room for it.
        """
        line = _line(epoch, update, numbers)
        with writing(self.path), open(self.path, "a") as file:
            file.write(line)  # until the run ends, its checkpoints hold the lines
        self.lines.append(line)
        self.scalars(update, numbers)

    def scalars(self, update: int, numbers: dict[str, float]) -> None:
        """Show numbers in TensorBoard alone.

        Raises:
            UserError: If there is no room for them.
        """
        with writing(self.events):
            for name, number in numbers.items():
                self.tensorboard.add_scalar(name, number, update)
            self.tensorboard.flush()

    def pictures(self, update: int, pictures: Mapping[str, bytes]) -> None:
        """Show PNG files by their tags, in TensorBoard alone.

        Raises:
            UserError: If there is no room for them.
        """
        with writing(self.events):
            for tag, content in pictures.items():
                self.tensorboard._get_file_writer().add_summary(summary(tag, content), update)

    def text(self, name: str, text: str) -> None:
        """Show lines in TensorBoard alone, as they are.

        Raises:
            UserError: If there is no room for them.
        """
        with writing(self.events):
            code = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown's own
            self.tensorboard.add_text(name, code, 0)


class UnwrittenLog(RunLog):
    """A log of which nothing is written: of a rank other than the first."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self.lines = list(lines)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass

    def write(self, epoch: float, update: int, numbers: dict[str, float]) -> None:
        """Keep the line of an evaluation."""
        self.lines.append(_line(epoch, update, numbers))


def _line(epoch: float, update: int, numbers: dict[str, float]) -> str:
    finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
    return json.dumps({"format": FORMAT, "epoch": epoch, "update": update, **finite}) + "\n"
