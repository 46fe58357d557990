"""How long runs take side by side: each is whole, and what waits for a look waits for the longest.

Runs begin as the launcher begins them (see runner/sweep/waiting.py): in the order of the plan, and
of the last ones the longest first.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heapreplace

from runner.ablation.plan import Plan

OFTEN = (8, 64, 512)
"""Workers that a table tells of, beside those of this machine."""


def wall_time(seconds: Sequence[float], workers: int) -> float:
    """Give back how long runs take, so many at once.

    >>> wall_time([1.0, 1.0, 1.0], workers=2), wall_time([1.0, 2.0, 6.0], workers=2)
    (2.0, 6.0)
    """
    first = len(seconds) - 2 * workers if len(seconds) > 2 * workers else 0
    free = [0.0] * min(workers, max(1, len(seconds)))  # when each worker is
    for run in (*seconds[:first], *sorted(seconds[first:], reverse=True)):
        heapreplace(free, free[0] + run)
    return max(free)


def in_blocks(blocks: Iterable[Sequence[float]], workers: int) -> float:
    """Give back how long blocks of runs take, each of which waits for the one before it."""
    return sum(wall_time(block, workers) for block in blocks)


def blocks(plan: Plan) -> Iterator[int]:
    """Give for each block of seeds how many it has: the first ones, then those up to each look."""
    yield (before := len(plan.seeds))
    if plan.question.grows:
        most = plan.question.most_seeds
        for seeds in plan.question.looks or range(before + 1, most + 1):
            if seeds > before:
                yield seeds - before
                before = seeds


def counts(workers: int, runs: int) -> list[int]:
    """Choose numbers of workers to tell of; more than there are runs would have nothing to do."""
    return sorted({min(count, max(1, runs)) for count in (workers, *OFTEN)})
