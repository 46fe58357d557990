"""What a run writes as it goes: `metrics.jsonl` (the truth), TensorBoard (a view), one line."""

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from runner.errors import UserError
from runner.store.files import FORMAT, unwritable, write_text
from runner.store.runs import METRICS


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
        write_text(self.path, "".join(self.lines))
        with self._room_for_events():
            self.tensorboard = SummaryWriter(str(folder), purge_step=updates + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(UserError) if error else nullcontext(), self._room_for_events():
            self.tensorboard.close()

    def write(self, epoch: int, update: int, numbers: dict[str, float]) -> None:
        """Log one evaluation; a number that is not finite is written as null.

        Raises:
            UserError: If there is no room for it.
        """
        finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        line = json.dumps({"format": FORMAT, "epoch": epoch, "update": update, **finite}) + "\n"
        try:
            with open(self.path, "a") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.lines.append(line)
        self.scalars(update, numbers)

    def scalars(self, update: int, numbers: dict[str, float]) -> None:
        """Show numbers in TensorBoard alone.

        Raises:
            UserError: If there is no room for them.
        """
        with self._room_for_events():
            for name, number in numbers.items():
                self.tensorboard.add_scalar(name, number, update)
            self.tensorboard.flush()

    @contextmanager
    def _room_for_events(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self.path.with_name("events.out.tfevents.*"), error) from error
