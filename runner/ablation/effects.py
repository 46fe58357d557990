"""The verdict on one effect: by what failed, by the weights, then by the numbers."""

from typing import Any

import numpy as np

from runner.ablation import wording
from runner.ablation.decide import Verdict
from runner.ablation.designs import Contrast
from runner.ablation.estimates import Estimate
from runner.ablation.failures import seeds_to_prove
from runner.ablation.outcomes import Outcomes
from runner.ablation.plan import Plan
from runner.ablation.statistics import FEWEST_SEEDS


def judge_effect(
    plan: Plan, estimated: Estimate, outcomes: Outcomes, failure_adjusted: float
) -> dict[str, Any]:
    """Give back what a finding says of an effect alone: its verdict, and how its runs went."""
    verdict, reason = _verdict(plan, estimated, outcomes, failure_adjusted)
    apart = tuned_apart(plan, outcomes.contrast) if verdict in wording.SCORED else []
    if apart:
        verdict, reason = Verdict.UNDECIDED, wording.tuned_apart(estimated.mean, apart, plan)
    undecided, have = verdict is Verdict.UNDECIDED, int(estimated.used.sum())
    failed = outcomes.failures(outcomes.with_it)
    more = [_more(n, have) for n in (estimated.needed, estimated.fewest, estimated.most)]
    forecast = undecided and not failed and not apart and more[1] is not None
    return {
        "verdict": verdict,
        "reason": reason,
        "open": (undecided and not apart) or verdict is Verdict.NONE,
        "within_margin": estimated.within and verdict in wording.SCORED,
        "more_seeds": more[0] if forecast else None,
        "more_seeds_range": (more[1], more[2]) if forecast else None,
        "correlation": outcomes.correlation(),
        "time_ratio": outcomes.ratio(outcomes.table.seconds),
        "memory_ratio": outcomes.ratio(outcomes.table.memory),
        "trick_metrics": outcomes.trick_metrics,
        "failures": failed,
        "failures_without": outcomes.failures(outcomes.without_it),
        "failure_p": known(outcomes.failure_p),
        "failure_adjusted": known(failure_adjusted),
        "left_out": tuple(outcomes.left_out),
        "ended_outside": outcomes.outside,
    }


def tuned_apart(plan: Plan, contrast: Contrast) -> list[str]:
    """Give back the settings that variants of a contrast share, and were tuned to other values.

    Then the luck of the choice is a part of their difference, in every run alike, and no number
    of seeds shows how large it is.
    """
    values: dict[str, list[Any]] = {}
    for variant in contrast.weights:
        if variant in plan.tuned:
            for key, value in plan.tuned[variant].best.values.items():
                values.setdefault(key, []).append(value)
    return [key for key, some in values.items() if any(value != some[0] for value in some)]


def _verdict(
    plan: Plan, estimated: Estimate, outcomes: Outcomes, failure_adjusted: float
) -> tuple[Verdict, str]:
    """Judge an effect, with the reason in words."""
    question = plan.question
    ended, settled = int(estimated.settled.sum()), int(outcomes.settled.sum())
    used = int(estimated.used.sum())
    planned = None if question.grows else len(plan.seeds)
    failed = bool(outcomes.failures(outcomes.with_it))
    if failure_adjusted <= question.alpha:
        return Verdict.BROKEN, _failures(outcomes, settled)
    same = outcomes.same_weights if ended >= (planned or FEWEST_SEEDS) else None
    if same:
        return Verdict.INACTIVE, wording.SAME_WEIGHTS
    remarks = _remarks(plan, outcomes, settled)
    if ended < (planned or FEWEST_SEEDS) or ended < FEWEST_SEEDS:
        left = None if planned is None else planned - (ended - settled)
        return Verdict.NONE, "; ".join([wording.seeds_so_far(settled, left), *remarks])
    remarks += _idle(outcomes, differ=same is False)
    if failed and estimated.verdict is not Verdict.HURTS:  # those that are left may be the better
        return Verdict.UNDECIDED, "; ".join(remarks)
    if used < FEWEST_SEEDS:
        return Verdict.NONE, "; ".join([wording.seeds_left(used), *remarks])
    return estimated.verdict, "; ".join([_numbers(plan, estimated, used), *remarks])


def _numbers(plan: Plan, estimated: Estimate, used: int) -> str:
    """Say what the scores show."""
    if estimated.verdict is not Verdict.UNDECIDED:
        mean, within = estimated.mean, estimated.within
        return wording.found(estimated.verdict, mean, within, used, plan.question)
    if estimated.sd == 0 and estimated.mean != 0:
        return "the same difference with every seed: no spread to judge by"
    return wording.undecided(estimated.fewest - used, estimated.most - used)


def _remarks(plan: Plan, outcomes: Outcomes, settled: int) -> list[str]:
    """Say what failed, what was left out therefore, and what the machine ended."""
    found, reference = [], outcomes.without_it
    own, others = (outcomes.failures(side) for side in (outcomes.with_it, reference))
    if own:
        found.append(_failures(outcomes, settled))
        effects = sum(contrast.kind == "effect" for contrast in plan.contrasts)
        several = 1 if len(reference) == 1 else 2
        sequential = plan.question.grows
        needed = seeds_to_prove(plan.question.alpha / effects / several, sequential)
        if settled < needed and sum(own.values()) > sum(others.values()):
            found[0] += wording.not_proven(settled, needed, effects)
    elif left := outcomes.left_out:
        runs = settled * len(outcomes.with_it)
        found.append(wording.left_out(left, others, runs, reference))
    if not outcomes.complete and (causes := outcomes.outside):
        found.append(wording.ended_outside(causes))
    return found


def _failures(outcomes: Outcomes, settled: int) -> str:
    own, others = (outcomes.failures(s) for s in (outcomes.with_it, outcomes.without_it))
    return wording.failures(own, others, settled * len(outcomes.with_it), outcomes.without_it)


def _idle(outcomes: Outcomes, differ: bool) -> list[str]:
    """Say what the trick reports of itself, where the weights do not bear it out."""
    seeds = sorted({seed for (_, seed), is_idle in outcomes.idle.items() if is_idle})
    return [wording.idle(seeds, all(outcomes.idle.values()), differ)] if seeds else []


def _more(needed: float, have: int) -> int | None:
    return int(needed) - have if np.isfinite(needed) else None


def known(value: float) -> float | None:
    """Give back a finite number, else None."""
    return float(value) if np.isfinite(value) else None
