"""The cost of a step: an epoch with all logging on, beside the barest loop on the same tensors.

    python -m benchmarks.step            # both cases, times and memory; about three minutes
    python -m benchmarks.step digits     # one of them

The barest loop is zero_grad, forward, cross-entropy, backward, step, with model, optimizer, memory
format and memory allocator as torch gives them, in a process of its own. Ours is the runner's own
epoch (batches made from uint8 images, the update with its finite check, norms and averages) with
its lines in metrics.jsonl and TensorBoard; of CIFAR's shapes with crop, flip, and the memory format
that `auto` chooses. A checkpoint is timed by itself; evaluation is left out, since the barest loop
has none. The two processes take turns, so that they meet the same noise; the ratio is that of the
medians.
"""

import copy
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.goals import Row
from runner.auto import decide
from runner.build import Bench, build, build_data
from runner.cli.task import register
from runner.config import Settings
from runner.heap import keep_freed
from runner.run import checkpoint
from runner.run.log import RunLog
from runner.run.memory import peak


class Case(NamedTuple):
    """A network and its data."""

    title: str
    goal: float
    rounds: int
    overrides: tuple[str, ...]
    images: int = 0
    """How many random ones; 0 for the data of the config."""
    side: int = 32
    """Of these, in pixels."""


AUGMENTED = ("data.augment.crop=4", "data.augment.flip=true")
CASES = {
    "digits": Case(
        "ResNet-8 of width 8, digits, batch 64", 1.03, 40, ("data=digits", "model=resnet8")
    ),
    "cifar": Case(
        "ResNet-20, CIFAR's shapes, batch 128",
        0.76,
        6,
        (
            "data=npz",
            "data.validation=0",
            "model=resnet20",
            "batch_size=128",
            "memory_format=auto",
            *AUGMENTED,
        ),
        images=1280,
    ),
}


def configure(case: Case, folder: Path) -> Settings:
    """Compose the config of a case; write its images."""
    from tests.conftest import settings

    overrides = [*case.overrides]
    if case.images:
        generator = np.random.default_rng(0)
        shape = case.images, case.side, case.side, 3
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        labels = np.arange(case.images) % 10
        images = {"x_train": pixels, "y_train": labels}
        np.savez(folder / "data.npz", **images, x_test=pixels[:100], y_test=labels[:100])
        overrides.append(f"data.file={folder / 'data.npz'}")
    return settings(*overrides)


def epoch_of_ours(bench: Bench, log: RunLog, epoch: int) -> None:
    """Train for an epoch, and log it."""
    bench.training.epoch(bench.batches.epoch(epoch))
    log.write(epoch, bench.training.updates, bench.training.recent.take())


class Barest:
    """The barest loop on the tensors of an epoch."""

    def __init__(self, given: Settings, bench: Bench) -> None:
        model = copy.deepcopy(bench.training.model)
        self.model = model.to(memory_format=torch.contiguous_format)
        keys = "lr", "momentum", "nesterov", "weight_decay"
        options = {key: given.optimizer[key] for key in keys}
        self.optimizer = torch.optim.SGD(model.parameters(), **options)
        batches = bench.batches.epoch(0)
        self.tensors = [(b.inputs.contiguous(), b.targets) for b in batches]
        torch.use_deterministic_algorithms(False)  # which a run has on a card

    def epoch(self) -> None:
        """Train for an epoch."""
        for inputs, targets in self.tensors:
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(inputs), targets).backward()
            self.optimizer.step()


def serve(kind: str, case: Case, orders: Connection) -> None:
    """Be a process of one of the two: time what is ordered, in seconds; None ends it.

    It gives back the number of updates of an epoch first, and its peak memory last.
    """
    register()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = configure(case, folder)
        data = build_data(given)
        if kind == "ours":
            keep_freed()
        bench = build(decide(given, data), data)
        barest = Barest(given, bench) if kind == "barest" else None
        device = bench.training.device
        orders.send(len(bench.batches))
        with RunLog(folder) as log:
            while order := orders.recv():
                start = time.perf_counter()
                if barest:
                    barest.epoch()
                elif order == "checkpoint":
                    checkpoint.save(folder, {"training": bench.training.state_dict()})
                else:
                    epoch_of_ours(bench, log, bench.training.updates // len(bench.batches))
                if device.type == "cuda":
                    torch.cuda.synchronize()
                orders.send(time.perf_counter() - start)
        orders.send(peak(device))


class Measured(NamedTuple):
    """What a case takes."""

    seconds: dict[str, float]
    """Of an update of each of ours and of the barest, and of a checkpoint; medians."""
    memory: dict[str, int]
    """The peak memory of each process, in bytes."""


def measure(case: Case, settings: Mapping[str, Sequence[str]] | None = None) -> Measured:
    """Have processes take turns: the barest loop, and ours by one setting or several.

    Args:
        case: The network and its data.
        settings: What is overridden for each of ours, by name; one, called `ours`, by default.
    """
    spawn = multiprocessing.get_context("spawn")
    settings = settings or {"ours": ()}
    cases = {"barest": case} | {
        name: case._replace(overrides=(*case.overrides, *more)) for name, more in settings.items()
    }
    orders: dict[str, Connection] = {}
    for name, each in cases.items():
        orders[name], end = spawn.Pipe()
        kind = "barest" if name == "barest" else "ours"
        spawn.Process(target=serve, args=(kind, each, end), daemon=True).start()
        end.close()  # it is the process's own: if that fails, `recv` does too
    updates = {name: end.recv() for name, end in orders.items()}
    for end in orders.values():  # some compile
        end.send("epoch")
    for end in orders.values():
        end.recv()
    turns = [*((name, "epoch") for name in orders), (next(iter(settings)), "checkpoint")]
    times: dict[str, list[float]] = {name: [] for name in (*orders, "checkpoint")}
    for _ in range(case.rounds):
        for name, order in turns:
            orders[name].send(order)
            seconds = orders[name].recv()
            times[name if order == "epoch" else order].append(seconds)
    for end in orders.values():
        end.send(None)
    return Measured(
        {name: statistics.median(each) / updates.get(name, 1) for name, each in times.items()},
        {name: end.recv() for name, end in orders.items()},
    )


def rows() -> Iterator[Row]:
    """Measure an update of both cases."""
    for case in CASES.values():
        times = measure(case).seconds
        ours, barest = 1000 * times["ours"], 1000 * times["barest"]
        details = f"{ours:.2f} ms and {barest:.2f} ms"
        what = f"an update with all logging, {case.title}"
        yield Row(what, "the barest loop", ours / barest, case.goal, details=details)


def main() -> None:
    """Print the times, the memory and their ratios."""
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread")
    for name in sys.argv[1:] or CASES:
        case = CASES[name]
        times, memory = measure(case)
        ours, barest = 1000 * times["ours"], 1000 * times["barest"]
        print(
            f"{case.title}: {ours:.2f} ms an update, the barest {barest:.2f} ms, "
            f"ratio {ours / barest:.3f} (goal {case.goal}); "
            f"a checkpoint takes {1000 * times['checkpoint']:.0f} ms; "
            f"peak memory {memory['ours'] / 2**20:.0f} MiB, the barest "
            f"{memory['barest'] / 2**20:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
