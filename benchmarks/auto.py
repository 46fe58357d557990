"""Whether `threads=auto` and `memory_format=auto` choose what is fastest, on a CPU.

    python -m benchmarks.auto            # about three minutes

Each line is an update of a network: the median milliseconds in contiguous and in channels_last, in
turns, on one thread and on two; the ratio of the two formats; and what the rule of runner/auto.py
says where two cores are idle. A star marks a choice that takes more than 1.05 of the time of the
best of the four. Two threads are compared only on a machine that has nothing else to do.

Measured on two cores of an Intel Xeon (AVX512), torch 2.14.1: docs/speed.md.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from runner.auto import most_threads, suits_channels_last, work_in
from runner.models import cifar_resnet, resnet18_cifar, torchvision_model

Case = tuple[str, int, int, int]
"""A network, the channels and the side of its images, and the images of a batch."""

CASES: list[Case] = [
    *((f"resnet8 of width {w}", 1, 8, 64) for w in (5, 8, 16, 24, 32, 48, 64)),
    *((f"resnet8 of width {w}", 3, 32, 64) for w in (8, 16, 24, 32)),
    ("resnet8 of width 8", 1, 8, 512),
    ("resnet20 of width 16", 3, 32, 128),
    ("resnet18_cifar", 3, 32, 32),
    *(("resnet18", 3, side, batch) for side, batch in ((32, 32), (64, 32), (128, 16), (224, 8))),
    *(("resnet50", 3, side, batch) for side, batch in ((64, 16), (224, 4))),
    *((name, 3, 64, 16) for name in ("vgg11", "mobilenet_v2", "squeezenet1_1", "regnet_y_400mf")),
]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SECONDS = 1.0  # that the formats of a case take turns for, and the least rounds of it
ROUNDS = 4


def network(name: str, channels: int) -> nn.Module:
    """Build the network of a case, for ten classes."""
    torch.manual_seed(0)
    if " of width " in name:
        depth, width = name.removeprefix("resnet").split(" of width ")
        return cifar_resnet(depth=int(depth), width=int(width), channels=channels, classes=10)
    if name == "resnet18_cifar":
        return resnet18_cifar(channels=channels, classes=10)
    return torchvision_model(name=name, channels=channels, classes=10)


def updates(case: Case, memory_format: torch.memory_format) -> Callable[[], None]:
    """Make what does an update of a case."""
    name, channels, side, batch = case
    model = network(name, channels).train().to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    inputs = torch.randn(batch, channels, side, side).contiguous(memory_format=memory_format)
    targets = torch.randint(10, (batch,))

    def update() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return update


def measure(case: Case, threads: int, seconds: float) -> dict[str, float]:
    """Give the median milliseconds of an update in each format."""
    torch.set_num_threads(threads)
    ways = {name: updates(case, form) for name, form in FORMATS.items()}
    times = dict[str, list[float]]({name: [] for name in ways})
    begun = time.perf_counter()
    while len(times["contiguous"]) < ROUNDS or time.perf_counter() - begun < seconds:
        for name, update in ways.items():
            start = time.perf_counter()
            update()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: median(each[1:]) for name, each in times.items()}


def lines(cases: list[Case], seconds: float = SECONDS) -> Iterator[str]:
    """Measure each case, and write what it took and what the rule says."""
    for case in cases:
        name, channels, side, batch = case
        work = work_in(network(name, channels), (channels, side, side), batch)
        threads = min(2, most_threads(work))
        form = "channels_last" if work and suits_channels_last(work, threads) else "contiguous"
        title = f"{name}, {batch} images of {side}x{side}"
        if work is not None and work.is_odd:
            yield f"{title:44} has channels that are no multiple of 8: {form}"
            continue
        found = {count: measure(case, count, seconds) for count in (1, 2)}
        columns = (
            f"{t['contiguous']:7.1f} {t['channels_last']:7.1f} "
            f"({t['channels_last'] / t['contiguous']:.2f})"
            for t in found.values()
        )
        best = min(value for each in found.values() for value in each.values())
        star = " *" if found[threads][form] > 1.05 * best else ""
        yield f"{title:44} {'  '.join(columns)}  {threads} {form}{star}"


def main() -> None:
    """Print every case."""
    for line in lines(CASES):
        print(line, flush=True)


if __name__ == "__main__":
    main()
