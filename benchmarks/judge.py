"""What `python -m runner.judge` takes with 10,000 rows, beside `import scipy.stats` alone.

    python -m benchmarks.judge

Tables are made up, in a temporary folder. Each command runs in a process of its own, in turn with
one that imports `scipy.stats` and nothing else; the medians of several rounds are printed, in
seconds of one core, so that what else the machine does counts little. It may take 2 s more.
"""

import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = ((100, 100), (1000, 10))
ROUNDS = 5


def seconds(*command):
    """Give the processor time that a command takes, start and imports included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *command]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write(path, variants, seeds):
    """Write a table: half of the variants do nothing, the others something."""
    draw = random.Random(0)
    names = ["baseline", *(f"variant_{n}" for n in range(1, variants))]
    rows = [
        f"{name},{seed},{0.9 + 0.01 * (n % 2) + draw.gauss(0, 0.005)}"
        for n, name in enumerate(names)
        for seed in range(seeds)
    ]
    path.write_text("\n".join(["variant,seed,score", *rows]) + "\n")


def main():
    with tempfile.TemporaryDirectory() as folder:
        for variants, seeds in CASES:
            path = Path(folder) / "scores.csv"
            write(path, variants, seeds)
            pairs = [
                (seconds("-m", "runner.judge", str(path)), seconds("-c", "import scipy.stats"))
                for _ in range(ROUNDS)
            ]
            ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
            print(
                f"{variants} variants x {seeds} seeds: {ours:.2f} s; import scipy.stats "
                f"{theirs:.2f} s; {ours - theirs:.2f} s more",
                flush=True,
            )


if __name__ == "__main__":
    main()
