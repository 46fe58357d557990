"""What the runs of each variant answered on the test set, added up over the seeds.

Predictions are large: one run's are read at a time, and of many runs not all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner import tiles
from runner.store.files import Damaged, read_bytes
from runner.store.packed import look
from runner.store.runs import MISTAKES, PREDICTIONS, Run

MOST_VARIANTS = 12
MOST_SEEDS = 10  # of a variant
MOST_BYTES = 2**28  # of predictions, over all variants; each has at least one run read
LARGEST = 2**30  # bytes of one run's
MOST_PICTURES = 6  # variants of which the worst mistakes are shown
TOP = 5  # of more classes also the share whose true class is among the first five


class PerClass(NamedTuple):
    """How well one class is answered, over all seeds; None where nothing is known."""

    name: str
    support: int
    """Answers to images of this class."""
    recall: float | None
    precision: float | None
    f1: float | None


class Confusion(NamedTuple):
    """How often one class is taken for another."""

    true: int
    predicted: int
    times: int
    share: float
    """Of the answers to images of the true class."""


@dataclass
class Answers:
    """The answers of a variant's runs, added up."""

    names: Sequence[str]
    """Of the K classes; their numbers where no names are known."""
    counts: NDArray[np.int64]
    """[K, K]: a row for each true class, a column for each predicted one."""
    measured: list[dict[str, float]] = field(default_factory=list)
    """Of each run that was read, as `runner.metrics` names them."""
    saved: int = 1
    """The runs that have predictions, read or not."""
    picture: bytes | None = None
    """PNG: the worst mistakes of the first run that has some."""
    problems: list[str] = field(default_factory=list)

    @property
    def seeds(self) -> int:
        """How many runs were read."""
        return len(self.measured)

    @property
    def means(self) -> dict[str, float]:
        """The mean of each measure over the runs."""
        return {name: fmean(each[name] for each in self.measured) for name in self.measured[0]}

    @cached_property
    def classes(self) -> list[PerClass]:
        """Recall, precision and F1 of each class.

        A class that no image has lacks recall, one that is never predicted precision.
        """
        from sklearn.metrics import precision_recall_fscore_support  # takes a second

        true, predicted = np.nonzero(self.counts)
        precision, recall, f1, support = precision_recall_fscore_support(
            true,
            predicted,
            labels=np.arange(len(self.names)),
            sample_weight=self.counts[true, predicted],
            zero_division=np.nan,
        )
        columns = ([_known(v) for v in values.tolist()] for values in (recall, precision, f1))
        supports = [int(n) for n in support]
        return [PerClass(*each) for each in zip(self.names, supports, *columns, strict=True)]

    def confusions(self, most: int) -> list[Confusion]:
        """Give back the most frequent confusions, of equal counts those of larger shares."""
        true, predicted = np.nonzero(self.counts * ~np.eye(len(self.counts), dtype=bool))
        counts = self.counts[true, predicted]
        shares = counts / self.counts.sum(1)[true]
        order = np.lexsort((-shares, -counts))[:most]
        columns = (each[order].tolist() for each in (true, predicted, counts, shares))
        return [Confusion(*each) for each in zip(*columns, strict=True)]


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def read_all(groups: Mapping[str, Sequence[Run]]) -> dict[str, Answers]:
    """Read the answers of the first variants that have some.

    Args:
        groups: The runs of each variant, the most important variant first.
    """
    found: dict[str, Answers] = {}
    left, tried = MOST_BYTES, 0
    for variant, runs in groups.items():
        saved = [run for run in runs if run.state == "done" and not run.foreign and _size(run)]
        if not saved:
            continue
        tried += 1
        answers, size = _read(saved, left // (MOST_VARIANTS + 1 - tried))
        left = max(0, left - size)
        if answers is not None:
            found[variant] = answers
            if sum(each.picture is not None for each in found.values()) < MOST_PICTURES:
                answers.picture = _picture(saved, answers.problems)
        if tried == MOST_VARIANTS:
            break
    return found


def read_answers(run: Run) -> Answers | None:
    """Read what one run answered; None if it is not known."""
    return _read([run], MOST_BYTES)[0]


def _read(runs: Sequence[Run], most: int) -> tuple[Answers | None, int]:
    """Add up the answers of the first runs, and the bytes that were read; the first always is."""
    answers: Answers | None = None
    size = 0
    for run in runs[:MOST_SEEDS]:
        if size > most:
            break
        if (own := _size(run)) > LARGEST:
            continue
        size += own
        if (read := run.predictions()) is None or not _is_shown(read[0]):
            continue
        from runner import metrics  # imports torch, which takes seconds

        logits, labels = read
        counts, names = tiles.count(logits, labels), _names(run, logits.shape[1])
        if answers is None:
            answers = Answers(names, counts, saved=len(runs))
        elif answers.names == names:
            answers.counts += counts
        else:  # of other classes
            continue
        answers.measured.append(metrics.measure(_measures(logits.shape[1]), logits, labels))
    return answers, size


def _size(run: Run) -> int:
    """Give the bytes of the predictions of a run; 0 if there are none."""
    about = None if run.elsewhere else look(run.folder / PREDICTIONS)
    return about.size if about else 0


def _is_shown(logits: NDArray[np.float32]) -> bool:
    return 2 <= logits.shape[1] <= tiles.MOST_CLASSES and bool(np.isfinite(logits).all())


def _names(run: Run, classes: int) -> tuple[str, ...]:
    names = run.classes()
    return names if names and len(names) == classes else tuple(map(str, range(classes)))


def _measures(classes: int) -> list[str]:
    top = [f"top{TOP}_accuracy"] if classes > TOP else []
    return ["balanced_accuracy", "macro_f1", *top, "calibration_error"]


def _picture(runs: Sequence[Run], problems: list[str]) -> bytes | None:
    """Give back the picture of mistakes of the first run that has one; note what is wrong."""
    for run in runs:
        try:
            return read_picture(run)
        except FileNotFoundError:  # no answer was wrong
            continue
        except Damaged as error:
            problems.append(f"{run.variant}/{run.folder.name}: {MISTAKES} {error}, and is left out")
    return None


def read_picture(run: Run) -> bytes:
    """Give back the pixels of a run's picture of mistakes, as a PNG file written anew.

    Raises:
        FileNotFoundError: If it has none.
        Damaged: If it is not one that a run wrote.
    """
    if run.elsewhere:
        raise FileNotFoundError
    return tiles.encode(tiles.decode(read_bytes(run.folder / MISTAKES, tiles.MOST_BYTES)))


def limits(found: Mapping[str, Answers], variants: int) -> str:
    """Say what was not read; nothing if all was.

    Args:
        found: What was.
        variants: How many there are.
    """
    unread = []
    if len(found) == MOST_VARIANTS < variants:
        unread.append(f"{MOST_VARIANTS} of {variants:,} variants")
    fewer = [answers.seeds for answers in found.values() if answers.seeds < answers.saved]
    if fewer:
        unread.append(f"{max(fewer)} seeds of each at most")
    text = f"To save time this is of {', and of '.join(unread)}. " if unread else ""
    if sum(answers.picture is not None for answers in found.values()) == MOST_PICTURES < len(found):
        text += f"The worst mistakes are shown of {MOST_PICTURES} of them. "
    return text
