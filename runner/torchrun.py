"""What torchrun tells a process in its environment: which rank of a run it is, of how many."""

import os

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def counted() -> int:
    """Count the ranks that this process is one of; 1 if it is by itself."""
    if not all(os.environ.get(name) for name in VARIABLES):
        return 1
    return max(1, _number("WORLD_SIZE", 1))


def own_rank() -> int:
    """Give back the number of this rank, from 0."""
    return _number("RANK", 0) if counted() > 1 else 0


def local_rank() -> int:
    """Give back the number of this rank among those of its machine, from 0."""
    return _number("LOCAL_RANK", 0) if counted() > 1 else 0


def counted_here() -> int:
    """Count the ranks of this machine."""
    count = counted()
    return _number("LOCAL_WORLD_SIZE", count) if count > 1 else 1


def _number(name: str, otherwise: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else otherwise
