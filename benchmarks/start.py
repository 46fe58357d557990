"""How soon a short run begins, and what a whole one takes, beside scripts that do the same.

python -m benchmarks.start           # about two minutes
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import nn

from benchmarks.goals import Row, in_turns, seconds
from tricks import Time, Trick

RUN = ("-m", "runner", "threads=1")


@final
@dataclass(frozen=True)
class StopAtOnce(Trick):
    """Ends the process after its first update."""

    def weights(self, model: nn.Module, time: Time) -> None:  # noqa: ARG002
        """End here."""
        os._exit(0)


def rows() -> Iterator[Row]:
    """Measure whole processes."""
    os.environ["BISCUITS_ALLOW"] = "benchmarks.start.StopAtOnce"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = folder / "own/tricks/stop_at_once.yaml"
        own.parent.mkdir(parents=True)
        node = "stop_at_once:\n  enabled: true\n  _target_: benchmarks.start.StopAtOnce\n"
        own.write_text(node)
        first = (*RUN, "--config-dir", str(folder / "own"), "tricks=[stop_at_once]")
        found = in_turns(
            5,
            first=lambda n: seconds((*first, f"name=first{n}"), folder),
            torch=lambda _: seconds(("-c", "import torch"), folder),
        )
        yield Row(
            "process start to the first update, digits",
            "`import torch`",
            found["first"] - found["torch"],
            1.0,
            "s more",
            details=f"{found['first']:.2f} s and {found['torch']:.2f} s",
        )
        found = in_turns(
            5,
            ours=lambda n: seconds((*RUN, f"name=whole{n}"), folder),
            barest=lambda n: seconds(("-m", "benchmarks.barest", f"{name}/barest{n}"), folder),
            lightning=lambda n: seconds(("-m", "benchmarks.with_lightning", f"{name}/{n}"), folder),
        )
        for other, title, goal in (
            ("barest", "the barest script", 0.8),
            ("lightning", "Lightning", 0.5),
        ):
            details = f"{found['ours']:.2f} s and {found[other]:.2f} s"
            ratio = found["ours"] / found[other]
            yield Row("a whole run, digits, 15 epochs", title, ratio, goal, details=details)


if __name__ == "__main__":
    for row in rows():
        print(row.text(), flush=True)
