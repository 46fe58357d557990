"""What two ranks, and two workers, do in the time of one.

python -m benchmarks.ranks           # about five minutes on two quiet cores
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.goals import Row, in_turns, seconds, write_images

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2")
RUN = ("-m", "runner", "model=resnet20", "data=npz", "batch_size=128", "epochs=2", "threads=1")
MORE = ("data.validation=0", "again=true", "memory_format=contiguous")
SWEEP = ("-m", "runner", "-m", "seed=range(8)", "threads=1", "again=true")


def rows() -> Iterator[Row]:
    """Measure in turns: of a run its updates alone, of a sweep the whole command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "data.npz")
        data = f"data.file={folder / 'data.npz'}"

        def updates(n: int, before: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> float:
            seconds((*before, *RUN, *MORE, data, *more, f"name=run{n}"), folder)
            (log,) = folder.glob(f"outputs/run{n}/*/seed=0/metrics.jsonl")
            last: float = json.loads(log.read_text().splitlines()[-1])["time/seconds"]
            for file in folder.glob(f"outputs/run{n}/*"):
                file.rename(folder / f"done{n}{len([*folder.iterdir()])}")
            return last

        found = in_turns(
            3,
            one=updates,
            two=lambda n: updates(n, TORCHRUN),
            together=lambda n: updates(n, TORCHRUN, ("sync_batch_norm=true",)),
            threads=lambda n: updates(n, (), ("threads=2",)),
        )
        for key, what in {
            "two": "an epoch of ResNet-20, CIFAR's shapes, batch 128, two ranks of one thread",
            "together": "the same, with synchronised batch norm",
            "threads": "the same, one process of two threads",
        }.items():
            details = f"{found[key]:.1f} s and {found['one']:.1f} s"
            yield Row(what, "one thread", found[key] / found["one"], 1.0, details=details)
        sweep = in_turns(
            3,
            one=lambda n: seconds((*SWEEP, "hydra.launcher.workers=1", f"name=a{n}"), folder),
            two=lambda n: seconds((*SWEEP, "hydra.launcher.workers=2", f"name=b{n}"), folder),
        )
        details = f"{sweep['two']:.1f} s and {sweep['one']:.1f} s"
        ratio = sweep["two"] / sweep["one"]
        yield Row("eight runs of the digits, two workers", "one", ratio, 1.0, details=details)


if __name__ == "__main__":
    for row in rows():
        print(row.text(), flush=True)
