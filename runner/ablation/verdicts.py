"""Verdicts: what the runs of an ablation say about each of its questions, from their files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.ablation import wording
from runner.ablation.calibrate import Calibration, calibrate
from runner.ablation.decide import Verdict
from runner.ablation.designs import Contrast
from runner.ablation.estimates import Estimate, estimate
from runner.ablation.outcomes import Outcomes
from runner.ablation.plan import Plan
from runner.ablation.sampling import read_answers, samples_interval
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
    p_value: float | None = None
    """Against no effect, two-sided; with `until=decided` one over the largest e-value."""
    adjusted: float | None = None
    """The same, adjusted for the number of effects as in `decide`; for interactions by Holm."""
    correlation: float | None = None
    """Of the two variants' scores over the seeds, where there are two variants and three seeds."""
    smallest_effect: float | None = None
    """What this many seeds would find 80 times in 100, with the spread that was seen."""
    more_seeds: int | None = None
    """How many more seeds would probably decide; None if decided, or if 1000 would not."""
    time_ratio: float | None = None
    """Training time with it over without it, the geometric mean over the seeds."""
    memory_ratio: float | None = None
    """Peak memory, likewise."""
    trick_metrics: Mapping[str, float] = field(default_factory=dict)
    """The numbers that the factor's trick reported, each the mean over its runs."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Of the runs with it, how many `failed` or `diverged`; only what is not 0."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All results of an ablation, so far."""

    root: Path
    plan: Plan
    effects: tuple[Finding, ...]
    interactions: tuple[Finding, ...]
    shares: tuple[Finding, ...]
    calibration: tuple[Calibration, ...]
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

    Args:
        root: The ablation's folder.
        plan: Its plan; anything else in the folder is ignored.

    Raises:
        UserError: If a result lacks the metric.
    """
    table = read_table(root, plan)
    found = _find(plan, table) if plan.contrasts else []
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
        calibration=tuple(calibrate(plan.question, done)) if calibrated else (),
        runs=table.runs,
        warnings=tuple(warnings(table)),
    )


def _find(plan: Plan, table: Table) -> list[Finding]:
    """Judge every contrast."""
    answers: dict[tuple[str, int], NDArray[np.bool_]] = {}
    if plan.question.metric == "test/accuracy" and len(plan.contrasts) <= MOST_WITH_SAMPLES:
        answers = read_answers(table.runs)
    estimates = zip(plan.contrasts, estimate(plan, table.scores), strict=True)
    return [_finding(plan, table, contrast, each, answers) for contrast, each in estimates]


def _finding(
    plan: Plan,
    table: Table,
    contrast: Contrast,
    estimated: Estimate,
    answers: Mapping[tuple[str, int], NDArray[np.bool_]],
) -> Finding:
    values = dict(zip(plan.seeds, estimated.values.tolist(), strict=True))
    interval = estimated.low, estimated.high
    sign = 1 if plan.question.goal == "maximize" else -1
    weights = {name: sign * weight for name, weight in contrast.weights.items()}
    seeds = [s for s, used in zip(plan.seeds, estimated.used, strict=True) if used]
    about: dict[str, Any] = {"verdict": None, "reason": _remark(plan, contrast, estimated)}
    if contrast.kind == "effect":
        about = _judge(plan, estimated, Outcomes(plan, table, contrast, estimated.used))
    return Finding(
        contrast=contrast,
        differences={seed: value for seed, value in values.items() if np.isfinite(value)},
        mean=_known(estimated.mean),
        interval=interval if np.isfinite(interval).all() else None,
        samples_interval=samples_interval(weights, seeds, answers, plan.question.alpha),
        p_value=_known(estimated.p),
        adjusted=_known(estimated.adjusted),
        smallest_effect=_known(estimated.smallest),
        **about,
    )


def _remark(plan: Plan, contrast: Contrast, estimated: Estimate) -> str:
    """Describe an interaction in words; of other contrasts tell how far their runs are."""
    if not estimated.judged:
        return wording.seeds_so_far(int(estimated.used.sum()), _planned(plan))
    if contrast.kind != "interaction":
        return ""
    undecided = estimated.verdict is Verdict.UNDECIDED
    sure = "not distinguishable from 0" if undecided else "surely not 0"
    return f"{wording.amount(estimated.mean, plan.question)}, {sure}"


def _judge(plan: Plan, estimated: Estimate, outcomes: Outcomes) -> dict[str, Any]:
    """Give back what a finding says of an effect alone: its verdict, and how its runs went."""
    verdict, reason = _verdict(plan, estimated, outcomes)
    more = estimated.needed - int(estimated.used.sum())
    undecided = verdict is Verdict.UNDECIDED
    return {
        "verdict": verdict,
        "reason": reason,
        "open": undecided or (verdict is Verdict.NONE and not outcomes.baseline_failed),
        "more_seeds": int(more) if undecided and np.isfinite(more) else None,
        "correlation": outcomes.correlation(),
        "time_ratio": outcomes.ratio(outcomes.table.seconds),
        "memory_ratio": outcomes.ratio(outcomes.table.memory),
        "trick_metrics": outcomes.trick_metrics,
        "failures": outcomes.failures,
    }


def _verdict(plan: Plan, estimated: Estimate, outcomes: Outcomes) -> tuple[Verdict, str]:
    """Judge an effect: first by what failed, then whether there is enough, then by the numbers."""
    count, planned = int(estimated.used.sum()), _planned(plan)
    if seeds := outcomes.broken:
        bad = outcomes.bad_states(outcomes.with_it, seeds)
        return Verdict.BROKEN, wording.went_wrong(bad, seeds)
    if seeds := outcomes.baseline_failed:
        bad = outcomes.bad_states(outcomes.without_it, seeds)
        return Verdict.NONE, f"{wording.without_it(list(bad))} {wording.went_wrong(bad, seeds)}"
    if count < (planned or FEWEST_SEEDS):
        return Verdict.NONE, wording.seeds_so_far(count, planned)
    if outcomes.same_weights:
        return Verdict.INACTIVE, "it changed nothing: the weights equal those without it"
    if outcomes.idle and all(outcomes.idle.values()):
        return Verdict.INACTIVE, "it never acted, in any run"
    if count < FEWEST_SEEDS:
        return Verdict.NONE, wording.seeds_so_far(count, planned)
    idle = sorted({seed for (_, seed), is_idle in outcomes.idle.items() if is_idle})
    remark = f"; inactive {wording.with_seeds(idle)}" if idle else ""
    verdict, mean = estimated.verdict, estimated.mean
    if verdict is not Verdict.UNDECIDED:
        sure = wording.sure(verdict, mean, estimated.low, estimated.high, plan.question)
        return verdict, sure + remark
    if estimated.sd == 0 and mean != 0:
        return verdict, f"the same difference with every seed: no spread to judge by{remark}"
    return verdict, wording.undecided(estimated.needed - count) + remark


def _planned(plan: Plan) -> int | None:
    """The number of seeds that was fixed beforehand; None where seeds are added."""
    return len(plan.seeds) if plan.question.until == "fixed" else None


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
