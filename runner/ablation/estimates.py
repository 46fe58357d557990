"""Estimates: what the scores say about each contrast of an ablation, all computed at once."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from runner.ablation.decide import Decision, Verdict, conclude, decide, paired_tests_at_looks
from runner.ablation.plan import Plan, Question
from runner.ablation.power import Forecast, forecast_seeds, smallest_effect
from runner.ablation.sampling import find_steps
from runner.ablation.sharing import Sharing, find_sharing, gain_of, share
from runner.ablation.statistics import (
    FEWEST_SEEDS,
    Array,
    Moments,
    confidence_sequence,
    moments,
    t_test,
)

NOTHING = 1e-13
"""A weighted sum below this share of the size of its terms is 0, but for rounding."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the scores say about one contrast; NaN for what is not known."""

    values: Array
    """[S], turned so that more is better; NaN where a run is not done."""
    settled: NDArray[np.bool_]
    """[S], the seeds of which every run has come to its end; of a sequence, before the first gap.
    A run that failed has, for an effect; not for an interaction or a share."""
    used: NDArray[np.bool_]
    """[S], the settled seeds with which every run is done; the others are left out."""
    judged: bool
    """Whether there are enough seeds for a verdict."""
    verdict: Verdict
    """Of the rule alone: HELPS, HURTS, NEGLIGIBLE or UNDECIDED."""
    within: bool
    """Whether it is smaller than the margin, at the error rate of the verdicts."""
    p: float
    adjusted: float
    mean: float
    sd: float
    """The spread that is reckoned with, shared or its own."""
    gain: float
    """Its degrees of freedom over n - 1: more than 1 where it is shared."""
    low: float
    high: float
    smallest: float
    """The smallest effect that this many seeds could show."""
    needed: float
    """The seeds it would probably take to decide, in all."""
    fewest: float
    """The same if the spread is as small as it may well be, and `most` if it is as large."""
    most: float


def estimate(
    plan: Plan,
    scores: Array,
    failed: NDArray[np.bool_] | None = None,
    samples: Mapping[str, float | None] | None = None,
) -> list[Estimate]:
    """Compute what the scores say about each contrast, in the plan's order.

    A seed with which a run of an effect failed is left out of that effect. If runs fail as often,
    and for the same reasons, with a trick as without it, then what is left is as fair as before:
    the two runs of a pair change places without notice, also among the pairs of which both are
    done. A trick that failed itself may look better than it is; `verdicts` sees to that.

    Args:
        plan: The plan.
        scores: [variants, seeds], NaN where a run is not done.
        failed: [variants, seeds], the runs that failed by themselves, and count as ended.
        samples: For each setting how many test samples the scores are counted on, if it is known.
    """
    question, weights = plan.question, _weights(plan)
    values, lost = _contrast(plan, weights, scores, failed)
    least = np.array([min(map(abs, contrast.weights.values())) for contrast in plan.contrasts])
    step = find_steps(plan, scores, samples) * least
    there: NDArray[np.bool_] = ~np.isnan(values)
    settled = there | lost
    if question.grows:
        settled = np.logical_and.accumulate(settled, axis=1)
    used = settled & there
    lengths = used.sum(1)
    enough = settled.sum(1) >= (FEWEST_SEEDS if question.grows else len(plan.seeds))
    judged = enough & (lengths >= FEWEST_SEEDS)
    found = {name: np.full(len(values), 1.0 if name == "gain" else np.nan) for name in NUMBERS}
    verdicts = np.full(len(values), Verdict.UNDECIDED, object)
    within = np.zeros(len(values), bool)
    for kind in ("effect", "interaction", "share"):
        some = np.flatnonzero([contrast.kind == kind for contrast in plan.contrasts])
        if not there[some].any():  # before the first runs, which need not wait for scipy.stats
            continue
        settings = [plan.contrasts[place].setting for place in some]
        sharing = find_sharing(weights[some], settings) if question.shares else None
        of_kind = np.where(used[some], values[some], np.nan)
        described = _describe(question, of_kind, step[some], sharing, kind != "share")
        for name, column in described.items():
            found[name][some] = column
        if kind != "share":
            margin = question.margin if kind == "effect" else 0.0
            counted = np.where(judged[some, None], of_kind, np.nan)
            decision = _decide(question, counted, settled[some], margin, step[some], sharing)
            verdicts[some], found["p"][some], found["adjusted"][some], within[some] = decision
    undecided = judged & (verdicts == Verdict.UNDECIDED)
    found |= _more_seeds(plan, found, lengths, undecided, step)
    return [
        Estimate(
            values=values[row],
            settled=settled[row],
            used=used[row],
            judged=bool(judged[row]),
            verdict=Verdict(verdicts[row]),
            within=bool(within[row]),
            **{name: float(column[row]) for name, column in found.items()},
        )
        for row in range(len(values))
    ]


NUMBERS = (
    *("p", "adjusted", "mean", "sd", "gain", "low", "high"),
    *("smallest", "needed", "fewest", "most"),
)


def _decide(
    question: Question,
    values: Array,
    settled: NDArray[np.bool_],
    margin: float,
    step: Array,
    sharing: Sharing | None,
) -> Decision:
    """Decide by the rule that was settled before the first run."""
    if question.until == "looks":
        rule = question.looks, margin, step, sharing
        return conclude(paired_tests_at_looks(values, settled, *rule), margin, question.alpha)
    sequential = question.until == "decided"
    packed = _packed(values) if sequential else values
    return decide(packed, margin, question.alpha, sequential, step, sharing)


def _packed(values: Array) -> Array:
    """Move the seeds that are left out behind the others, as a sequence ends at the first NaN."""
    order = np.argsort(np.isnan(values), axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1)


def _describe(
    question: Question, values: Array, step: Array, sharing: Sharing | None, tested: bool
) -> dict[str, Array]:
    """Compute `NUMBERS`, but for the p-values, of all contrasts of a kind, [some, S]."""
    own, sequential = moments(values), question.until == "decided"
    shared = share(own, sharing) if sharing is not None else own
    each = question.alpha / max(1, len(question.looks))
    sd, _, low, high = t_test(shared, each, step)
    if sequential:
        low, high = confidence_sequence(shared, question.alpha, step)
    gain = np.where(own.n >= 2, shared.df / np.maximum(own.n - 1, 1), 1.0)
    found = {"mean": own.mean, "sd": sd, "gain": gain, "low": low, "high": high}
    if tested:
        found["smallest"] = _smallest(shared._replace(sd=sd), each / len(values), sequential)
    return found


def _smallest(found: Moments, alpha: float, sequential: bool) -> Array:
    """The smallest effect that as many seeds could show; of equal numbers of them at once."""
    smallest = np.full(found.mean.shape, np.nan)
    kinds = np.stack([found.n, found.df], -1)
    for n, df in {(int(n), float(df)) for n, df in kinds if n >= 1}:
        some = (found.n == n) & (found.df == df)
        rule = alpha, sequential
        gain = df / max(1, n - 1)
        smallest[some] = smallest_effect(n, found.sd[some], *rule, gain=gain)
    return smallest


def _more_seeds(
    plan: Plan,
    numbers: Mapping[str, Array],
    lengths: NDArray[np.int_],
    undecided: NDArray[np.bool_],
    step: Array,
) -> dict[str, Array]:
    """Forecast the seeds that would decide what is undecided, [C]; see `forecast_seeds`."""
    question = plan.question
    effects = np.array([contrast.kind == "effect" for contrast in plan.contrasts])
    found = {name: np.full(len(lengths), np.nan) for name in Forecast._fields}
    alpha = question.alpha / max(1, effects.sum()) / max(1, len(question.looks))
    sequential = question.until == "decided"
    for n in set(lengths[undecided & effects].tolist()):
        some = np.flatnonzero(undecided & effects & (lengths == n))
        mean, sd, gain = (numbers[name][some] for name in ("mean", "sd", "gain"))
        rule = question.margin, alpha, sequential, step[some], gain
        forecast = forecast_seeds(mean, sd, sd / n**0.5, n, *rule)
        for name, column in forecast._asdict().items():
            found[name][some] = column
    return found


def shares_spreads(plan: Plan) -> bool:
    """Say whether any effect's spread may be partly that of others, with the seeds there are."""
    some = [place for place, c in enumerate(plan.contrasts) if c.kind == "effect"]
    if not (plan.question.shares and some):
        return False
    sharing = find_sharing(_weights(plan)[some], [plan.contrasts[place].setting for place in some])
    return sharing is not None and gain_of(sharing, len(plan.seeds)) > 1


def _weights(plan: Plan) -> sparse.csr_array:
    """The weight of each variant in each contrast, turned so that more is better, [C, V]."""
    at = {variant: index for index, variant in enumerate(plan.variants)}
    cells = [
        (row, at[variant], weight)
        for row, contrast in enumerate(plan.contrasts)
        for variant, weight in contrast.weights.items()
    ]
    rows, columns, weights = (np.array(each) for each in zip(*cells, strict=True))
    sign = 1.0 if plan.question.goal == "maximize" else -1.0
    shape = len(plan.contrasts), len(plan.variants)
    return sparse.csr_array((sign * weights, (rows, columns)), shape)


def _contrast(
    plan: Plan, weigh: sparse.csr_array, scores: Array, failed: NDArray[np.bool_] | None
) -> tuple[Array, NDArray[np.bool_]]:
    """The value of each contrast under each seed, [C, S]; and what was lost.

    A seed is lost to an effect, [C, S], if some of its runs failed, and all others are done.
    """
    values = weigh @ np.nan_to_num(scores)
    exact = abs(weigh) @ np.nan_to_num(np.abs(scores))
    values = np.where(np.abs(values) < NOTHING * exact, 0.0, values)
    missing = np.isnan(scores)
    gaps = abs(weigh) @ missing
    ended = ~missing if failed is None else ~missing | failed
    effects = np.array([contrast.kind == "effect" for contrast in plan.contrasts])
    lost = (abs(weigh) @ ~ended == 0) & (gaps > 0) & effects[:, None]
    return np.where(gaps > 0, np.nan, values), lost
