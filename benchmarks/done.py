"""What it takes to find out that an ablation is done: the same command again over 10,000 runs.

    python -m benchmarks.done            # about three minutes, most of it to make the runs up
    python -m benchmarks.done 1000       # with fewer runs

The plan is a real one: the command is killed once it has frozen it. Its runs are made up.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner.ablation.plan import PLAN, load_plan

SEEDS = 10


def command(runs: int) -> list[str]:
    """Return what is typed: one setting with many values."""
    rates = ",".join(f"{0.05 + n / 1e5:.5f}" for n in range(runs // SEEDS - 1))
    factors = f"ablation.factors={{optimizer.lr:[0.1,{rates}]}}"
    design = ["ablation=one_at_a_time", factors, f"ablation.seeds={SEEDS}", "tricks=[]"]
    return [sys.executable, "-m", "runner", *design, "name=done"]


def freeze(folder: Path, typed: list[str]) -> None:
    """Begin the ablation, and kill it once its plan is written."""
    with subprocess.Popen(typed, cwd=folder, start_new_session=True) as process:
        while process.poll() is None and not (folder / "outputs/done" / PLAN).exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)


def main() -> None:
    """Print the seconds and the memory of the command that finds all runs done."""
    from tests.builders import write_run

    runs = int(sys.argv[1]) if sys.argv[1:] else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder, typed = Path(name), command(runs)
        freeze(folder, typed)
        root = folder / "outputs/done"
        plan = load_plan(root)
        assert plan is not None
        for seed, variant in plan.runs():
            write_run(root, variant, seed, accuracy=0.9 + 0.0001 * (seed % 7))
        start = time.perf_counter()
        timed = ["/usr/bin/time", "-f", "%M", *typed]
        done = subprocess.run(timed, cwd=folder, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
    memory = int(done.stderr.split()[-1]) / 1024
    print(f"{runs:,} runs found done in {seconds:.1f} s, peak memory {memory:.0f} MiB")


if __name__ == "__main__":
    main()
