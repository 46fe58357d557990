"""What it takes to find out that an ablation is done: the same command again over 10,000 runs.

    python -m benchmarks.done            # about three minutes, most of it to make the runs up
    python -m benchmarks.done 1000       # with fewer runs

The plan is a real one: the command is killed once it has frozen it. Its runs are made up.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.goals import Row, seconds
from runner.ablation.plan import PLAN, load_plan

SEEDS = 10


def command(runs: int) -> list[str]:
    """Return what is typed: one setting with many values, two at least."""
    seeds = min(SEEDS, runs // 2)
    rates = ",".join(f"{0.05 + n / 1e5:.5f}" for n in range(runs // seeds - 1))
    factors = f"ablation.factors={{optimizer.lr:[0.1,{rates}]}}"
    design = ["ablation=one_at_a_time", factors, f"ablation.seeds={seeds}", "tricks=[]"]
    return ["-m", "runner", *design, "name=done"]


def freeze(folder: Path, typed: list[str]) -> None:
    """Begin the ablation, and kill it once its plan is written."""
    with subprocess.Popen(typed, cwd=folder, start_new_session=True) as process:
        while process.poll() is None and not (folder / "outputs/done" / PLAN).exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)


def rows(runs: int = 10_000) -> Iterator[Row]:
    """Measure the command, and the report by itself, which it ends with.

    Raises:
        CalledProcessError: If one of them fails.
    """
    from tests.builders import write_run

    with tempfile.TemporaryDirectory() as name:
        folder, typed = Path(name), command(runs)
        freeze(folder, [sys.executable, *typed])
        root = folder / "outputs/done"
        plan = load_plan(root)
        assert plan is not None
        for seed, variant in plan.runs():
            write_run(root, variant, seed, accuracy=0.9 + 0.0001 * (seed % 7))
        report = seconds(("-m", "runner.report", str(root)), folder)
        start = time.perf_counter()
        again = [sys.executable, *typed]
        with subprocess.Popen(again, cwd=folder, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
        whole, memory = time.perf_counter() - start, usage.ru_maxrss / 1024
        if status:
            raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), again)
    details = f"the command takes {whole:.1f} s, the report by itself {report:.1f} s"
    yield Row(
        f"finding out that {runs:,} runs are done", "", whole - report, 5, "s", details=details
    )
    yield Row("its peak memory", "", memory, 1000, "MiB")


if __name__ == "__main__":
    for row in rows(*map(int, sys.argv[1:])):
        print(row.text(), flush=True)
