"""The order in which runs begin: as planned, and at the end the longest first."""

import time
from collections.abc import Sequence


class Queue:
    """The runs that wait.

    They begin in the order of the plan, so that a sweep that is stopped has whole seeds. Of the
    last ones that which takes longest begins first, so that no worker is idle while another does
    a long one.

    Args:
        variants: Whose each run is; those of one variant take about as long.
        workers: How many are done at a time.

    >>> queue = Queue(["short", "long", "short", "short", "long"], workers=2)
    >>> begun = queue.take(), queue.take()
    >>> queue.seconds.update(short=1.0, long=9.0)
    >>> [queue.take(), queue.take(), queue.take(), queue.take()]
    [4, 2, 3, None]
    """

    def __init__(self, variants: Sequence[str], workers: int) -> None:
        self.variants, self.tail = variants, 2 * workers
        self.waiting = list(range(len(variants)))
        self.begun: dict[int, float] = {}
        self.seconds: dict[str, float] = {}
        """What the last run of a variant took."""

    def take(self) -> int | None:
        """Give back the number of the run to begin next; None if there is none."""
        if not self.waiting:
            return None
        number = self.waiting[0]
        if len(self.waiting) <= self.tail:
            number = max(self.waiting, key=lambda n: self.seconds.get(self.variants[n], 0.0))
        self.waiting.remove(number)
        self.begun[number] = time.monotonic()
        return number

    def put_back(self, number: int) -> None:
        """Have a run begin again, before the others."""
        self.waiting.insert(0, number)

    def learn(self, number: int) -> None:
        """Note that a run has ended."""
        self.seconds[self.variants[number]] = time.monotonic() - self.begun[number]
