"""The dry run: the runs of an ablation, their time, and the smallest effect they could show."""

import time
from itertools import islice
from pathlib import Path

from omegaconf import OmegaConf

from runner.ablation.plan import Plan
from runner.ablation.power import POWER, smallest_effect
from runner.ablation.wording import ENOUGH
from runner.build import Bench, build
from runner.config import check
from runner.store.runs import read_run

MOST_SECONDS = 60.0  # spent on measuring; the variants left then get the mean of the others
UPDATES = 3  # that are timed, after one that is not
LARGE, MOST_SEEDS = 1.5, 1000  # standard deviations; seeds that are considered


def describe(root: Path, plan: Plan, workers: int) -> list[str]:
    """Write what the runs are, what they would take, and the smallest effect they could show.

    Args:
        root: The ablation's folder; nothing is written there.
        plan: The plan.
        workers: Runs at once.

    Raises:
        UserError: If a variant cannot be built.
    """
    lines = [f"{plan.name}: {plan.question.design}, {len(plan.variants)} variants", ""]
    seconds, width = measure(plan), max(map(len, plan.variants))
    for variant in plan.variants:
        changes = ", ".join(f"{k}={v}" for k, v in plan.changes[variant].items())
        took = f"{seconds[variant]:8.1f} s a run" if variant in seconds else ""
        lines.append(f"  {variant:<{width}}  {took}  {changes or 'as the config has it'}")
    seeds = ", ".join(map(str, plan.seeds))
    total, left = len(plan.seeds) * len(plan.variants), runs_left(root, plan)
    rest = sum(seconds[variant] for variant, _ in left)
    lines += [
        "",
        f"{total} runs, seed by seed: {seeds}; {total - len(left)} are done",
        f"about {_duration(rest / workers)} for the other {len(left)}, {workers} at once "
        f"(training only, estimated from {UPDATES} updates of each variant)",
        *_power(plan),
        "",
        "Nothing was run or written. Drop ablation.dry_run=true to start.",
    ]
    return lines


def measure(plan: Plan) -> dict[str, float]:
    """Time some updates of each variant: the seconds of a whole run's training."""
    start, seconds = time.perf_counter(), dict[str, float]()
    for variant in plan.variants:
        if time.perf_counter() - start > MOST_SECONDS:
            seconds[variant] = sum(seconds.values()) / len(seconds)
            continue
        config = OmegaConf.create(plan.config_of(variant, plan.seeds[0]))
        bench = build(check(config))
        seconds[variant] = _seconds_an_update(bench) * len(bench.batches) * int(config.epochs)
    return seconds


def _seconds_an_update(bench: Bench) -> float:
    marks, numbers = [], range(UPDATES + 1)  # an epoch may have fewer
    for batch in islice((b for n in numbers for b in bench.batches.epoch(n)), UPDATES + 1):
        bench.training.step(batch)
        marks.append(time.perf_counter())
    return (marks[-1] - marks[0]) / max(1, len(marks) - 1)


def runs_left(root: Path, plan: Plan) -> list[tuple[str, int]]:
    """Give back the variants and seeds of the runs to do; one that diverged would do so again."""
    return [
        (variant, seed)
        for seed, variant in plan.runs()
        if read_run(plan.folder(root, variant, seed), variant).state not in ("done", "diverged")
    ]


def _power(plan: Plan) -> list[str]:
    """The smallest effect, in standard deviations of the paired difference, which is not known."""
    effects = sum(contrast.kind == "effect" for contrast in plan.contrasts)
    if not effects:
        return []
    if len(plan.seeds) < 3:
        few = "an interval and no verdict" if len(plan.seeds) == 2 else "no interval, no verdict"
        return [f"{len(plan.seeds)} seeds give {few}. Use three or more: ablation.seeds=5."]
    grows = plan.question.until == "decided"

    def smallest(seeds: int) -> float:
        return float(smallest_effect(seeds, 1.0, plan.question.alpha / effects, grows))

    seeds = plan.question.most_seeds if grows else len(plan.seeds)
    found, power = smallest(seeds), f"(power {100 * POWER:.0f} %)"
    unit = "times the seed-to-seed standard deviation of the difference"
    weak = []
    if seeds < ENOUGH:
        weak = ["Verdicts of 3 or 4 seeds rest on normal scores. Better: ablation.seeds=5."]
    if found <= LARGE:
        return [f"With {seeds} seeds an effect of {found:.1f} {unit} can be found {power}.", *weak]
    enough = next((n for n in range(seeds, MOST_SEEDS) if smallest(n) <= LARGE), MOST_SEEDS)
    which = f"only very large effects can be found: {found:.1f} {unit} {power}"
    if found == float("inf"):
        which = "no effect can be found"
    return [f"With {seeds} seeds {which}. For {LARGE} times you need about {enough} seeds.", *weak]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
