"""The baseline against itself: how often the rule errs where nothing differs, with real runs."""

from collections.abc import Iterator

import numpy as np

from runner.ablation.decide import Verdict, decide
from runner.ablation.plan import Question
from runner.ablation.sampling import find_step
from runner.ablation.statistics import Array

SEEDS = (3, 5, 10)
"""Seeds a side; as many as twice that fit are tried."""

DRAWS = 1000


def calibrate(question: Question, scores: Array) -> Iterator[tuple[int, float, float]]:
    """Pair runs at random, again and again, as if some had a trick; count the verdicts.

    Args:
        question: What was settled before.
        scores: [runs], of the runs that are done.

    Yields:
        Seeds a side; the share of draws with HELPS or HURTS, which is false; with NEGLIGIBLE.
    """
    step = find_step(scores.tolist())
    for seeds in SEEDS:
        if 2 * seeds > len(scores):
            return
        draw = np.random.default_rng(seeds)
        picked = draw.permuted(np.tile(scores, (DRAWS, 1)), axis=1)
        differences = picked[:, :seeds] - picked[:, seeds : 2 * seeds]
        sequential = question.until == "decided"
        verdicts = decide(
            differences[:, None], question.margin, question.alpha, sequential, step
        ).verdict
        false = (verdicts == Verdict.HELPS) | (verdicts == Verdict.HURTS)
        yield seeds, float(np.mean(false)), float(np.mean(verdicts == Verdict.NEGLIGIBLE))
