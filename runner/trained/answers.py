"""What a trained model says of image files: one after the other, as the run says it of its own."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from runner.cores import available_cores
from runner.data.decode import silence
from runner.data.listing import SUFFIXES
from runner.device import compute_exactly, find_device
from runner.errors import UserError
from runner.texts import complain, reason, short
from runner.trained.model import TrainedModel


class Answer(NamedTuple):
    """What a model says of one image file."""

    path: str
    probabilities: Tensor
    """[K], float32, on the CPU."""


class Answers:
    """The answers of a model, one image at a time, and what there is to say of all.

    Args:
        model: The model.
        files: The paths of the files.
    """

    def __init__(self, model: TrainedModel, files: Sequence[str]) -> None:
        self.model, self.files = model, files
        self.read = self.resized = 0
        self.classes = Counter[int]()

    def all(self) -> Generator[Answer]:
        """Answer the files in their order; those that cannot be read are named on the way.

        Only some batches are in memory at a time.

        Raises:
            UserError: At the end, if none could be read.
        """
        size = self.model.batch_size
        self.bar = tqdm(total=len(self.files), disable=None, unit="image", leave=False)
        with self.bar, closing(self._pictures(size)) as pictures:
            while block := [*islice(pictures, size)]:
                images = torch.stack([pixels for _, pixels in block])
                probabilities = self.model.answer(images).softmax(1)
                for (path, _), row in zip(block, probabilities, strict=True):
                    self.read += 1
                    self.classes[int(row.argmax())] += 1
                    yield Answer(path, row)
        if not self.read:
            raise UserError(f"None of the {len(self.files):,} images could be read.")

    def _pictures(self, size: int) -> Generator[tuple[str, Tensor]]:
        """Read files by threads, `size` at a time."""
        # silent once for all threads: by themselves they would undo each other's silence
        with silence(), ThreadPoolExecutor(len(available_cores())) as pool:
            for start in range(0, len(self.files), size):
                block = self.files[start : start + size]
                for path, picture in zip(block, pool.map(self.model.look_at, block), strict=True):
                    self.bar.update()
                    if picture.pixels is None:
                        with self.bar.external_write_mode(sys.stderr):
                            complain(f"left out: {short(path)} ({picture.problem})")
                    else:
                        self.resized += picture.resized
                        yield path, picture.pixels

    def notes(self) -> Iterator[str]:
        """Say what the answers depend on."""
        total = len(self.files)
        if left := total - self.read:
            yield f"{left:,} of {total:,} images could not be read, and were left out"
        if self.resized:
            _, height, width = self.model.shape
            yield (
                f"{self.resized:,} of {self.read:,} images were resized to {width} x {height} "
                "pixels; the run's own images had that size, and were not resized"
            )


def find_images(given: Sequence[str]) -> list[str]:
    """List image files, and those in folders, at any depth.

    Hidden ones are left out. A file that is named itself is taken whatever its suffix.

    Raises:
        UserError: If something does not exist, or a folder has no images.
    """
    found = list[str]()
    for name in given:
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            inside = sorted(_inside(path), key=_order(path))
            if not inside:
                raise UserError(
                    f"{short(name)} has no images, at any depth. Expected files that end in "
                    f"{' '.join(SUFFIXES)}."
                )
            found += inside
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise UserError(f"{short(name)} does not exist. Give image files, or folders of them.")
    return found


def _inside(folder: str) -> Iterator[str]:
    """List the images in a folder, at any depth; no folder twice, since links may lead back."""
    seen = set[str]()

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{short(error.filename)} cannot be read: {reason(error)}. Make it readable."
        ) from error

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(place))
        paths = {name: os.path.realpath(os.path.join(place, name)) for name in folders}
        folders[:] = [n for n in folders if not n.startswith(".") and paths[n] not in seen]
        images = (n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith("."))
        yield from (os.path.join(place, name) for name in images)


def _order(folder: str) -> Callable[[str], tuple[str, ...]]:
    """Give ImageFolder's order: by the folder next below, then by folder and name."""

    def key(path: str) -> tuple[str, ...]:
        inner = os.path.relpath(path, folder)
        first, _, below = inner.rpartition(os.sep)[0].partition(os.sep)
        return first, below and os.path.join(first, below), os.path.basename(path)

    return key


def place(model: TrainedModel, device: str | None) -> Iterator[str]:
    """Put a model where its run computed, as far as possible; say what is not as it was."""
    here = "cuda" if torch.cuda.is_available() else "cpu"
    kind = model.device_type if model.device_type == "cpu" else here
    place = find_device(device or kind)
    threads = min(model.threads, len(available_cores()))
    compute_exactly(place, threads, model.tf32 if place.type == "cuda" else "convolutions")
    model.to(place)
    usual = (model.device_type, model.threads if place.type == "cpu" else threads)
    if (place.type, threads) != usual:
        yield (
            f"the run computed on {model.device_type} with {model.threads} threads, and this is "
            f"{place.type} with {threads}: the last digits may differ"
        )
