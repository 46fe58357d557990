"""The reason for a verdict, in a few plain words."""

from collections.abc import Iterable, Mapping, Sequence

from runner.ablation.decide import Verdict
from runner.ablation.designs import BASELINE
from runner.ablation.plan import Plan, Question
from runner.ablation.tuning import join, measure_of

BAD = ("failed", "diverged")
"""The states of runs that failed. A damaged run is not one of them: it counts as missing."""

SHARES = ("accuracy", "shift_consistency", "macro_f1", "calibration_error")
"""Ends of the names of metrics from 0 to 1, which are shown in percentage points."""

SCORED = (Verdict.HELPS, Verdict.HURTS, Verdict.NEGLIGIBLE)
"""The verdicts that rest on the scores."""

ENOUGH = 5
"""Seeds; a verdict of fewer rests on the scores being normal, and is marked."""

SAME_WEIGHTS = (
    "it changed nothing: with every seed the weights and predictions equal those without it"
)

LISTED = 5  # seeds listed by name


EQUAL = {"epochs": "equal epochs", "multiply_adds": "equal multiply-adds", "time": "equal time"}
"""What `ablation.at` holds equal."""


def is_share(metric: str) -> bool:
    """Whether a metric is a share, such as an accuracy, and shown in percent."""
    return metric.endswith(SHARES)


def difference(value: float, metric: str, sign: str = "+") -> str:
    """Write a difference, `+0.42` percentage points of a share; zero has no sign."""
    text = f"{100 * value:{sign}.2f}" if is_share(metric) else f"{value:{sign}.3g}"
    return text if text.strip("+-0.") else text.lstrip("+-")


def with_unit(value: float, metric: str) -> str:
    """Write the size of a difference with its unit: `0.5 points`, or `0.01`."""
    if not is_share(metric):
        return f"{value:.3g}"
    points = f"{100 * value:.3g}"
    return f"{points} point" if points == "1" else f"{points} points"


def amount(mean: float, question: Question) -> str:
    """Write a mean difference: `+0.84 points`, or `0.012 lower` where less is better."""
    points = " points" if is_share(question.metric) else ""
    if question.goal == "maximize":
        return difference(mean, question.metric) + points
    size = difference(abs(mean), question.metric, sign="") + points
    return f"{size} {'lower' if mean > 0 else 'higher'}" if mean else "no difference"


def found(verdict: Verdict, mean: float, within: bool, seeds: int, question: Question) -> str:
    """Say what HELPS, HURTS or NEGLIGIBLE means here, and what it rests on."""
    text, margin = amount(mean, question), with_unit(question.margin, question.metric)
    if verdict is Verdict.NEGLIGIBLE:
        rare = 100 * (1 - question.alpha ** (1 / seeds))
        text += f", less than {margin} either way; {seeds} seeds do not exclude collapses in up to "
        text += f"{rare:.0f} % of runs"
    else:
        text += ", more than chance" + (f", but less than {margin}" if within else "")
    if seeds < ENOUGH:
        text += f"; {('three', 'four')[seeds - 3]} seeds only: it assumes normal scores"
    return text


def undecided(fewest: float, most: float, what: str = "seed") -> str:
    """Say how many more it may well take, from the fewest to the most; NaN: over 1000."""
    if fewest != fewest:
        return f"more than 1000 more {what}s"
    if most != most:
        return (
            f"{int(fewest)} more {what}s or many more" if fewest > 1 else f"one more {what} or many"
        )
    ends = sorted({int(fewest), int(most)})
    return f"about {' to '.join(map(str, ends))} more {what}{'s' * (ends != [1])}"


def seeds_so_far(count: int, planned: int | None) -> str:
    """Say how many seeds are complete; `planned` is None for a sequence."""
    if planned is None or count == planned:
        return (
            "no seeds so far",
            "one seed: no interval, no verdict",
            "two seeds: an interval, no verdict",
        )[count]
    return f"{count} of {planned} seeds so far"


def seeds_left(count: int) -> str:
    """Say with how few seeds a difference could be taken."""
    return ("no seed remains", "one seed remains", "two seeds remain")[count]


def with_seeds(seeds: Iterable[int]) -> str:
    """Write `with seed 3`, `with seeds 1, 2` or `with 12 seeds`."""
    named = [str(seed) for seed in seeds]
    if len(named) > LISTED:
        return f"with {len(named)} seeds"
    return f"with {'seed' if len(named) == 1 else 'seeds'} {', '.join(named)}"


def in_words(states: Iterable[str]) -> str:
    """Write `diverged`, or `failed or diverged`."""
    return " or ".join(state for state in BAD if state in states)


def failures(
    with_it: Mapping[str, int], without_it: Mapping[str, int], runs: int, reference: Sequence[str]
) -> str:
    """Write `1 of 5 diverged (baseline 0 of 5)`."""
    other = reference[0] if len(reference) == 1 else "without it"
    count, others = sum(with_it.values()), sum(without_it.values())
    return f"{count} of {runs} {in_words(with_it)} ({other} {others} of {runs})"


def not_proven(seeds: int, needed: int, effects: int) -> str:
    """Say that so few seeds can never show that failures are more than chance."""
    among = f" among {effects} effects" if effects > 1 else ""
    had = "one seed" if seeds == 1 else f"{seeds} seeds"
    return f": {had} cannot prove it broken{among}, {needed} can if it always fails"


def left_out(seeds: Sequence[int], states: Iterable[str], runs: int, who: Sequence[str]) -> str:
    """Say which seeds were left out, where runs without it failed and none with it did."""
    there = "there" if len(seeds) == 1 else "with them"
    none = f"with it none of {runs} runs did"
    return f"left out {with_seeds(seeds)[5:]}: {without_it(who)} {in_words(states)} {there}, {none}"


def ended_outside(causes: Mapping[str, str]) -> str:
    """Write which run the machine ended, that this is no evidence, and what to do."""
    (run, cause), more = next(iter(causes.items())), len(causes) - 1
    others = f", and {more} more runs were ended" if more > 1 else ""
    others = ", and one more run was ended" if more == 1 else others
    return f"{run} {cause}{others}, which is not evidence: give the same command again"


def idle(seeds: Sequence[int], always: bool, differ: bool) -> str:
    """Say what the trick reports of itself, where the weights do not bear it out."""
    if not always:
        return f"by its own count inactive {with_seeds(seeds)}"
    known = "but the weights differ" if differ else "but not all weights are there to compare"
    return f"by its own count it never acted, {known}"


def without_it(variants: Sequence[str]) -> str:
    """Name the variants without a trick."""
    if len(variants) > 1:
        return f"{len(variants)} variants without it"
    return "the baseline" if variants[0] == BASELINE else variants[0]


def tuning(plan: Plan) -> str | None:
    """Say how the variants were tuned before; None if they were not."""
    if not plan.tuned:
        return None
    seeds = max((tuned.seeds for tuned in plan.tuned.values()), key=len)
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    trials = max(tuned.trials for tuned in plan.tuned.values())
    measure = measure_of(plan.question.metric, plan.question.goal)[0].replace("/", " ")
    return (
        f"Each variant was tuned before it was judged: {trials} trials with {which}, chosen by "
        f"{measure}. The verdicts rest on other seeds."
    )


def tuned_apart(mean: float, keys: Sequence[str], plan: Plan) -> str:
    """Say why there is no verdict on variants that were tuned to other values of a setting."""
    return (
        f"{amount(mean, plan.question)}, but they were tuned to other values of {join(keys)}, and "
        "the luck of that choice may be all of it"
    )
