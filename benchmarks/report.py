"""What the report of a very large ablation takes: 10,000 runs, 5 evaluations each.

    python -m benchmarks.report           # both cases; about two minutes
    python -m benchmarks.report values    # one of them

The runs are made up, in a temporary folder. Measured is the whole command
`python -m runner.report`, in a process of its own: seconds, and peak resident memory.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.goals import Row
from runner.ablation.designs import Factor

CASES = {
    "values": ("one setting with 1,000 values, 10 seeds", "one_at_a_time", 10),
    "factorial": ("every combination of 10 tricks, 10 seeds", "factorial", 10),
}


def factors(case):
    """Give back what is varied, for each level its true effect."""
    if case == "values":
        levels = {f"value={n}": 0.00002 * (n - 400) for n in range(1000)}
        return {Factor("value", tuple(levels)): levels}
    return {
        Factor(name, (f"no-{name}", name)): {name: 0.002 * (n - 4)}
        for n, name in enumerate(f"trick_{letter}" for letter in "abcdefghij")
    }


def measure(folder):
    """Print what the command takes, in this process."""
    from runner.report.__main__ import main

    main([str(folder)])
    # not ru_maxrss, which a child takes over from its parent
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def rows(cases=tuple(CASES)):
    """Measure the command."""
    from tests.builders import write_ablation

    for case in cases:
        title, kind, seeds = CASES[case]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / case
            plan = write_ablation(folder, factors(case), kind, seeds, samples=359)
            command = [sys.executable, "-m", "benchmarks.report", "--measure", str(folder)]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, memory = time.perf_counter() - start, float(done.stdout.split()[-1])
        what = f"report of {len(plan.variants) * seeds:,} runs, {title}"
        yield Row(what, "", seconds, 10, "s")
        yield Row("its peak memory", "", memory, 1000, "MiB")


def main():
    arguments = sys.argv[1:]
    if arguments[:1] == ["--measure"]:
        measure(arguments[1])
        return
    for row in rows(arguments or tuple(CASES)):
        print(row.text(), flush=True)


if __name__ == "__main__":
    main()
