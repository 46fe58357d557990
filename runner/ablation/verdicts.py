"""Verdicts: what the runs of an ablation say about each of its questions, from the files alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runner.ablation import wording
from runner.ablation.calibrate import DRAWS, calibrate
from runner.ablation.decide import Claim
from runner.ablation.designs import Contrast
from runner.ablation.estimates import Numbers, number
from runner.ablation.outcomes import Facts
from runner.ablation.plan import Plan
from runner.ablation.sampling import read_answers, samples_interval
from runner.ablation.statistics import FEWEST_SEEDS
from runner.ablation.table import Table, read_table, warnings
from runner.store.runs import Run

MOST_WITH_SAMPLES = 200
"""Contrasts, beyond which the test samples are not looked at."""


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
    open: bool = False
    """Whether more seeds, or runs that are still to come, may give another verdict."""
    mean: float | None = None
    """Of `until=decided` over the seeds before the first that is missing, as all that follows."""
    interval: tuple[float, float] | None = None
    """At 1 - alpha: Student's t, from two seeds; of `until=decided` the confidence sequence, from
    five or so: of fewer it is endless."""
    samples_interval: tuple[float, float] | None = None
    """Over seeds and test samples, both as drawn by chance: added to describe test accuracies; no
    verdict rests on it."""
    p_value: float | None = None
    """Against no effect, two-sided; of `until=decided` one over the largest e-value."""
    adjusted: float | None = None
    """The same for the number of the ablation's effects, as `decide` counts them; of interactions
    by Holm."""
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
        return not any(finding.open for finding in self.effects)


def judge(root: Path, plan: Plan) -> Findings:
    """Judge an ablation by the runs in its folder, as far as they have come.

    Args:
        root: The ablation's folder.
        plan: Its plan; what lies there and is no run of the plan is ignored.

    Raises:
        UserError: If a result lacks the metric.
    """
    table = read_table(root, plan)
    found = _find(plan, table) if plan.contrasts else ()
    kinds = {
        kind: tuple(finding for finding in found if finding.contrast.kind == kind)
        for kind in ("effect", "interaction", "share")
    }
    calibration: tuple[Calibration, ...] = ()
    if plan.question.design == "calibration":
        done = table.scores[~np.isnan(table.scores)]
        calibration = tuple(
            Calibration(seeds=seeds, draws=DRAWS, false=false, negligible=negligible)
            for seeds, false, negligible in calibrate(plan.question, done)
        )
    return Findings(
        root=root,
        plan=plan,
        effects=kinds["effect"],
        interactions=kinds["interaction"],
        shares=kinds["share"],
        calibration=calibration,
        runs=table.runs,
        warnings=tuple(warnings(table)),
    )


def _find(plan: Plan, table: Table) -> tuple[Finding, ...]:
    """Find out about every contrast."""
    numbers = number(plan, table.scores)
    answers: dict[tuple[str, int], NDArray[np.bool_]] = {}
    if plan.question.metric == "test/accuracy" and len(plan.contrasts) <= MOST_WITH_SAMPLES:
        answers = read_answers(table.runs)
    found = []
    for index, contrast in enumerate(plan.contrasts):
        facts = Facts(plan, table, contrast, numbers.used[index])
        finding = _describe(plan, numbers, index)
        seeds = [s for s, used in zip(plan.seeds, numbers.used[index], strict=True) if used]
        sign = 1 if plan.question.goal == "maximize" else -1
        weights = {name: sign * weight for name, weight in contrast.weights.items()}
        interval = samples_interval(weights, seeds, answers, plan.question.alpha)
        finding = replace(finding, samples_interval=interval)
        found.append(
            _conclude(finding, facts, numbers, index) if contrast.kind == "effect" else finding
        )
    return tuple(found)


def _describe(plan: Plan, numbers: Numbers, index: int) -> Finding:
    """Tell the numbers of a contrast, and nothing of a verdict."""
    contrast, values = plan.contrasts[index], numbers.values[index].tolist()
    low, high = float(numbers.low[index]), float(numbers.high[index])
    reason = ""
    if contrast.kind == "interaction" and numbers.judged[index]:
        told = wording.amount(float(numbers.mean[index]), plan.question)
        sure = numbers.claim[index] != Claim.UNDECIDED
        reason = f"{told}, surely not 0" if sure else f"{told}, not told apart from 0"
    elif not numbers.judged[index]:
        reason = wording.seeds_so_far(int(numbers.used[index].sum()), _planned(plan))
    return Finding(
        contrast=contrast,
        verdict=None,
        reason=reason,
        differences={s: v for s, v in zip(plan.seeds, values, strict=True) if np.isfinite(v)},
        mean=_known(numbers.mean[index]),
        interval=(low, high) if np.isfinite(low) and np.isfinite(high) else None,
        p_value=_known(numbers.p[index]),
        adjusted=_known(numbers.adjusted[index]),
        smallest_effect=_known(numbers.smallest[index]),
        did={},
        failures={},
    )


def _conclude(finding: Finding, facts: Facts, numbers: Numbers, index: int) -> Finding:
    """Give an effect its verdict, and tell what happened in its runs."""
    verdict, reason = _verdict(facts, numbers, index)
    more = float(numbers.needed[index]) - int(facts.used.sum())
    undecided = verdict is Verdict.UNDECIDED
    return replace(
        finding,
        verdict=verdict,
        reason=reason,
        open=undecided or (verdict is Verdict.NONE and not facts.baseline_failed),
        more_seeds=int(more) if undecided and np.isfinite(more) else None,
        correlation=facts.correlation(),
        time_ratio=facts.ratio(facts.table.seconds),
        memory_ratio=facts.ratio(facts.table.memory),
        did=facts.did,
        failures=facts.failures,
    )


def _verdict(facts: Facts, numbers: Numbers, index: int) -> tuple[Verdict, str]:
    """Judge an effect: what went wrong first, then whether there is enough, then the numbers."""
    question, count = facts.plan.question, int(facts.used.sum())
    if facts.broken:
        return Verdict.BROKEN, _how(facts, facts.with_it, facts.broken)
    if facts.baseline_failed:
        return Verdict.NONE, _how(facts, facts.without_it, facts.baseline_failed)
    planned = _planned(facts.plan)
    if count < (planned or FEWEST_SEEDS):
        return Verdict.NONE, wording.seeds_so_far(count, planned)
    if facts.same_weights:
        return Verdict.INACTIVE, "it changed nothing: the weights are those without it"
    if facts.idle and all(facts.idle.values()):
        return Verdict.INACTIVE, "it never acted, in any run"
    if count < FEWEST_SEEDS:
        return Verdict.NONE, wording.seeds_so_far(count, planned)
    remark = f"; inactive {wording.with_seeds(facts.idle_seeds)}" if facts.idle_seeds else ""
    claim, mean = Claim(int(numbers.claim[index])), float(numbers.mean[index])
    if claim is not Claim.UNDECIDED:
        ends = float(numbers.low[index]), float(numbers.high[index])
        return Verdict[claim.name], wording.sure(claim, mean, *ends, question) + remark
    if numbers.sd[index] == 0 and mean != 0:
        return Verdict.UNDECIDED, f"all seeds differ by the same: no spread to judge by{remark}"
    return Verdict.UNDECIDED, wording.undecided(float(numbers.needed[index]) - count) + remark


def _how(facts: Facts, variants: list[str], seeds: list[int]) -> str:
    """Say which runs came to nothing, how, and with which seeds."""
    bad = facts.bad_states(variants, seeds)
    told = wording.went_wrong([state for states in bad.values() for state in states], seeds)
    return told if variants is facts.with_it else f"{wording.without_it(list(bad))} {told}"


def _planned(plan: Plan) -> int | None:
    """The number of seeds that was settled; None where they are added."""
    return len(plan.seeds) if plan.question.until == "fixed" else None


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
