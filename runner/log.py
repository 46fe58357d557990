"""What a run writes as it goes: `metrics.jsonl` (the truth), TensorBoard (a view), one line."""

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from runner.files import write_text
from runner.runs import METRICS, read_metrics


class RunLog:
    """The log of one run; a context, closed at its end.

    Args:
        folder: The folder of the run.
        updates: The updates that the run has behind it as it starts. What an earlier attempt
            logged beyond them is taken back: it is about to be done again.
    """

    def __init__(self, folder: Path, updates: int) -> None:
        self.path = folder / METRICS
        kept = [line for line in read_metrics(folder) if line["update"] <= updates]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.tensorboard = SummaryWriter(str(folder), purge_step=updates + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.tensorboard.close()

    def write(self, epoch: int, update: int, numbers: dict[str, float]) -> None:
        """Log one evaluation; a number that is not finite is written as null."""
        finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        with open(self.path, "a") as file:
            file.write(json.dumps({"epoch": epoch, "update": update, **finite}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.scalars(update, numbers)

    def scalars(self, update: int, numbers: dict[str, float]) -> None:
        """Show numbers in TensorBoard alone."""
        for name, number in numbers.items():
            self.tensorboard.add_scalar(name, number, update)
        self.tensorboard.flush()
