"""What a run of a sweep writes: its files and about how large they are, before any is written."""

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from runner.store.runs import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    CORRECT,
    MACHINE,
    METRICS,
    MISTAKES,
    MODEL,
    PREDICTIONS,
    RESULT,
    STATUS,
)
from runner.store.values import dump_values
from runner.sweep.cost import Trial
from runner.tiles import MOST_CLASSES, SIDE

LOCK, EVENTS = ".lock", "events.out.tfevents"
BLOCK = 4096
"""Bytes that file systems give out at a time; an inode is not counted."""

AROUND = 280  # bytes that torch writes around a tensor: its name, twice, and gaps
LINE, SHOWN = 40, 72  # bytes of a number in metrics.jsonl, and in TensorBoard
SMALL = {STATUS: 300, MACHINE: 800}
TILES, MOST_TILES = 24 * 3 * 1.5, 500_000  # of a pixel of mistakes.png, and in all

Files = dict[str, int]
"""For each file its bytes."""


def run_files(trial: Trial) -> Files:
    """List what a finished run leaves, by one that has made an update.

    The numbers of weights, of the optimizer's state and of predictions are counted; the rest is
    small, and estimated.
    """
    bench, settings = trial.bench, trial.settings
    training, test = bench.training, bench.data.test
    samples, classes = len(test.labels), len(bench.data.classes)
    evaluations = -(-settings.epochs // settings.evaluate_every)
    numbers = 5 + len(training.recent.take())
    _, height, width = test.shape
    area = min(height, SIDE) * min(width, SIDE)
    pictures = round(min(TILES * area, MOST_TILES)) + 5000
    matrix = 10_000 + classes**2 // 2 if classes <= MOST_CLASSES else 0
    model = _of_torch(training.model.state_dict())
    files = {
        LOCK: 0,
        CONFIG: len(dump_values(settings.to_dict()).encode()) + 100,
        **SMALL,
        METRICS: round(evaluations * (50 + LINE * numbers)),
        RESULT: 700 + min(classes, 1000) * 12,
        CORRECT: samples + 128,
        PREDICTIONS: samples * (4 * classes + 8) + 500,
        MISTAKES: pictures,
        EVENTS: pictures + matrix + round(evaluations * SHOWN * numbers),
        MODEL: model,
    }
    if settings.keep == "last":
        files[CHECKPOINTS[0]] = _of_torch(training.state_dict())
    elif settings.keep == "best":
        files[BEST] = model
    return files


def _of_torch(state: Mapping[str, object]) -> int:
    """Count the bytes of a file of torch, each memory once."""
    found = {tensor.data_ptr() or id(tensor): tensor.nbytes for tensor in _tensors(state)}
    return 2000 + sum(found.values()) + AROUND * len(found)


def _tensors(node: object) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for part in node.values() if isinstance(node, Mapping) else node:
            yield from _tensors(part)


def on_disk(sizes: Iterable[int]) -> int:
    """Add up what files take, in whole blocks."""
    return sum(-(-size // BLOCK) * BLOCK for size in sizes)
