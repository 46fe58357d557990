"""How the samples of an update are divided among ranks."""

from runner.errors import UserError
from runner.ranks.meeting import Ranks


def divide(
    batch_size: int, last: int, micro_batch_size: int | None, ranks: Ranks, together: bool
) -> tuple[int | None, bool]:
    """Give back how many samples are passed at once, and whether each rank passes as many parts.

    Where the parts are those of one process with micro-batches, so are the bits, of two ranks.

    Args:
        batch_size: Samples of an update.
        last: Samples of the last update of an epoch, if it is smaller and not left out; else 0.
        micro_batch_size: Samples that are to be passed at once; None for as many as a rank has.
        ranks: Those that share the update.
        together: Whether all ranks have to pass samples at once, for their batch norms.

    Raises:
        UserError: If there are fewer samples than ranks.
    """
    count = ranks.count
    if count == 1:
        return micro_batch_size, False
    if count > batch_size:
        raise UserError(
            f"batch_size={batch_size} is an update's, and is divided among {count} ranks. "
            f"Set batch_size={count} or more, or start fewer ranks."
        )
    if together and 0 < last < count:
        raise UserError(
            f"sync_batch_norm=true needs a sample for each of {count} ranks, and the last update "
            f"of an epoch has {last}. Set drop_last=true."
        )
    uneven = micro_batch_size is None and batch_size % count > 0
    return micro_batch_size or -(-batch_size // count), together or uneven
