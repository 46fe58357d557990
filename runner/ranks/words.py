"""What ranks that end tell the others, so that one of them tells the user why.

A rank that fails tells of it itself. Where one is gone without a word, the first of those that
lost it tells.
"""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from runner.errors import Unfit, UserError
from runner.ranks.session import whole_store
from runner.texts import in_one_line

TO_TELL = 3.0  # seconds, in which a rank that fails tells the others why

FAILED = "failed: "
"""In what a rank tells the others, before what to mend; otherwise the same command goes on."""
LOST = "lost another one"
"""What a rank tells that ends since another one did, which is no cause."""

_BROKEN = re.compile(
    "connection (closed|reset) by peer|broken pipe|timed? ?out|gloo|nccl|c10d|socket", re.IGNORECASE
)
"""What torch says, as a RuntimeError, where it cannot reach another rank."""


class Lost(Unfit):
    """Another rank is gone, or does not answer."""

    is_told = False
    """Whether that rank tells why."""


def is_broken(error: RuntimeError) -> bool:
    """Whether torch says that it cannot reach another rank."""
    return _BROKEN.search(str(error)) is not None


def in_words(error: Exception) -> str:
    """Write an error in a line."""
    return str(error) if isinstance(error, UserError) else in_one_line(error)


class Words:
    """What the ranks of a run tell each other as they end.

    Args:
        rank: The number of this one.
        count: How many there are.
        store: Torch's, which all of them reach.
    """

    def __init__(self, rank: int, count: int, store: Any) -> None:  # noqa: ANN401
        self.rank, self.count, self.store = rank, count, store

    def leave(self, error: BaseException | None) -> None:
        """Tell the others that this rank ends, and why."""
        why = "has ended"
        if isinstance(error, Lost):
            why = LOST
        elif isinstance(error, Exception):
            why = FAILED + in_words(error)
        if self.store is not None:
            with suppress(RuntimeError):
                self.store.set(f"ended/{self.rank}", f"rank {self.rank} {why}".rstrip("."))

    def keep(self, mark: str) -> None:
        """Keep a mark for the ranks that torchrun starts in place of these."""
        if self.store is not None:
            with suppress(RuntimeError):
                whole_store(self.store).set(mark, mark)

    def is_kept(self, mark: str) -> bool:
        """Whether these ranks, or those in whose place they were started, kept a mark."""
        try:
            return self.store is not None and bool(whole_store(self.store).check([mark]))
        except RuntimeError:
            return False

    def why_lost(self, error: RuntimeError) -> Lost:
        """Give back an error that says why another rank ended, as far as it is known."""
        others = [rank for rank in range(self.count) if rank != self.rank]
        told = self._wait_for_one(others, TO_TELL / 3, but=LOST)
        if told is not None and FAILED in told:
            lost = Lost(f"{told}.")
            lost.is_told = True
            return lost
        why = _BROKEN.search(str(error)) or [in_one_line(error)[:200]]
        told = told or f"A rank was killed, or cannot be reached ({why[0]})"
        return Lost(f"{told}. Give the same command to go on.")

    def are_told_by_another(self, error: Exception) -> bool:
        """Whether another rank tells the user: the one that failed, or the first of several."""
        if isinstance(error, Lost) and error.is_told:
            return True
        told = self._wait_for_one(range(self.rank), TO_TELL)
        return told is not None and (isinstance(error, Lost) or not told.endswith(LOST))

    def _wait_for_one(
        self, ranks: Sequence[int], seconds: float, but: str | None = None
    ) -> str | None:
        """Give back what one of some ranks tells; None if none does so in time."""
        deadline = time.monotonic() + seconds
        while ranks:
            words = filter(None, map(self._of, ranks))
            if told := [word for word in words if but is None or not word.endswith(but)]:
                return told[0]
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return None

    def _of(self, rank: int) -> str | None:
        try:
            if self.store is not None and self.store.check([f"ended/{rank}"]):
                return str(self.store.get(f"ended/{rank}").decode())
        except RuntimeError:
            self.store = None  # who kept the words is gone too
        return None
