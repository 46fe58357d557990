"""What a sweep takes beside its updates, and beside as many scripts, two at a time.

python -m benchmarks.sweep           # about four minutes on two cores
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from benchmarks.goals import Row, seconds

AS_THE_SCRIPT = ("epochs=15", "data.test=null", "ablation.until=fixed")
"""Makes of the demo 30 runs of as many updates as the barest script has."""
WARM = 8


def rows() -> Iterator[Row]:
    """Measure whole commands."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield _warm(folder)
        demo = ("-m", "runner", "experiment=demo", *AS_THE_SCRIPT)
        ours = seconds(demo, folder)
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            scripts = (("-m", "benchmarks.barest", f"{name}/{n}", str(n)) for n in range(30))
            list(pool.map(lambda script: seconds(script, folder), scripts))
        theirs = time.perf_counter() - start
        yield Row(
            "30 runs of the demo, of 15 epochs",
            "30 times the barest script, two at once",
            ours / theirs,
            0.25,
            details=f"{ours:.0f} s and {theirs:.0f} s",
        )


def _warm(folder: Path) -> Row:
    """Take what the runs of a worker but the first took, less the time of their epochs."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(cores)])
    try:
        command = ("-m", "runner", "-m", f"seed=range({WARM})", "name=warm", "threads=1")
        seconds(command, folder)
    finally:
        os.sched_setaffinity(0, cores)
    ends, training = [], {}
    for run in (folder / "outputs/warm").glob("*/seed=*"):
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        ended = (run / "status.json").stat().st_mtime
        ends.append((ended, run))
        training[run] = sum(line["time/seconds"] for line in lines)
    ends.sort()
    whole = [b - a for (a, _), (b, _) in pairwise(ends)]
    extra = sorted(w - training[run] for w, (_, run) in zip(whole, ends[1:], strict=True))
    middle = extra[len(extra) // 2]
    mean = sum(whole) / len(whole)
    details = f"of {mean:.2f} s a run; with 15 evaluations"
    return Row(
        "a further run in a warm worker, beside its updates", "", middle, 0.3, "s", False, details
    )


if __name__ == "__main__":
    for row in rows():
        print(row.text(), flush=True)
