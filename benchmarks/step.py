"""The overhead of the runner: an epoch with logging, against a minimal loop on the same tensors.

    python -m benchmarks.step            # both cases, times and memory; about four minutes
    python -m benchmarks.step digits     # one of them

The minimal loop is zero_grad, forward, cross-entropy, backward, step. Ours is the runner's own
epoch (batches made from uint8 images, the update with its finite check, norms and averages) with
its lines in metrics.jsonl and TensorBoard. The checkpoint at its end is timed separately;
evaluation is left out, since the minimal loop has none. The two take turns, so that both meet the
same noise; the ratio is that of the medians.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from runner.build import Bench, build
from runner.cli.task import register
from runner.run import checkpoint
from runner.run.log import RunLog

CASES = {
    "digits": (
        "ResNet-8, width 8, digits, batch 64",
        ["data=digits", "model=resnet8"],
        {"rounds": 40, "images": None},
    ),
    "cifar": (
        "ResNet-20, CIFAR shapes, batch 128",
        [
            "data=npz",
            "model=resnet20",
            "batch_size=128",
            "data.augment.crop=4",
            "data.augment.flip=true",
        ],
        {"rounds": 6, "images": 1280},
    ),
}


def make(overrides, images, folder) -> Bench:
    """Build the run of a case; the CIFAR-shaped images are random."""
    from tests.conftest import settings

    if images:
        import numpy as np

        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(images) % 10
        np.savez(
            folder / "data.npz",
            x_train=pixels,
            y_train=labels,
            x_test=pixels[:100],
            y_test=labels[:100],
        )
        overrides = [*overrides, f"data.file={folder / 'data.npz'}", "data.validation=0"]
    return build(settings(*overrides))


def ours(bench, log, epoch):
    for batch in bench.batches.epoch(epoch):
        bench.training.step(batch)
    log.write(epoch, bench.training.updates, bench.training.recent.take())


def minimal(model, optimizer, tensors):
    for inputs, targets, *_ in tensors:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def measure(case, only=None):
    _, overrides, options = CASES[case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench, plain = (make(overrides, options["images"], folder) for _ in range(2))
        model, optimizer = plain.training.model, plain.training.optimizer
        tensors = list(plain.batches.epoch(0)) if only != "ours" else []
        times = {"ours": [], "minimal": [], "checkpoint": []}
        with RunLog(folder) as log:
            for round_ in range(options["rounds"] + 1):
                for kind in times if only is None else (only,):
                    start = time.perf_counter()
                    if kind == "ours":
                        ours(bench, log, round_)
                    elif kind == "checkpoint":
                        checkpoint.save(folder, {"training": bench.training.state_dict()})
                    else:
                        minimal(model, optimizer, tensors)
                    times[kind].append(time.perf_counter() - start)
        return {
            kind: statistics.median(values[1:]) for kind, values in times.items() if values
        }, len(bench.batches)


def peak_memory(case, only):
    """Return the peak resident memory in MiB of a process that runs only one of the two."""
    command = [sys.executable, "-m", "benchmarks.step", "--memory", case, only]
    return float(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    )


def main():
    register()
    arguments = sys.argv[1:]
    if arguments[:1] == ["--memory"]:
        measure(arguments[1], arguments[2])
        # not ru_maxrss, which a child process inherits from its parent
        status = Path("/proc/self/status").read_text()
        print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        return
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread")
    for case in arguments or CASES:
        times, updates = measure(case)
        memory = {kind: peak_memory(case, kind) for kind in ("ours", "minimal")}
        each = {kind: 1000 * seconds / updates for kind, seconds in times.items()}
        print(
            f"{CASES[case][0]}: {each['ours']:.2f} ms per update, "
            f"minimal {each['minimal']:.2f} ms, ratio {each['ours'] / each['minimal']:.3f}; "
            f"a checkpoint takes {1000 * times['checkpoint']:.0f} ms; "
            f"peak memory {memory['ours']:.0f} MiB, minimal {memory['minimal']:.0f} MiB, "
            f"ratio {memory['ours'] / memory['minimal']:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
