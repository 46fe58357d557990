"""The micro-batches of an update, and the random numbers of the tricks for each of them."""

from collections.abc import Iterator

import torch

from tricks import Batch, Time, derive_seed


def micro_batches(
    batch: Batch, time: Time, size: int | None = None, classes: int | None = None
) -> Iterator[tuple[Batch, torch.Generator, float]]:
    """Cut a batch for an update.

    Args:
        batch: The samples of the update.
        time: Before the update.
        size: Samples of a part; None for all of them.
        classes: K, for the tricks that need it.

    Yields:
        Each part, the generator for the tricks' `batch`, and the part's share of the samples.
    """
    total = len(batch.targets)
    parts = (each.split(size or total) for each in (batch.inputs, batch.targets))
    for index, (inputs, targets) in enumerate(zip(*parts, strict=True)):
        seed = derive_seed(time.seed, "tricks", time.update, index)
        generator = torch.Generator(inputs.device).manual_seed(seed)
        yield Batch(inputs, targets, classes), generator, len(targets) / total
