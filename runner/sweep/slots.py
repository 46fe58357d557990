"""The slots of this machine: how its cores and CUDA cards are shared by runs side by side."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from runner.cores import available_cores, usable_cores
from runner.sweep.numbers import require_whole


@dataclass(frozen=True)
class Slot:
    """What one run at a time may use."""

    cores: tuple[int, ...]
    card: str | None = None
    """Its CUDA device, as CUDA_VISIBLE_DEVICES names it; None on a CPU."""


def slots(
    workers: int | str, per_card: int, runs: int, cards: Sequence[str], given: int | None = None
) -> list[Slot]:
    """Divide the machine among the runs.

    Args:
        workers: Runs at once, or `auto`: as many as there are cores, or on CUDA cards times
            `per_card`; never more than there are runs.
        per_card: Runs at once on a card.
        runs: How many there are to do.
        cards: The CUDA devices to use; none for the CPU.
        given: The cores that a scheduler gave to this process; None for all that it may use. Where
            it may use more, the scheduler does not confine, and which are its own is not known:
            then every slot may use any.

    Raises:
        UserError: If a number is not one.
    """
    refuse_counts(workers, per_card)
    cores = available_cores()
    usable = min(given or usable_cores(), len(cores))
    count = (len(cards) * per_card or usable) if workers == "auto" else int(workers)
    count = max(1, min(count, runs))
    if usable < len(cores) and given:
        return [Slot(tuple(cores), cards[i % len(cards)] if cards else None) for i in range(count)]
    share = max(1, len(cores) // count)
    starts = range(0, count * share, share)
    parts = (tuple(cores[n % len(cores)] for n in range(at, at + share)) for at in starts)
    return [Slot(p, cards[i % len(cards)] if cards else None) for i, p in enumerate(parts)]


def refuse_counts(workers: int | str, per_card: int) -> None:
    """Refuse what is no number of runs.

    Raises:
        UserError: If one is not.
    """
    require_whole("workers", workers, 1, others=["auto"])
    require_whole("per_card", per_card, 1)


def visible_cards(device: str) -> list[str]:
    """Name the CUDA devices to spread the runs over: all, for `auto` and `cuda`."""
    if device not in ("auto", "cuda"):
        return []
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    chosen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (chosen or [str(number) for number in range(count)])[:count]
