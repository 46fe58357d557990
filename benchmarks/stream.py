"""Images that are larger than memory: how fast an epoch of them comes from the disk.

    python -m benchmarks.stream          # about two minutes; writes 2 GB into the current folder

The first batches of a shuffled epoch are read from the decoded cache, with nothing of it in memory,
and beside it as many bytes from the first on. It is the beginning of an epoch, where the neighbours
that the system reads of its own are of no use, as where memory cannot keep them. Each measure is
made in a process of its own, which first takes the file out of the system's cache; the time of the
same with all in memory is taken off. Also what was read of the disk, as a multiple of the images,
with the advice to the system (runner/data/stream.py) and without.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.goals import ROOT, Row
from runner.data import Batches, Split, stream

BYTES, PART, BATCH = 2**31, 2**28, 128
SIDES = {224: 1.2, 32: 2.4}
"""What should be read of the disk at most; an image of 32 x 32 lies in 1.75 pages of 4 KiB."""
ROUNDS = 3


def write(file: Path, side: int) -> None:
    """Write images of noise, as the decoded cache holds them."""
    generator, size = np.random.default_rng(0), 3 * side**2
    shape = (BYTES // size, 3, side, side)
    np.lib.format.open_memmap(file, "w+", np.uint8, shape).flush()
    with open(file, "r+b") as handle:
        handle.seek(-shape[0] * size, os.SEEK_END)
        for _ in range(shape[0] // BATCH):
            handle.write(generator.bytes(BATCH * size))
        os.fsync(handle.fileno())


def measure(how: str, file: Path) -> None:
    """Print the seconds of one measure, and the bytes that were read of the disk."""
    with open(file, "rb") as handle:
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    torch.set_num_threads(1)
    stream.memory_here = lambda: 0 if how == "advice" else 2**60
    begin = read_on if how == "sequential" else read_batches
    again = begin(file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
    cold = seconds(again)
    read = resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before
    print(cold - seconds(again), 512 * read)


def read_on(file: Path) -> Callable[[], None]:
    """Give back what reads a part of a file."""

    def read() -> None:
        with open(file, "rb", buffering=0) as handle:
            for _ in range(PART // 2**20):
                handle.read(2**20)

    return read


def read_batches(file: Path) -> Callable[[], None]:
    """Give back what makes batches of as many bytes of images."""
    images = torch.from_numpy(np.load(file, mmap_mode="r"))
    everything = Split(images, torch.zeros(len(images), dtype=torch.int64))
    split = everything._replace(rows=torch.arange(len(images)))
    statistics = torch.full((3,), 0.5), torch.full((3,), 0.25)
    batches = Batches(split, BATCH, *statistics, shuffle=True)
    count = PART // (BATCH * images[:1].nbytes)

    def read() -> None:
        for _ in islice(batches.epoch(0), count):
            pass

    return read


def seconds(make: Callable[[], None]) -> float:
    """Time one call."""
    start = time.perf_counter()
    make()
    return time.perf_counter() - start


def rows() -> Iterator[Row]:
    """Measure for large images, and for small ones."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        for side, goal in SIDES.items():
            file = Path(name, f"{side}.npy")
            write(file, side)
            found: dict[str, list[tuple[float, float]]] = {}
            for how in ("sequential", "advice", "none") * ROUNDS:
                typed = [sys.executable, "-W", "ignore", "-m", "benchmarks.stream", how, str(file)]
                where = {**os.environ, "PYTHONPATH": str(ROOT)}
                done = subprocess.run(typed, env=where, capture_output=True, text=True, check=True)
                waited, read = map(float, done.stdout.split())
                found.setdefault(how, []).append((waited, read / PART))
            best = {how: min(each) for how, each in found.items()}
            (whole, _), (epoch, share), (usual, more) = best.values()
            title = f"waiting for images of {side} x {side} in a random order, from the disk"
            details = f"{epoch:.2f} and {whole:.2f} s; {usual:.2f} s without advice"
            yield Row(title, "reading as much in order", epoch / whole, 1.5, details=details)
            details = f"{more:.2f} times without advice"
            yield Row("of the disk it reads", "its images", share, goal, details=details)
            file.unlink()


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(sys.argv[1], Path(sys.argv[2]))
    else:
        for row in rows():
            print(row.text(), flush=True)
