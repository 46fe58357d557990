"""How soon a short run begins, and what a whole one takes, beside scripts that do the same.

python -m benchmarks.start           # about two minutes
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.goals import Row, in_turns, seconds

RUN = ("-m", "runner", "threads=1")
STOP = """\
import os
from dataclasses import dataclass
from typing import final

from tricks import Trick


@final
@dataclass(frozen=True)
class StopAtOnce(Trick):
    def weights(self, model, time):
        os._exit(0)
"""
"""A trick that ends the process after its first update."""


def rows() -> Iterator[Row]:
    """Measure whole processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = folder / "own/tricks/stop_at_once.yaml"
        own.parent.mkdir(parents=True)
        own.write_text("stop_at_once:\n  enabled: true\n  _target_: stop.StopAtOnce\n")
        (folder / "stop.py").write_text(STOP)
        os.environ["BISCUITS_ALLOW"] = "stop.StopAtOnce"
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
