"""What Hydra knows in this process, which another one has to know before it does a run."""

import pickle
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Self

import cloudpickle  # the state holds functions within functions
from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals


class HydraState(NamedTuple):
    """The state of Hydra's singletons, for a process that this one started, or sent work to."""

    prepare: Callable[[], None]
    """Makes our plugins known, whose classes the state names."""
    content: bytes

    @classmethod
    def of(cls, prepare: Callable[[], None]) -> Self:
        """Take the state of this process."""
        return cls(prepare, cloudpickle.dumps(Singleton.get_state()))

    def take(self) -> None:
        """Have this process know it; the same state again takes no time."""
        _take(self)


@lru_cache(maxsize=1)
def _take(state: HydraState) -> None:
    state.prepare()
    setup_globals()
    Singleton.set_state(pickle.loads(state.content))  # from our own process
    state.prepare()  # the state brought its own list of plugins
