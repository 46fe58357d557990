"""Runs without common seeds: two groups of scores, judged by Welch's t with few degrees of freedom.

The rule of `decide` concludes from these tests as it does from paired ones;
`benchmarks/unpaired.py` measures its error rates.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from runner.ablation import wording
from runner.ablation.decide import Tests, Verdict, adjust, conclude
from runner.ablation.designs import Contrast
from runner.ablation.effects import known
from runner.ablation.plan import Plan, Question
from runner.ablation.power import Forecast, forecast_seeds, smallest_effect
from runner.ablation.sampling import find_step
from runner.ablation.scores.cells import Score
from runner.ablation.statistics import FEWEST_SEEDS, SAME, Array, spread
from runner.ablation.verdicts import Finding


class Welch(NamedTuple):
    """Two groups compared, for each of K effects; every array is [..., K]."""

    mean: Array
    """The difference of the means."""
    sd: Array
    """The spread of a difference of two runs, one of each group."""
    error: Array
    """The standard error of the mean difference."""
    df: Array
    """The runs of the smaller group, less one."""
    tests: Tests


def welch(
    with_it: ArrayLike, without_it: ArrayLike, margin: float = 0.0, step: float = 0.0
) -> Welch:
    """Test whether two means are equal, and whether they differ by the margin or more.

    t = (mean_1 - mean_0) / sqrt(s_1^2 / n_1 + s_0^2 / n_0), with the degrees of freedom of the
    smaller group, n - 1: with these it is never too sure, whatever the two spreads are, if scores
    are normal (Mickey and Brown, Annals of Mathematical Statistics, 1966). Satterthwaite's, which
    Welch's test has usually, are more, and err with unequal numbers: of ten tricks with 3 runs
    each, against a baseline with 10, up to 19 % of families had a false verdict at a nominal 5 %.
    Of the larger group at most twice as many runs count in n_1 or n_0 as the smaller one has, since
    with skewed scores the means of unequal numbers do not balance.

    As in `spread`, rounding adds step^2 / 12 to each variance, and against a margin that of the
    mean difference is at least that of a count of margin / step errors in the smaller group.

    The p-values are NaN where a group has fewer than three runs, or all its scores are the same
    and multiples of nothing: that says nothing about the spread.

    Args:
        with_it: [..., K, N], the scores of each effect's runs; NaN fills up.
        without_it: [..., M], those of the baseline, likewise.
        margin: The smallest difference that matters; 0 if every one does.
        step: What the scores are multiples of; 0 if of nothing.
    """
    n, means, variances = _moments(np.asarray(with_it, float), step)
    n0, mean0, variance0 = (
        each[..., None] for each in _moments(np.asarray(without_it, float), step)
    )
    fewest = np.minimum(n, n0)
    mean = np.asarray(means - mean0)
    counted = (np.maximum(np.minimum(one, 2 * other), 1) for one, other in ((n, n0), (n0, n)))
    error = np.sqrt(variances / next(counted) + variance0 / next(counted))
    against = np.sqrt(np.maximum(error**2, margin * step / np.maximum(fewest, 1)))
    known = (fewest >= FEWEST_SEEDS) & (variances > 0) & (variance0 > 0)
    df = np.where(fewest > 1, fewest - 1.0, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = 2 * scipy.stats.t.sf(np.abs(mean) / error, df)
        within = scipy.stats.t.sf((margin - np.abs(mean)) / against, df)
    if margin <= 0:
        within = np.full(mean.shape, np.nan)
    tests = Tests(mean, np.where(known, zero, np.nan), np.where(known, within, np.nan))
    return Welch(mean, np.sqrt(variances + variance0), error, df, tests)


def _moments(scores: Array, step: float) -> tuple[NDArray[np.int_], Array, Array]:
    """Count, mean and variance over the last axis, without NaN; the variance with rounding's."""
    there = ~np.isnan(scores)
    n = there.sum(-1)
    filled = np.where(there, scores, 0.0)
    mean = filled.sum(-1) / np.maximum(n, 1)
    squares = np.where(there, (filled - mean[..., None]) ** 2, 0.0).sum(-1)
    sd = np.sqrt(squares / np.maximum(n - 1, 1))
    sd = np.where(sd <= SAME * np.abs(filled).max(-1, initial=0.0), 0.0, sd)
    known = np.where(n > 1, spread(sd, step / 2**0.5) ** 2, np.nan)
    return n, np.where(n > 0, mean, np.nan), known


def failure_p(group: "Group", own: "Group") -> float:
    """Test whether runs fail more often in a group than in the baseline's: Fisher's exact test.

    One-sided; NaN where either has fewer than three runs that ended.
    """
    if min(group.ended, own.ended) < FEWEST_SEEDS:
        return np.nan
    failed, others = sum(group.failed.values()), sum(own.failed.values())
    p = float(
        scipy.stats.hypergeom.sf(failed - 1, group.ended + own.ended, failed + others, group.ended)
    )
    return round(p, 12) if p > 1e-9 else p


NEEDS_SEEDS = "unpaired: to add runs until all is decided, give them the baseline's seeds"


class Group:
    """The runs of a variant."""

    def __init__(self, rows: Sequence[Score]) -> None:
        states = Counter(row.state for row in rows)
        self.scores = [row.value for row in rows if row.state == "done"]
        self.failed = {state: states[state] for state in wording.BAD if states[state]}
        self.unfinished = states["killed"] + states["running"]
        self.ended = len(rows) - self.unfinished


def judge_groups(
    plan: Plan, rows: Mapping[str, Sequence[Score]], samples: float | None = None
) -> tuple[Finding, ...]:
    """Judge each variant of a plan against its first one, as two groups of runs.

    Args:
        plan: What is compared.
        rows: The runs of each variant.
        samples: How many test samples make a score of 1, if that is known.
    """
    question = plan.question
    own, *groups = (Group(rows[name]) for name in plan.variants)
    done = [score for group in (own, *groups) for score in group.scores]
    sign = 1.0 if question.goal == "maximize" else -1.0
    longest = max(len(group.scores) for group in groups)
    padded = [group.scores + [np.nan] * (longest - len(group.scores)) for group in groups]
    step = find_step(done, question.metric, samples)
    compared = welch(sign * np.array(padded), sign * np.array(own.scores), question.margin, step)
    decision = conclude(compared.tests, question.margin, question.alpha)
    p = np.array([failure_p(group, own) for group in groups])
    forecasts = _forecasts(question, compared, step)
    return tuple(
        _finding(
            *(question, contrast, group, own),
            {
                **{name: known(each[at]) for name, each in forecasts.items()},
                "mean": known(compared.mean[at]),
                "verdict": Verdict(decision.verdict[at]),
                "within": bool(decision.within[at]),
                "p_value": known(decision.p[at]),
                "adjusted": known(decision.adjusted[at]),
                "failure_p": known(p[at]),
                "failure_adjusted": known(adjusted),
            },
        )
        for at, (contrast, group, adjusted) in enumerate(
            zip(plan.contrasts, groups, adjust(p, p).tolist(), strict=True)
        )
    )


def _forecasts(question: Question, compared: Welch, step: float) -> dict[str, Array]:
    """Give the interval, the smallest effect that would show, and the runs that would decide.

    These are those of pairs of the smaller group's number, whose degrees of freedom are the same.
    """
    mean, sd, n = compared.mean, compared.sd, compared.df + 1
    alpha = question.alpha / len(mean)
    half = scipy.stats.t.isf(question.alpha / 2, compared.df) * compared.error
    found = {"low": mean - half, "high": mean + half}
    found |= {name: np.full(mean.shape, np.nan) for name in ("smallest", *Forecast._fields)}
    pair = compared.error * np.sqrt(n)  # the spread that so many pairs would have
    open_ones = ~np.isnan(compared.tests.p_zero)
    for count in {*n[open_ones].tolist()}:
        some = np.flatnonzero(open_ones & (n == count))
        found["smallest"][some] = smallest_effect(int(count), pair[some], alpha)
        numbers = mean[some], sd[some], compared.error[some], int(count)
        forecast = forecast_seeds(*numbers, question.margin, alpha, step=step)
        for name, column in forecast._asdict().items():
            found[name][some] = column
    return found


def _finding(
    question: Question, contrast: Contrast, group: Group, own: Group, numbers: Mapping[str, Any]
) -> Finding:
    """Judge one variant, by its failures and by the numbers."""
    n = min(len(group.scores), len(own.scores))
    verdict, reason = _verdict(question, contrast, group, own, numbers)
    ends = [
        None if numbers[k] is None else int(numbers[k]) - n for k in ("needed", "fewest", "most")
    ]
    forecast = verdict is Verdict.UNDECIDED and not group.failed and ends[1] is not None
    interval = numbers["low"], numbers["high"]
    return Finding(
        contrast=contrast,
        verdict=verdict,
        reason=reason,
        differences={},
        seeds=n,
        unpaired=(len(group.scores), len(own.scores)),
        open=verdict in (Verdict.UNDECIDED, Verdict.NONE),
        mean=numbers["mean"],
        interval=None if None in interval else interval,
        p_value=numbers["p_value"],
        adjusted=numbers["adjusted"],
        smallest_effect=numbers["smallest"],
        within_margin=numbers["within"] and verdict in wording.SCORED,
        more_seeds=ends[0] if forecast else None,
        more_seeds_range=(ends[1] or 0, ends[2]) if forecast else None,
        failures=group.failed,
        failures_without=own.failed,
        failure_p=numbers["failure_p"],
        failure_adjusted=numbers["failure_adjusted"],
    )


def _verdict(
    question: Question, contrast: Contrast, group: Group, own: Group, numbers: Mapping[str, Any]
) -> tuple[Verdict, str]:
    """Judge one variant, with the reason in words."""
    baseline = next(name for name, weight in contrast.weights.items() if weight < 0)
    failed = f"{sum(group.failed.values())} of {group.ended} {wording.in_words(group.failed)} "
    failed += f"({baseline} {sum(own.failed.values())} of {own.ended})"
    n, others = len(group.scores), len(own.scores)
    sizes = f"{n} {'run' if n == 1 else 'runs'} against {others}"
    if (numbers["failure_adjusted"] or 1) <= question.alpha:
        return Verdict.BROKEN, failed
    if question.until == "decided":
        return Verdict.NONE, NEEDS_SEEDS
    if unfinished := group.unfinished + own.unfinished:
        return Verdict.NONE, f"{unfinished} of its runs and the baseline's are unfinished"
    if min(len(group.scores), len(own.scores)) < FEWEST_SEEDS:
        return Verdict.NONE, f"{sizes}: at least three of each are needed"
    verdict, n = numbers["verdict"], min(len(group.scores), len(own.scores))
    if group.failed and verdict is not Verdict.HURTS:
        return Verdict.UNDECIDED, failed
    if verdict is not Verdict.UNDECIDED:
        found = wording.found(verdict, numbers["mean"], numbers["within"], n, question)
        return verdict, f"{found}; {sizes}"
    if numbers["p_value"] is None:
        return verdict, "the same score in all runs of one side: no spread to judge by"
    fewest, most = (np.nan if numbers[e] is None else numbers[e] - n for e in ("fewest", "most"))
    return verdict, f"{wording.undecided(fewest, most, 'run')} of each; {sizes}"
