"""The micro-batches of an update, and the random numbers of the tricks for each of them."""

from collections.abc import Iterator

import torch

from runner.ranks import ALONE, Ranks
from tricks import Batch, Time, derive_seed

NOT_DRAWN_FROM = torch.Generator()


def micro_batches(
    batch: Batch,
    time: Time,
    size: int | None = None,
    classes: int | None = None,
    draws: bool = True,
    ranks: Ranks = ALONE,
    evenly: bool = False,
) -> Iterator[tuple[Batch, torch.Generator, float, bool]]:
    """Cut a batch for an update.

    Args:
        batch: The samples of the update.
        time: Before the update.
        size: Samples of a part; None for all of them.
        classes: K, for the tricks that need it.
        draws: Whether a trick draws; otherwise the time to seed a generator is saved.
        ranks: Those that share the parts; n of them take every n-th each.
        evenly: Whether each rank gets as many parts, of sizes that differ by one at most.

    Yields:
        Each part of this rank, the generator for the tricks' `batch`, the part's share of the
        samples, and whether it is the last of this rank.
    """
    inputs, targets, total = batch.inputs, batch.targets, len(batch.targets)
    parts = [(inputs, targets)]
    if evenly or (size is not None and size < total):
        cut = even_sizes(total, size or total, ranks.count) if evenly else size or total
        parts = [*zip(inputs.split(cut), targets.split(cut), strict=True)]
    own = ranks.deal(range(len(parts)))
    for index in own:
        (inputs, targets), generator = parts[index], NOT_DRAWN_FROM
        if draws:
            seed = derive_seed(time.seed, "tricks", time.update, index)
            generator = torch.Generator(inputs.device).manual_seed(seed)
        is_last = index == own[-1]
        yield Batch(inputs, targets, classes), generator, len(targets) / total, is_last


def even_sizes(total: int, size: int, ranks: int) -> list[int]:
    """Cut samples into as many parts for each rank, of about equal sizes.

    A part is larger than asked where one of each rank would be empty otherwise.

    >>> even_sizes(10, size=3, ranks=2), even_sizes(5, size=1, ranks=2)
    ([3, 3, 2, 2], [2, 1, 1, 1])
    """
    rounds = max(1, min(-(-total // (size * ranks)), total // ranks))
    count = min(total, rounds * ranks)
    return [(total + count - 1 - part) // count for part in range(count)]
