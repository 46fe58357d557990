"""How ranks that were started together find each other in a store that may outlive them.

Torchrun keeps one store while it starts the ranks again, with all that earlier ones wrote in it.
Over several machines not even its count of restarts is the same for all. So each rank leaves a new
name, and the first one lists the names it finds, anew until each rank has seen its own.
"""

import time
import uuid
from datetime import timedelta
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore

PAUSE = 0.02  # seconds


def whole_store(store: Any) -> Any:  # noqa: ANN401
    """Give back a store without the prefixes that belong to one start of the ranks."""
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return store


def meet(store: Any, rank: int, count: int, timeout: timedelta) -> PrefixStore:  # noqa: ANN401
    """Give back a store of these ranks alone, when all of them are there.

    Args:
        store: Torch's, which all of them reach.
        rank: The number of this one.
        count: How many there are.
        timeout: How long to wait.

    Raises:
        RuntimeError: If some are not there in time.
    """
    store, own = whole_store(store), uuid.uuid4().hex
    deadline = time.monotonic() + timeout.total_seconds()
    store.set(_place(rank), own)
    listed: list[str] = []
    while True:
        if rank == 0 and (found := _found(store, count)) and found != listed:
            listed = found
            store.set("session", ",".join((uuid.uuid4().hex, *found)))
        if session := _seen(store, rank, own):
            store.set(f"{session}/{rank}", own)
            if rank == 0 and store.check([f"{session}/{other}" for other in range(count)]):
                store.set(f"{session}/all", own)
            if store.check([f"{session}/all"]):
                return PrefixStore(session, store)
        if time.monotonic() > deadline:
            missing = [other for other in range(count) if not store.check([_place(other)])]
            raise RuntimeError(f"not there after {timeout}: rank {', '.join(map(str, missing))}")
        time.sleep(PAUSE)


def _place(rank: int) -> str:
    return f"here/{rank}"


def _found(store: Any, count: int) -> list[str]:  # noqa: ANN401
    """The names that the ranks have left; none as long as one is missing."""
    places = [_place(rank) for rank in range(count)]
    return [store.get(place).decode() for place in places] if store.check(places) else []


def _seen(store: Any, rank: int, own: str) -> str | None:  # noqa: ANN401
    """The session whose list has this rank; None if there is none yet."""
    if not store.check(["session"]):
        return None
    session, *names = store.get("session").decode().split(",")
    return str(session) if names[rank : rank + 1] == [own] else None
