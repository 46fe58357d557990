"""Python's garbage collector, which need not look through what imports make: that stays."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def resting() -> Iterator[None]:
    """Have the collector rest while much is read, or made, that stays and holds no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def importing_torch() -> Iterator[None]:
    """Import torch, and what needs it, a fifth faster; once in a process, before the work.

    The collector rests meanwhile, and what there is by then is set aside from it for good, so that
    later collections, in training too, are as quick as if torch were not there.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
