"""Verdicts: what the runs of an ablation say about each of its questions, from their files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.ablation import wording
from runner.ablation.agreement import Agreement, agreements
from runner.ablation.calibrate import Calibration, calibrate
from runner.ablation.decide import Verdict, adjust
from runner.ablation.designs import Contrast
from runner.ablation.effects import judge_effect, known
from runner.ablation.estimates import Estimate, estimate
from runner.ablation.outcomes import Outcomes
from runner.ablation.plan import Plan
from runner.ablation.sampling import (
    ACCURACY,
    MEAN_ACCURACY,
    Crossed,
    Noise,
    count_samples,
    cross_answers,
    crossed_interval,
    find_steps,
    pool_noise,
    read_answers,
    split_noise,
)
from runner.ablation.statistics import FEWEST_SEEDS
from runner.ablation.table import Table, read_table, warnings
from runner.store.runs import Run

MOST_WITH_SAMPLES = 200
"""With more contrasts than this the test samples are not read."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A contrast and what the runs say about it.

    Differences, mean and intervals are in the metric's unit, turned so that more is better.
    """

    contrast: Contrast
    verdict: Verdict | None
    """None for interactions and shares, which get no verdict."""
    reason: str
    """A few plain words, such as `about 6 more seeds`."""
    differences: Mapping[int, float]
    """The contrast's value for each complete seed."""
    seeds: int = 0
    """How many seeds it rests on; of unpaired runs, those of the smaller group."""
    unpaired: tuple[int, int] | None = None
    """Of runs without common seeds, how many it has and how many the baseline."""
    open: bool = False
    """Whether more seeds, or unfinished runs, may change the verdict."""
    mean: float | None = None
    """With `until=decided` over the seeds before the first gap, as is all that follows."""
    interval: tuple[float, float] | None = None
    """At level 1 - alpha: Student's t, from two seeds; with `until=decided` the confidence
    sequence, which is infinite for fewer than about five."""
    samples_interval: tuple[float, float] | None = None
    """Over seeds and test samples, both taken as random: describes test accuracies; no verdict
    rests on it."""
    noise: Noise | None = None
    """What its variance over the seeds is made of, of test accuracies and from three seeds."""
    p_value: float | None = None
    """Against no effect, two-sided; with `until=decided` one over the largest e-value."""
    adjusted: float | None = None
    """The same, adjusted for the number of effects as in `decide`; for interactions by Holm."""
    correlation: float | None = None
    """Of the two variants' scores over the seeds, where there are two variants and three seeds."""
    smallest_effect: float | None = None
    """What this many seeds would find 80 times in 100, with the spread that was seen."""
    within_margin: bool = False
    """Whether it is smaller than the margin, at the error rate of the verdicts."""
    more_seeds: int | None = None
    """How many more seeds would probably decide, if mean and spread are as they seem; None if
    decided, or if 1000 would not."""
    more_seeds_range: tuple[int, int | None] | None = None
    """The fewest and the most that may well be needed; None for more than 1000."""
    time_ratio: float | None = None
    """Training time with it over without it, the geometric mean over the seeds."""
    memory_ratio: float | None = None
    """Peak memory, likewise."""
    trick_metrics: Mapping[str, float] = field(default_factory=dict)
    """The numbers that the factor's trick reported, each the mean over its runs."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Of the runs with it, how many `failed` (by an exception raised in them) or `diverged`; only
    what is not 0, and without what the machine ended."""
    failures_without: Mapping[str, int] = field(default_factory=dict)
    """The same of the runs without it."""
    failure_p: float | None = None
    """Against equal chances to fail, one-sided: Fisher's exact test; with `until=decided` one over
    the largest e-value."""
    failure_adjusted: float | None = None
    """The same, adjusted for the number of effects by Holm's method: BROKEN is at most alpha."""
    left_out: tuple[int, ...] = ()
    """The seeds with which a run failed: the scores with them are left out."""
    ended_outside: Mapping[str, str] = field(default_factory=dict)
    """What the machine did to its runs and those without it, by `VARIANT/seed=S`."""

    @property
    def few(self) -> bool:
        """Whether it is a verdict of so few seeds that it is marked."""
        return self.verdict in wording.SCORED and 0 < self.seeds < wording.ENOUGH


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All results of an ablation, so far."""

    root: Path
    plan: Plan
    effects: tuple[Finding, ...]
    interactions: tuple[Finding, ...]
    shares: tuple[Finding, ...]
    agreement: tuple[Agreement, ...] = ()
    """Each effect over the settings of `ablation.across`; empty without."""
    calibration: tuple[Calibration, ...]
    noise: Noise | None = None
    """What the variance of a difference over the seeds is made of, over all effects together."""
    runs: Mapping[tuple[str, int], Run]
    """By variant and seed; without those that have not started."""
    warnings: tuple[str, ...]
    """What a reader must know: runs of different code or processors, damaged files, ..."""

    @property
    def decided(self) -> bool:
        """Whether every verdict is final."""
        return not any(finding.open for finding in self.effects)


def judge(root: Path, plan: Plan) -> Findings:
    """Judge an ablation by the runs in its folder, finished or not.

    Raises:
        UserError: If a result lacks the metric.
    """
    return judge_table(root, plan, read_table(root, plan))


def judge_table(root: Path, plan: Plan, table: Table, samples: float | None = None) -> Findings:
    """Judge an ablation by a table of its runs.

    Args:
        root: Its folder.
        plan: What was to be done.
        table: What was.
        samples: How many test samples make a score of 1, if their answers do not say it.
    """
    counted: dict[str, float | None] = dict.fromkeys(plan.settings(), samples)
    if plan.question.metric in (ACCURACY, MEAN_ACCURACY) and samples is None:
        counted = {s: count_samples(some, table.runs) for s, some in plan.settings().items()}
    found, noise = _find(plan, table, counted) if plan.contrasts else ([], None)
    effects, interactions, shares = (
        tuple(finding for finding in found if finding.contrast.kind == kind)
        for kind in ("effect", "interaction", "share")
    )
    done = table.scores[~np.isnan(table.scores)]
    calibrated = plan.question.design == "calibration"
    return Findings(
        root=root,
        plan=plan,
        effects=effects,
        interactions=interactions,
        shares=shares,
        agreement=agreements(
            plan, effects, max(find_steps(plan, table.scores, counted), default=0.0)
        ),
        calibration=tuple(calibrate(plan.question, done, counted.get(""))) if calibrated else (),
        noise=noise,
        runs=table.runs,
        warnings=tuple(warnings(plan, table)),
    )


def _find(
    plan: Plan, table: Table, samples: Mapping[str, float | None]
) -> tuple[list[Finding], Noise | None]:
    """Judge every contrast; and split the noise of all effects."""
    answers: dict[tuple[str, int], NDArray[np.bool_]] = {}
    if plan.question.metric == ACCURACY and len(plan.contrasts) <= MOST_WITH_SAMPLES:
        answers = read_answers(table.runs)
    estimates = estimate(plan, table.scores, table.failed | table.absent, samples)
    pairs = [*zip(plan.contrasts, estimates, strict=True)]
    outcomes = {
        index: Outcomes(plan, table, contrast, each)
        for index, (contrast, each) in enumerate(pairs)
        if contrast.kind == "effect"
    }
    crossed = [_cross(plan, contrast, each, answers) for contrast, each in pairs]
    p = np.array([each.failure_p for each in outcomes.values()])
    adjusted = dict(zip(outcomes, adjust(p, p).tolist(), strict=True))
    found = []
    for index, (contrast, each) in enumerate(pairs):
        about: dict[str, Any] = {"verdict": None, "reason": _remark(plan, contrast, each)}
        if index in outcomes:
            about = judge_effect(plan, each, outcomes[index], adjusted[index])
        found.append(_finding(plan, contrast, each, crossed[index], about))
    of_effects = [
        (contrast.weights, each)
        for (contrast, _), each in zip(pairs, crossed, strict=True)
        if contrast.kind == "effect" and each and each.seeds >= FEWEST_SEEDS and each.ms_seeds > 0
    ]
    alike = len({each.samples for _, each in of_effects}) == 1
    return found, pool_noise(of_effects, plan.question.alpha) if alike else None


def _cross(
    plan: Plan,
    contrast: Contrast,
    estimated: Estimate,
    answers: Mapping[tuple[str, int], NDArray[np.bool_]],
) -> Crossed | None:
    """Analyse a contrast over the seeds that count and the test samples, where that is known."""
    sign = 1 if plan.question.goal == "maximize" else -1
    weights = {name: sign * weight for name, weight in contrast.weights.items()}
    seeds = [s for s, used in zip(plan.seeds, estimated.used, strict=True) if used]
    return cross_answers(weights, seeds, answers)


def _finding(
    plan: Plan,
    contrast: Contrast,
    estimated: Estimate,
    crossed: Crossed | None,
    about: Mapping[str, Any],
) -> Finding:
    values = dict(zip(plan.seeds, estimated.values.tolist(), strict=True))
    interval, alpha = (estimated.low, estimated.high), plan.question.alpha
    return Finding(
        contrast=contrast,
        differences={seed: value for seed, value in values.items() if np.isfinite(value)},
        seeds=int(estimated.used.sum()),
        mean=known(estimated.mean),
        interval=interval if np.isfinite(interval).all() else None,
        samples_interval=crossed_interval(crossed, alpha) if crossed else None,
        noise=split_noise(crossed, alpha) if crossed else None,
        p_value=known(estimated.p),
        adjusted=known(estimated.adjusted),
        smallest_effect=known(estimated.smallest),
        **about,
    )


def _remark(plan: Plan, contrast: Contrast, estimated: Estimate) -> str:
    """Describe an interaction in words; of other contrasts, how many seeds are complete."""
    if not estimated.judged:
        planned = len(plan.seeds) if not plan.question.grows else None
        return wording.seeds_so_far(int(estimated.used.sum()), planned)
    if contrast.kind != "interaction":
        return ""
    undecided = estimated.verdict is Verdict.UNDECIDED
    chance = "not distinguishable from 0" if undecided else "more than chance"
    return f"{wording.amount(estimated.mean, plan.question)}, {chance}"
