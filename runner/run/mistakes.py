"""The worst mistakes of a run as a picture, mistakes.png, and what TensorBoard shows of them."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from runner import tiles
from runner.build import Bench
from runner.store.files import write_atomically
from runner.store.runs import CONFUSION_TAG, MISTAKES, MISTAKES_TAG

MOST = 24
"""How many are shown."""

CAPTION = "Below each image: the true class, then the predicted one and its probability"


def write(folder: Path, bench: Bench, logits: torch.Tensor) -> dict[str, bytes]:
    """Write mistakes.png: the wrongly answered test images of highest loss, the worst first.

    Without a wrong answer there is no such file.

    Args:
        folder: The folder of the run.
        bench: The run; of it the test split and the names of the classes are read.
        logits: [N, K] of the test split, in its order.

    Returns:
        PNG files for TensorBoard by their tags: the mistakes, if there are any, and how often
        each class is taken for each other one.
    """
    labels = bench.data.test.labels.cpu().numpy()
    answers, names = logits.detach().cpu().numpy(), bench.data.classes
    pictures = {}
    chosen = worst(answers, labels)
    if len(chosen):
        content = tiles.encode(_draw(bench, chosen, answers[chosen], labels[chosen]))
        write_atomically(folder / MISTAKES, lambda file: file.write(content), lasts=False)
        pictures[MISTAKES_TAG] = content
    else:
        (folder / MISTAKES).unlink(missing_ok=True)
    if len(names) <= tiles.MOST_CLASSES:
        matrix = tiles.matrix(tiles.count(answers, labels), names)
        pictures[CONFUSION_TAG] = tiles.encode(matrix)
    return pictures


def worst(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the wrong answers of highest cross-entropy, at most 24, the highest first.

    Args:
        logits: [N, K].
        labels: [N].

    Returns:
        Their numbers; equal losses are in the order of the split.
    """
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    given, true = torch.from_numpy(logits[wrong]), torch.from_numpy(labels[wrong])
    losses = F.cross_entropy(given, true, reduction="none")
    return wrong[np.argsort(-losses.numpy(), kind="stable")[:MOST]]


def _draw(
    bench: Bench, chosen: NDArray[np.int64], logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> Image.Image:
    """Draw the chosen images, below each its class, and the predicted one with its probability."""
    images = bench.data.test.images_of(torch.from_numpy(chosen)).numpy()
    names = tiles.drawable(bench.data.classes)
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    lines = [
        (names[label], f"{names[found.argmax()]} ({tiles.percent(found.max())} %)")
        for label, found in zip(labels, probabilities, strict=True)
    ]
    return tiles.tiling([*images], lines, CAPTION)
