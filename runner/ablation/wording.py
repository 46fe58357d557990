"""The reason for a verdict, in a few plain words."""

from collections.abc import Iterable, Mapping, Sequence

from runner.ablation.decide import Verdict
from runner.ablation.designs import BASELINE
from runner.ablation.plan import Question

BAD = ("failed", "diverged")
"""The states of runs that failed. A damaged run is not one of them: it counts as missing, and is no
evidence against a trick."""

SHARES = ("accuracy", "shift_consistency")
"""Ends of the names of metrics from 0 to 1, which are shown in percentage points."""

LISTED = 5  # seeds listed by name


def is_share(metric: str) -> bool:
    """Tell whether a metric is a share, such as an accuracy, and shown in percent."""
    return metric.endswith(SHARES)


def difference(value: float, metric: str, sign: str = "+") -> str:
    """Write a difference, `+0.42` percentage points of a share; zero has no sign."""
    text = f"{100 * value:{sign}.2f}" if is_share(metric) else f"{value:{sign}.3g}"
    return text if text.strip("+-0.") else text.lstrip("+-")


def with_unit(value: float, metric: str) -> str:
    """Write the size of a difference with its unit: `0.5 points`, or `0.01`."""
    return f"{100 * value:.3g} points" if is_share(metric) else f"{value:.3g}"


def amount(mean: float, question: Question) -> str:
    """Write a mean difference: `+0.84 points`, or `0.012 lower` where less is better."""
    points = " points" if is_share(question.metric) else ""
    if question.goal == "maximize":
        return difference(mean, question.metric) + points
    size = difference(abs(mean), question.metric, sign="") + points
    return f"{size} {'lower' if mean > 0 else 'higher'}" if mean else "no difference"


def sure(verdict: Verdict, mean: float, low: float, high: float, question: Question) -> str:
    """Say what is certain, and how large it is."""
    margin = with_unit(question.margin, question.metric)
    text, side = amount(mean, question), "above" if verdict is Verdict.HELPS else "below"
    if verdict is Verdict.NEGLIGIBLE:
        return f"{text}, surely less than {margin} either way"
    text += ", surely" + (f" {side} 0" if question.goal == "maximize" else "")
    small = question.margin > 0 and -question.margin < low and high < question.margin
    return f"{text}, but less than {margin}" if small else text


def undecided(more: float) -> str:
    """Say how many more seeds it would probably take; NaN: more than were considered."""
    if more != more:
        return "more than 1000 more seeds"
    return f"about {int(more)} more {'seed' if more == 1 else 'seeds'}"


def seeds_so_far(count: int, planned: int | None) -> str:
    """Say how many seeds are complete; `planned` is None for a sequence."""
    if planned is None or count == planned:
        return ("no seeds so far", "one seed: no interval, no verdict", _TWO)[count]
    return f"{count} of {planned} seeds so far"


_TWO = "two seeds: an interval, no verdict"


def with_seeds(seeds: Iterable[int]) -> str:
    """Write `with seed 3`, `with seeds 1, 2` or `with 12 seeds`."""
    named = [str(seed) for seed in seeds]
    if len(named) > LISTED:
        return f"with {len(named)} seeds"
    return f"with {'seed' if len(named) == 1 else 'seeds'} {', '.join(named)}"


def went_wrong(bad: Mapping[str, set[str]], seeds: Iterable[int]) -> str:
    """Write `diverged with seed 3`, or `failed or diverged with seeds 1, 2`, of some variants."""
    said = [state for state in BAD if state in set().union(*bad.values())]
    return f"{' or '.join(said)} {with_seeds(seeds)}"


def without_it(variants: Sequence[str]) -> str:
    """Name the variants without a trick."""
    if len(variants) > 1:
        return f"{len(variants)} variants without it"
    return "the baseline" if variants[0] == BASELINE else variants[0]
