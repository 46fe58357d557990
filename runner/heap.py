"""The heap of the C library: an update allocates what the one before it freed.

By default glibc gives a large block back to the system as soon as it is free, and the system clears
each of its pages before the next update has them: a tenth of an update of ResNet-20. Elsewhere, and
where `MALLOC_...` or `GLIBC_TUNABLES` is set, nothing is changed.
"""

import ctypes
import os
from collections.abc import Callable

MXFAST, TRIM_THRESHOLD, MMAP_THRESHOLD = 1, -1, -3
"""The numbers of these options in `mallopt(3)`."""


def keep_freed() -> None:
    """Keep blocks of up to 1 GiB when they are freed, and up to 2 GiB of them.

    On glibc that refuses it, blocks of up to 32 MiB.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    set_option = _function("mallopt")
    if set_option is None:
        return
    # the second alone would have every large block mapped anew
    if set_option(MMAP_THRESHOLD, 2**30) or set_option(MMAP_THRESHOLD, 2**25):
        set_option(TRIM_THRESHOLD, 2**31 - 1)
    # the small blocks of fast bins would be merged anew whenever a large one is freed
    set_option(MXFAST, 0)


def release() -> None:
    """Give back to the system what is free."""
    if trim := _function("malloc_trim"):
        trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """Find a function of glibc; macOS and musl have none of these."""
    try:
        return getattr(ctypes.CDLL(None), name)  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):
        return None
