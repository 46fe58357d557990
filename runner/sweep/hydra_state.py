"""What Hydra knows in this process, which another one has to know before it does a run."""

import pickle
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Self

import cloudpickle  # the state holds functions within functions
from hydra.core.singleton import Singleton


class HydraState(NamedTuple):
    """The state of Hydra's singletons, for a process that this one started, or sent work to."""

    prepare: Callable[[], None]
    """Makes our plugins known: the state names their classes."""
    content: bytes
    """Pickled and compressed."""

    @classmethod
    def of(cls, prepare: Callable[[], None]) -> Self:
        """Take the state of this process."""
        return cls(prepare, zlib.compress(cloudpickle.dumps(Singleton.get_state()), level=1))

    def take(self) -> None:
        """Set the state of this process, whatever a run before has made of it.

        The first time this takes a tenth of a second, since Hydra looks for its plugins.
        """
        state = _read(self)
        Singleton.set_state({**state, "instances": {**state["instances"]}})


@lru_cache(maxsize=1)
def _read(state: HydraState) -> dict[str, Any]:
    """Read the state, and add the plugins that Hydra finds."""
    state.prepare()
    found: dict[str, Any] = pickle.loads(zlib.decompress(state.content))  # from our own process
    Singleton.set_state(found)  # which puts the plugins among its instances
    return found
