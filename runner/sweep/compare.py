"""Which design finds most for the same number of runs; for the dry run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from scipy import sparse

from runner.ablation.designs import Contrast, design
from runner.ablation.plan import Plan, Question
from runner.ablation.power import smallest_effect
from runner.ablation.sharing import find_sharing, gain_of
from runner.ablation.statistics import FEWEST_SEEDS
from runner.errors import UserError

ANSWERS = {
    "one_at_a_time": "each alone, against the baseline",
    "fractional": "averaged over the others, on and off; assumes that no three interact",
    "factorial": "averaged over the others, on and off",
}
"""The designs that are compared, and what their effects are."""

MOST = 2.0
"""A design is shown that takes up to so many times the runs of the plan."""
SAME = 1.25
"""One that takes up to so many times the runs may be recommended."""


@dataclass(frozen=True)
class Option:
    """A design for the same question, with as many seeds as come nearest to the runs."""

    design: str
    seeds: int
    runs: int
    shared: float
    """The smallest effect, in standard deviations of a run's score, where spreads are shared."""
    own: float
    """The same where each effect has its own."""


def smallest(contrasts: Sequence[Contrast], settings: int, seeds: int, question: Question) -> float:
    """Give the smallest effect that is found 80 times in 100, in standard deviations of a score.

    What all runs of a seed have in common cancels, and does not count in that standard deviation.

    Args:
        contrasts: The effects in one setting; the largest of their values is given.
        settings: In how many settings they are asked: all share alpha.
        seeds: In all.
        question: The rule.
    """
    variants = dict.fromkeys(name for contrast in contrasts for name in contrast.weights)
    names = {name: place for place, name in enumerate(variants)}
    weights = np.zeros((len(contrasts), len(names)))
    for row, contrast in zip(weights, contrasts, strict=True):
        for name, weight in contrast.weights.items():
            row[names[name]] = weight
    sizes, gains = np.linalg.norm(weights, axis=1), np.ones(len(contrasts))
    if question.shares:
        sharing = find_sharing(sparse.csr_array(weights))
        if sharing and seeds >= sharing.fewest:
            gains = gains * gain_of(sharing, seeds)
    alpha = question.alpha / (len(contrasts) * settings) / max(1, len(question.looks))
    sequential = question.until == "decided"
    found = {
        (size, more): float(smallest_effect(seeds, size, alpha, sequential, gain=more))
        for size, more in {*zip(sizes.tolist(), gains.tolist(), strict=True)}
    }
    return max(found.values())


def compare(plan: Plan) -> list[Option]:
    """Give the designs that ask what the plan asks, at about as many runs; [] if it has no other.

    Each with at least three seeds; of a plan that adds seeds, with those that it may have at last.
    """
    question, settings = plan.question, len(plan.settings())
    if question.design not in ANSWERS or len(plan.judged) < 2:
        return []
    seeds = question.most_seeds if question.grows else len(plan.seeds)
    total, found = seeds * len(plan.variants), []
    for name in ANSWERS:
        if name == "factorial" and prod(len(f.levels) for f in plan.judged) > total:
            continue
        try:
            laid_out = design(name, plan.judged)
        except UserError:
            continue  # it cannot take these factors
        variants = settings * len(laid_out.variants)
        own = seeds if name == question.design else max(FEWEST_SEEDS, round(total / variants))
        if own * variants > MOST * total:
            continue
        effects = [contrast for contrast in laid_out.contrasts if contrast.kind == "effect"]
        both = [
            smallest(effects, settings, own, replace(question, spread=spread))
            for spread in ("shared", "own")
        ]
        found.append(Option(name, own, own * variants, *both))
    return found if len(found) > 1 else []


def describe_designs(plan: Plan) -> list[str]:
    """Write what the other designs would find, and which to take; nothing if there is no other."""
    options, question = compare(plan), plan.question
    if not options:
        return []
    both = question.until != "decided"  # where a spread can be shared
    seeds = "seeds at most" if question.grows else "seeds"
    width = max(len(option.design) for option in options)
    spreads = ", with a shared spread and with each effect's own" if both else ""
    lines = [
        "",
        "The smallest effect that other designs find with about as many runs, in standard "
        f"deviations of a run's score{spreads}:",
    ]
    for o in options:
        numbers = f"{o.shared:5.2f} {o.own:5.2f}" if both else f"{o.own:5.2f}"
        text = f"{o.seeds:3} {seeds} {o.runs:5} runs {numbers}  {ANSWERS[o.design]}"
        lines.append(f"  {o.design:<{width}}  {text}")
    now = next(option for option in options if option.design == question.design)

    def size(option: Option) -> float:
        return option.shared if question.spread == "shared" else option.own

    best = min((o for o in options if o.runs <= SAME * now.runs), key=size)
    if size(best) >= size(now):
        return [*lines, f"{now.design} finds the smallest, of those with about as many runs."]
    key = "ablation.most_seeds" if question.grows else "ablation.seeds"
    more = f"{best.design} finds the smallest: ablation={best.design} {key}={best.seeds}."
    return [*lines, f"{more} Its effects mean something else: {ANSWERS[best.design]}."]
