"""The baseline against itself: how often the rule errs where nothing differs, with real runs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from runner.ablation.decide import Verdict, decide
from runner.ablation.plan import Question
from runner.ablation.sampling import find_step
from runner.ablation.statistics import Array

SEEDS = (3, 5, 10)
"""Seeds a side; as many as twice that fit are tried."""

DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The baseline against itself: how often the rule gives a verdict that cannot be true."""

    seeds: int
    """Seeds per side, in each simulated ablation."""
    draws: int = DRAWS
    """Simulated ablations: that many ways to pair the runs."""
    false: float
    """The share of them that found HELPS or HURTS."""
    negligible: float
    """The share of them that found NEGLIGIBLE, which is true here."""


def calibrate(
    question: Question, scores: Array, samples: float | None = None
) -> Iterator[Calibration]:
    """Pair runs at random, again and again, as if some had a trick; count the verdicts.

    Args:
        question: What was settled before.
        scores: [runs], of the runs that are done.
        samples: How many test samples the scores are counted on, if that is known.
    """
    step = find_step(scores.tolist(), question.metric, samples)
    for seeds in SEEDS:
        if 2 * seeds > len(scores):
            return
        draw = np.random.default_rng(seeds)
        picked = draw.permuted(np.tile(scores, (DRAWS, 1)), axis=1)
        differences = picked[:, :seeds] - picked[:, seeds : 2 * seeds]
        rule = question.margin, question.alpha, question.until == "decided", step
        verdicts = decide(differences[:, None], *rule).verdict
        false = float(np.mean(np.isin(verdicts, (Verdict.HELPS, Verdict.HURTS))))
        negligible = float(np.mean(verdicts == Verdict.NEGLIGIBLE))
        yield Calibration(seeds=seeds, false=false, negligible=negligible)
