"""Whether the threads that are chosen are right on a machine whose cores are busy.

python -m benchmarks.busy            # about two minutes
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.goals import Row, in_turns, seconds, write_images

CASES = {
    "digits": ("data=digits", "epochs=5"),
    "ResNet-20, CIFAR's shapes": ("data=npz", "model=resnet20", "epochs=1", "data.validation=0"),
}


@contextmanager
def _busy() -> Iterator[None]:
    """Keep each core busy with another process."""
    count = len(os.sched_getaffinity(0))
    others = [subprocess.Popen([sys.executable, "-c", "while 1: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def rows() -> Iterator[Row]:
    """Measure whole processes, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "data.npz")
        for title, given in CASES.items():
            more = [f"data.file={folder / 'data.npz'}"] * ("data=npz" in given)
            run = ("-m", "runner", *given, *more)
            with _busy():
                found = in_turns(
                    3,
                    auto=lambda n, run=run: seconds((*run, f"name=auto{n}", "again=true"), folder),
                    one=lambda n, run=run: seconds(
                        (*run, "threads=1", f"name=one{n}", "again=true"), folder
                    ),
                )
            yield Row(
                f"threads=auto with another process on each core, {title}",
                "threads=1",
                found["auto"] / found["one"],
                1.0,
                details=f"{found['auto']:.1f} s and {found['one']:.1f} s",
            )


if __name__ == "__main__":
    for row in rows():
        print(row.text(), flush=True)
