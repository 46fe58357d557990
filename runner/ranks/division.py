"""How the samples of an update are cut into parts, and the parts dealt to ranks."""

from dataclasses import dataclass

from runner.errors import UserError
from runner.ranks.meeting import ALONE, Ranks


@dataclass(frozen=True)
class Parts:
    """The parts of an update: what is passed at once, and by which rank.

    Attributes:
        size: Samples of a part; None for all of the update.
        ranks: Those that share the parts: of n ranks each takes every n-th part.
        evenly: Whether each rank gets as many parts, of sizes that differ by one at most.
        together: Whether the ranks pass theirs at once, with batch norms by the statistics of all.

    >>> Parts(3).cut(8), Parts(3, Ranks(1, 2)).own(8), Parts(3, Ranks(1, 2)).places(8)
    ([3, 3, 2], [(1, 3)], [slice(3, 6, None)])
    >>> Parts(3, Ranks(0, 2), evenly=True).cut(10)
    [3, 3, 2, 2]
    """

    size: int | None = None
    ranks: Ranks = ALONE
    evenly: bool = False
    together: bool = False

    def cut(self, samples: int) -> list[int]:
        """Give back the sizes of the parts of an update of so many samples."""
        size, ranks = self.size or samples, self.ranks.count
        if not self.evenly:
            whole, rest = divmod(samples, size)
            return [size] * whole + [rest] * (rest > 0)
        # larger than asked where one of each rank would be empty otherwise
        rounds = max(1, min(-(-samples // (size * ranks)), samples // ranks))
        count = min(samples, rounds * ranks)
        return [(samples + count - 1 - part) // count for part in range(count)]

    def own(self, samples: int) -> list[tuple[int, int]]:
        """Give back the number and the size of each part of this rank."""
        return [*self.ranks.deal([*enumerate(self.cut(samples))])]

    def places(self, samples: int) -> list[slice] | None:
        """Give back where in the update the samples of this rank are; None if it has all."""
        if self.ranks.count == 1:
            return None
        sizes = self.cut(samples)
        starts = [sum(sizes[:part]) for part in range(len(sizes))]
        dealt = self.ranks.deal([*zip(starts, sizes, strict=True)])
        return [slice(start, start + size) for start, size in dealt]


WHOLE = Parts()
"""One process that passes an update as a whole."""


def divide(
    batch_size: int, last: int, micro_batch_size: int | None, ranks: Ranks, together: bool
) -> Parts:
    """Divide an update among ranks.

    Where the parts are those of one process with micro-batches, so are the bits, of two ranks.

    Args:
        batch_size: Samples of an update.
        last: Samples of the last update of an epoch, if it is smaller and not left out; else 0.
        micro_batch_size: Samples that are to be passed at once; None for as many as a rank has.
        ranks: Those that share the update.
        together: Whether all ranks have to pass samples at once, for their batch norms.

    Raises:
        UserError: If there are fewer samples than ranks, or fewer parts.
    """
    count = ranks.count
    if count == 1:
        return Parts(micro_batch_size)
    if count > batch_size:
        raise UserError(
            f"batch_size={batch_size} is an update's, and is divided among {count} ranks. "
            f"Set batch_size={count} or more, or start fewer ranks."
        )
    if micro_batch_size and not together and (pieces := -(-batch_size // micro_batch_size)) < count:
        raise UserError(
            f"micro_batch_size={micro_batch_size} cuts an update of batch_size={batch_size} into "
            f"{pieces} part{'s' * (pieces > 1)}, too few for {count} ranks. Set "
            f"micro_batch_size={batch_size // count} or less, or start fewer ranks."
        )
    if together and 0 < last < count:
        raise UserError(
            f"sync_batch_norm=true needs a sample for each of {count} ranks, and the last update "
            f"of an epoch has {last}. Set drop_last=true."
        )
    uneven = micro_batch_size is None and batch_size % count > 0
    size = micro_batch_size or -(-batch_size // count)
    return Parts(size, ranks, evenly=together or uneven, together=together)
