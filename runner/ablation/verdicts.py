"""Verdicts: what the runs of an ablation say about each of its questions, from the files alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from runner.ablation.designs import Contrast
from runner.ablation.plan import Plan
from runner.runs import Run


class Verdict(StrEnum):
    """What may be concluded about an effect."""

    HELPS = "HELPS"
    HURTS = "HURTS"
    NEGLIGIBLE = "NEGLIGIBLE"
    """Smaller than the margin, whichever way."""
    UNDECIDED = "UNDECIDED"
    INACTIVE = "INACTIVE"
    """It changed nothing: the runs with it equal those without."""
    BROKEN = "BROKEN"
    """With it runs failed or diverged, and without it they did not."""
    NONE = "NO VERDICT"
    """Too few seeds, runs still to come, or a baseline that failed: nothing is concluded."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A contrast and what the runs say about it.

    Differences, mean and intervals are in the metric's unit, turned so that more is better.
    """

    contrast: Contrast
    verdict: Verdict | None
    """None for what gets none: interactions and shares."""
    reason: str
    """Half a line in plain words, such as `about 6 seeds more`."""
    differences: Mapping[int, float]
    """For each seed that is complete the contrast's value."""
    mean: float | None = None
    interval: tuple[float, float] | None = None
    """At 1 - alpha: Student's t, or of `until=decided` the confidence sequence. From two seeds."""
    samples_interval: tuple[float, float] | None = None
    """Resampled over seeds and test samples; of accuracies alone."""
    p_value: float | None = None
    """Against no effect, two-sided; of `until=decided` one over the largest e-value."""
    adjusted: float | None = None
    """The same by Holm, over the ablation's effects (or its interactions)."""
    correlation: float | None = None
    """Of the two variants' scores over the seeds, where there are two and three seeds."""
    smallest_effect: float | None = None
    """What this many seeds would find 80 times in 100, with the spread that was seen."""
    more_seeds: int | None = None
    """How many seeds more would probably decide; None if decided, or if none up to 1000 would."""
    time_ratio: float | None = None
    """Training time with it over without it, the geometric mean over the seeds."""
    memory_ratio: float | None = None
    """Peak memory, likewise."""
    did: Mapping[str, float]
    """What the factor's trick reported, by `number`, the mean over its runs."""
    failures: Mapping[str, int]
    """Of the runs with it, how many `failed`, `diverged`, are `damaged`; only what is not 0."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The baseline against itself: how often verdicts come out that cannot be true."""

    seeds: int
    """Seeds a side, in each made-up ablation."""
    draws: int
    """Made-up ablations: that many ways to pair the runs."""
    false: float
    """Their share that said HELPS or HURTS."""
    negligible: float
    """Their share that said NEGLIGIBLE, which is true here."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that an ablation came to, so far."""

    root: Path
    plan: Plan
    effects: tuple[Finding, ...]
    interactions: tuple[Finding, ...]
    shares: tuple[Finding, ...]
    calibration: tuple[Calibration, ...]
    runs: Mapping[tuple[str, int], Run]
    """By variant and seed; those that have not begun are missing."""
    warnings: tuple[str, ...]
    """What a reader must know: runs of other code, another processor, damaged files, ..."""

    @property
    def decided(self) -> bool:
        """Whether more seeds would change nothing."""
        open_ones = (Verdict.UNDECIDED, Verdict.NONE)
        return all(finding.verdict not in open_ones for finding in self.effects)


def judge(root: Path, plan: Plan) -> Findings:
    """Judge an ablation by the runs in its folder, as far as they have come.

    Raises:
        UserError: If nothing can be concluded because the plan itself cannot be used.
    """
    raise NotImplementedError
