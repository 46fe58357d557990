"""The micro-batches of an update, and the random numbers of the tricks for each of them."""

from collections.abc import Iterator

import torch

from tricks import Batch, Time, derive_seed

NOT_DRAWN_FROM = torch.Generator()


def micro_batches(
    batch: Batch,
    time: Time,
    size: int | None = None,
    classes: int | None = None,
    draws: bool = True,
) -> Iterator[tuple[Batch, torch.Generator, float]]:
    """Cut a batch for an update.

    Args:
        batch: The samples of the update.
        time: Before the update.
        size: Samples of a part; None for all of them.
        classes: K, for the tricks that need it.
        draws: Whether a trick draws; otherwise the time to seed a generator is saved.

    Yields:
        Each part, the generator for the tricks' `batch`, and the part's share of the samples.
    """
    inputs, targets, total = batch.inputs, batch.targets, len(batch.targets)
    parts = [(inputs, targets)]
    if size is not None and size < total:
        parts = [*zip(inputs.split(size), targets.split(size), strict=True)]
    for index, (inputs, targets) in enumerate(parts):
        generator = NOT_DRAWN_FROM
        if draws:
            seed = derive_seed(time.seed, "tricks", time.update, index)
            generator = torch.Generator(inputs.device).manual_seed(seed)
        yield Batch(inputs, targets, classes), generator, len(targets) / total
