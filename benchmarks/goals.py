"""What a benchmark of speed gives: a figure beside its goal."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


class Row(NamedTuple):
    """A row of the table that `make bench` prints."""

    what: str
    against: str
    """What it is compared with; "" for a figure of its own."""
    figure: float
    goal: float
    unit: str = ""
    """"" for a ratio."""
    at_least: bool = False
    """Whether the figure should be at least the goal, instead of at most."""
    details: str = ""
    """The two figures of a ratio."""

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal

    def text(self) -> str:
        """Write it in a line."""
        against = f", against {self.against}" if self.against else ""
        unit = f" {self.unit}" if self.unit else ""
        word = "at least" if self.at_least else "at most"
        met = "met" if self.is_met else "MISSED"
        details = f" ({self.details})" if self.details else ""
        goal = f"{word} {self.goal:g}{unit}"
        return f"{self.what}{against}: {self.figure:.2f}{unit}, goal {goal}: {met}{details}"


def seconds(command: Sequence[str], folder: Path) -> float:
    """Time a command of Python, from its start to its end.

    Raises:
        CalledProcessError: If it fails.
    """
    start = time.perf_counter()
    options = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([sys.executable, *command], **options)  # type: ignore[call-overload]
    return time.perf_counter() - start


def write_images(file: Path) -> None:
    """Write made-up images of CIFAR's shape for `data=npz`: 1,280 to train on, 100 to test."""
    pixels = np.random.default_rng(0).integers(0, 256, (1280, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(1280) % 10
    np.savez(file, x_train=pixels, y_train=labels, x_test=pixels[:100], y_test=labels[:100])


def in_turns(rounds: int, **measures: Callable[[int], float]) -> dict[str, float]:
    """Give back the median of each measure; they take turns, so that all meet the same noise."""
    times = [{name: measure(n) for name, measure in measures.items()} for n in range(rounds)]
    return {name: statistics.median(each[name] for each in times) for name in measures}
