"""What a user should know of a data set before trusting an accuracy on it, found in its images."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from runner.data.source import Split
from runner.texts import listed, short

UNEQUAL = 10  # times as many training images of the largest class as of the smallest
KEY = 512  # pixels in the middle of an image; only where these agree is the rest compared
MOST = 2**32  # bytes; larger sets, mapped from a disk, would take minutes to be read once more


def find_remarks(
    train: Split, others: Mapping[str, Split], classes: Sequence[str], files: Sequence[str]
) -> Iterator[str]:
    """Find copies of training images, images that are all equal, and classes of unequal sizes.

    Args:
        train: The training split.
        others: The others, by name; `test` is one.
        classes: The names of the classes.
        files: The files that the rows of the splits count in; () if the images are of none.
    """
    if train.images.nbytes <= MOST:
        keys = _hash(train, KEY)
        if len(keys) > 1 and len(set(keys)) == 1 and len(set(_hash(train))) == 1:
            yield f"all {len(keys):,} training images are equal, so nothing can be learnt from them"
        for name, split in others.items():
            yield from _copies(train, keys, name, split, files)
    yield from _unequal(train, others["test"], classes)


def _copies(
    train: Split, keys: list[int], name: str, split: Split, files: Sequence[str]
) -> Iterator[str]:
    """Write how many images of a split are training images too, byte for byte."""
    known, others = set(keys), _hash(split, KEY)
    like = [n for n, key in enumerate(others) if key in known]
    if not like:
        return
    wanted = {others[n] for n in like}
    alike = [n for n, key in enumerate(keys) if key in wanted]
    twins = dict(zip(_hash_whole(train, alike), alike, strict=True))
    whole = zip(like, _hash_whole(split, like), strict=True)
    pairs = [(n, twins[image]) for n, image in whole if image in twins]
    if pairs:
        yield (
            f"{len(pairs):,} of the {len(others):,} {name} images are copies of training images, "
            f"which raises the {name} accuracy{_examples(train, split, pairs, files)}"
        )


def _hash(split: Split, most: int | None = None) -> list[int]:
    """Hash the images of a split, or so many pixels of the middle of each."""
    pixels = split.images.flatten(1)
    start = 0 if most is None else max(0, pixels.shape[1] - most) // 2
    middle = split._replace(images=pixels[:, start : None if most is None else start + most])
    return [key for block in middle.chunks() for key in _hash_rows(block)]


def _hash_whole(split: Split, places: list[int]) -> list[int]:
    """Hash the images at some places of a split."""
    blocks = torch.tensor(places).split(256)
    return [key for block in blocks for key in _hash_rows(split.images_of(block).flatten(1))]


def _hash_rows(pixels: Tensor) -> Iterator[int]:
    """Hash each row; Python's hash of bytes is keyed, so nobody can give two images the same."""
    rows = np.ascontiguousarray(pixels.numpy()).view(np.uint8)
    return map(hash, rows.view(np.dtype((np.void, rows.shape[1])))[:, 0].tolist())


def _examples(
    train: Split, split: Split, pairs: Sequence[tuple[int, int]], files: Sequence[str]
) -> str:
    """Name two copies and what they are copies of, where the files are known."""
    if not files or train.rows is None or split.rows is None:
        return ""
    named = [
        f"{short(files[int(split.rows[copy])])} is {short(files[int(train.rows[twin])])}"
        for copy, twin in pairs[:2]
    ]
    return f": {listed(named)}" if named else ""


def _unequal(train: Split, test: Split, classes: Sequence[str]) -> Iterator[str]:
    """Write that guessing the largest class is right often, and what to do."""
    counts = train.labels.bincount(minlength=len(classes))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] < UNEQUAL * counts[least]:
        return
    share = 100 * float((test.labels == most).float().mean())
    large, small = short(classes[most]), short(classes[least])
    yield (
        f"the classes are unequal: {counts[most]:,} training images of {large}, {counts[least]:,} "
        f"of {small}. Guessing {large} every time gets {share:.1f} % of the test images right. "
        "metrics=[balanced_accuracy] counts the classes alike; "
        "loss.class_weights=balanced or data.sampling=balanced trains on them alike"
    )
