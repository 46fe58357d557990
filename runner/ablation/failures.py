"""Runs that failed: which of them are evidence against a trick, and when they are enough of it."""

import re
from itertools import count

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from runner.ablation.statistics import FEWEST_SEEDS, Array
from runner.store.runs import Run

OUTSIDE = {
    "killed": "was killed",
    "timeout": "was ended at the time limit",
    "machine": "lacked memory, room, a file or a device",
}
"""The causes in status.json that are no evidence, in words."""


def cause_outside(run: Run) -> str | None:
    """Say what ended a failed run from outside; None if an exception inside it did.

    Only an exception that was raised in the run is evidence against a trick: not a signal, a time
    limit, a process that left no word, a machine without memory or room, or a mistake to correct.
    """
    error = str(run.status.get("error") or "")
    if run.cause in OUTSIDE:
        signal = re.search(r"\bSIG[A-Z]+", error) if run.cause == "killed" else None
        return OUTSIDE[run.cause] + (f" by {signal.group()}" if signal else "")
    if "Traceback (most recent call last)" in error:
        return None
    return "could not run" if error.strip() else "ended without an error"


BETS = ((0.9, 0.1), (0.5, 0.05), (0.2, 0.02))
"""Chances to fail with a trick and without it, by which `failure_p` bets against equal ones."""


def failure_p(
    with_it: ArrayLike, without_it: ArrayLike, counts: ArrayLike, sequential: bool = False
) -> Array:
    """Test whether runs fail more often with a trick than without it, one-sided.

    Of a fixed number of seeds it is Fisher's exact test. It assumes one chance to fail for all
    runs without the trick; where the chance depends on the seed it errs less often, not more: then
    the number of failures varies less about its mean (by Newton's inequalities for the elementary
    symmetric polynomials of the odds).

    Of a sequence it is one over the largest e-value so far, the mean over `BETS` (a, b) of the
    product over the seeds of P_a(with) P_b(without) / (P_q(with) P_q(without)), q = (a + b) / 2. If
    both chances are p, the expectation of a factor is A B with A + B = 2, so 1 at most, whatever p
    is with each seed (Turner, Ly and Gruenwald, https://arxiv.org/abs/2106.02693).

    Args:
        with_it: [..., S], whether runs with it failed, for each seed.
        without_it: [..., S], whether runs without it failed.
        counts: [..., S], the seeds that count.
        sequential: Whether seeds were added with an eye on the verdicts.

    Returns:
        [...]; NaN where fewer than three seeds count.
    """
    counts = np.asarray(counts, bool)
    one, other = (np.logical_and(failed, counts) for failed in (with_it, without_it))
    n = counts.sum(-1)
    if sequential:
        bets = [_log_factors(one, a, b) + _log_factors(other, b, a) for a, b in BETS]
        sums = [np.where(counts, factors, 0.0).cumsum(-1) for factors in bets]
        log_e = np.logaddexp.reduce(sums, axis=0) - np.log(len(BETS))
        p = np.exp(-np.maximum(log_e.max(-1, initial=0.0), 0.0))
    else:
        failed = one.sum(-1), other.sum(-1)
        p = scipy.stats.hypergeom.sf(
            failed[0] - 1, np.maximum(2 * n, 1), sum(failed), np.maximum(n, 1)
        )
    p = np.where(p > 1e-9, np.round(p, 12), p)  # 1/20, of 3 and 3, is 0.05 but for rounding
    return np.asarray(np.where(n >= FEWEST_SEEDS, p, np.nan))


def _log_factors(failed: NDArray[np.bool_], bet: float, against: float) -> Array:
    even = (bet + against) / 2
    return np.asarray(np.where(failed, np.log(bet / even), np.log((1 - bet) / (1 - even))))


def failure_p_of_several(
    with_it: NDArray[np.bool_],
    without_it: NDArray[np.bool_],
    counts: NDArray[np.bool_],
    sequential: bool = False,
) -> float:
    """Test the same of an effect with several variants, such as those of a factorial.

    Variants may fail together, as those of a trick that changed nothing do; so seeds are counted,
    not runs: those with which any run failed, and those with which all did. The smaller p-value
    counts, twice. (Two tricks that always fail hide each other from the first count, and tricks
    that fail only together are not seen by the second.)

    Args:
        with_it: [V, S], which runs with it failed.
        without_it: [W, S], which runs without it failed.
        counts: [S], the seeds that count.
        sequential: Whether seeds were added with an eye on the verdicts.

    Returns:
        NaN where fewer than three seeds count, or if there are not equally many on both sides.
    """
    if len(with_it) != len(without_it):
        return np.nan
    one = failure_p(with_it.any(0), without_it.any(0), counts, sequential)
    if len(with_it) == 1:
        return float(one)
    other = failure_p(with_it.all(0), without_it.all(0), counts, sequential)
    return min(1.0, 2 * float(np.minimum(one, other)))


def seeds_to_prove(alpha: float, sequential: bool) -> int:
    """Give the fewest seeds that can prove a trick broken: with it all fail, and without it none.

    Args:
        alpha: The error rate: the ablation's divided by its number of effects, and by 2 where an
            effect has several variants.
        sequential: Whether seeds were added with an eye on the verdicts.
    """
    for n in count(FEWEST_SEEDS):
        every = np.ones(n, bool)
        if failure_p(every, ~every, every, sequential) <= alpha:
            return n
    raise AssertionError
