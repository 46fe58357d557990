"""The micro-batches of an update, and the random numbers of the tricks for each of them."""

from collections.abc import Iterator

import torch

from runner.ranks import WHOLE, Parts
from tricks import Batch, Time, derive_seed

NOT_DRAWN_FROM = torch.Generator()


def micro_batches(
    batch: Batch,
    time: Time,
    parts: Parts = WHOLE,
    samples: int | None = None,
    classes: int | None = None,
    draws: bool = True,
) -> Iterator[tuple[Batch, torch.Generator, float, bool]]:
    """Cut a batch for an update.

    Args:
        batch: The samples of the update; over ranks those of this rank.
        time: Before the update.
        parts: How they are cut.
        samples: Of the whole update; None if the batch has all.
        classes: K, for the tricks that need it.
        draws: Whether a trick draws; otherwise the time to seed a generator is saved.

    Yields:
        Each part of this rank, the generator for the tricks' `batch`, the part's share of the
        update's samples, and whether it is the last of this rank.
    """
    total = samples or len(batch.targets)
    own = parts.own(total)
    pieces = [(batch.inputs, batch.targets)]
    if len(own) != 1:
        sizes = [size for _, size in own]
        cut = batch.inputs.split(sizes), batch.targets.split(sizes)
        pieces = [*zip(*cut, strict=True)] if own else []
    for (index, size), (inputs, targets) in zip(own, pieces, strict=True):
        generator = NOT_DRAWN_FROM
        if draws:
            seed = derive_seed(time.seed, "tricks", time.update, index)
            generator = torch.Generator(inputs.device).manual_seed(seed)
        yield Batch(inputs, targets, classes), generator, size / total, index == own[-1][0]
