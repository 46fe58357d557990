"""The dry run: the runs of an ablation, their time, and the smallest effect they could show."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from heapq import nlargest
from math import hypot
from pathlib import Path
from statistics import fmean

from runner.ablation.plan import Plan
from runner.ablation.power import POWER
from runner.ablation.statistics import FEWEST_SEEDS
from runner.ablation.tuning import TUNING, join
from runner.ablation.wording import ENOUGH
from runner.device import find_device
from runner.report.format import count
from runner.report.sentences import compared_at
from runner.store.runs import Run, read_run
from runner.sweep.compare import describe_designs, smallest
from runner.sweep.compiling import does_compiling_pay
from runner.sweep.cost import Trial, seconds, settings_of
from runner.sweep.disk import Files, on_disk, run_files
from runner.sweep.schedule import blocks, counts, in_blocks, wall_time
from runner.texts import size

EACH, MOST_SECONDS = 0.3, 60.0  # seconds that a variant is timed for, and all of them
LARGE, MOST_SEEDS = 1.5, 1000  # standard deviations; seeds that are considered


def describe(root: Path, plan: Plan, workers: int, trials: Plan | None = None) -> list[str]:
    """Write what the runs are, what they would take, and the smallest effect they could show.

    Args:
        root: The ablation's folder; nothing is written there.
        plan: The plan.
        workers: Runs at once.
        trials: Those that tune each variant before it is judged.

    Raises:
        UserError: If a variant cannot be built.
    """
    lines = [f"{plan.name}: {plan.question.design}, {len(plan.variants)} variants", ""]
    said = does_compiling_pay(plan, EACH)
    files: dict[str, Files] = {}

    def look(trial: Trial) -> None:
        files[trial.variant] = run_files(trial)

    costs, width = seconds(plan, EACH, MOST_SECONDS, look), max(map(len, plan.variants))
    took = {v: cost.epoch * plan.epochs_of(v) for v, cost in costs.items()}
    for variant in plan.variants:
        changed = ", ".join(f"{k}={v}" for k, v in plan.changes[variant].items())
        about = _length(plan, variant) + (changed or "as the config has it")
        lines.append(f"  {variant:<{width}}  {took[variant]:8.1f} s a run  {about}")
    lines += [line for text in compared_at(plan) for line in ("", text)]
    if trials:
        lines += ["", *_trials(root / TUNING, trials, took, workers)]
    seeds = ", ".join(map(str, plan.seeds))
    total, left = len(plan.seeds) * len(plan.variants), runs_left(root, plan)
    times = [took[variant] for variant, _ in left]
    lines += [
        "",
        f"{total} runs, seed by seed: {seeds}; {total - len(left)} are done",
        f"about {_duration(wall_time(times, workers))} for the other {len(left)}, {workers} at "
        "once (training only, estimated from some updates of each variant)",
        *_resources(plan, times, workers),
        *_files(files, total),
        *said,
        *_at_most(plan, [*took.values()], workers),
        *_power(plan),
        *describe_designs(plan),
        "",
        "Nothing was run or written. Drop ablation.dry_run=true to start.",
    ]
    return lines


def _resources(plan: Plan, times: Sequence[float], workers: int) -> Iterator[str]:
    """Write the core hours of runs, or the card hours, and the wall time of more workers."""
    if not times:
        return
    settings, hours = settings_of(plan, next(iter(plan.variants))), sum(times) / 3600
    if find_device(settings.device).type == "cuda":
        yield f"{_hours(hours)} card hours, with a card for each run"
    else:
        cores = int(settings.threads)
        yield f"{_hours(hours * cores)} core hours, with {count(cores, 'core')} for each run"
    yield "  workers       wall time    busy"
    for each in counts(workers, len(times)):
        wall = wall_time(times, each)
        yield f"  {each:7,}  {_duration(wall):>14}  {sum(times) / each / wall:6.0%}"


def _files(found: Mapping[str, Files], runs: int) -> Iterator[str]:
    """Write what a run writes, by the mean of the variants that were looked at, and all of them."""
    number, taken, whole = (
        fmean(each)
        for each in zip(
            *((len(f), sum(f.values()), on_disk(f.values())) for f in found.values()), strict=True
        )
    )
    largest = nlargest(3, next(iter(found.values())).items(), key=lambda pair: pair[1])
    named = ", ".join(f"{name} {size(bytes_)}" for name, bytes_ in largest)
    yield (
        f"a run leaves {number:.0f} files, about {size(taken)} ({named}); all {runs:,} runs "
        f"{runs * number:,.0f} files, {size(runs * whole)} of disk"
    )


def _at_most(plan: Plan, a_seed: Sequence[float], workers: int) -> list[str]:
    """Write how many seeds may follow, where they are added, and what all would take."""
    most = plan.question.most_seeds
    if not plan.question.grows or most <= len(plan.seeds):
        return []
    when = "after each one"
    if plan.question.looks:
        when = f"with {', '.join(map(str, plan.question.looks))} seeds"
    return [
        f"seeds are added to what is undecided, with a look {when}: {most * len(plan.variants)} "
        f"runs and {_duration(in_blocks(([*a_seed] * n for n in blocks(plan)), workers))} at most"
    ]


def _length(plan: Plan, variant: str) -> str:
    """Write what an epoch costs, as a multiple of the reference's, where that sets its length."""
    if plan.question.at == "epochs":
        return ""
    reference = plan.references()[variant]
    return f"x{plan.epochs_of(reference) / plan.epochs_of(variant):.2f} an epoch  "


def _trials(root: Path, trials: Plan, took: Mapping[str, float], workers: int) -> list[str]:
    """Write what the trials are, and what they would take."""
    runs, left = Counter(trials.variants[v][0] for _, v in trials.runs()), runs_left(root, trials)
    times = [took[trials.variants[variant][0]] for variant, _ in left]
    idle = [arm for arm in took if arm not in runs]
    nothing = f"; {join(idle)} {'has' if len(idle) == 1 else 'have'} nothing to choose"
    last = "" if len(trials.seeds) == 1 else f" to {trials.seeds[-1]}"
    total = runs.total()
    return [
        f"tuned first: {total} trials, {max(runs.values())} of each{nothing if idle else ''}, "
        f"with seed {trials.seeds[0]}{last}; {total - len(left)} are done",
        f"about {_duration(wall_time(times, workers))} for the other {len(left)} (by the untuned "
        "variants)",
    ]


def runs_left(
    root: Path, plan: Plan, known: Mapping[tuple[str, int], Run] | None = None
) -> list[tuple[str, int]]:
    """Give back the variants and seeds of the runs to do; one that diverged would do so again.

    Args:
        root: The ablation's folder.
        plan: Its plan.
        known: The runs, by variant and seed, that were read before.
    """

    def state(variant: str, seed: int) -> str:
        run = (known or {}).get((variant, seed))
        return (run or read_run(plan.folder(root, variant, seed), variant)).state

    return [(v, s) for s, v in plan.runs() if state(v, s) not in ("done", "diverged")]


def _power(plan: Plan) -> list[str]:
    """The smallest effect, in standard deviations of the paired difference, which is not known."""
    effects = [c for c in plan.contrasts if c.kind == "effect"]
    if not effects:
        return []
    if len(plan.seeds) < FEWEST_SEEDS:
        few = "an interval and no verdict" if len(plan.seeds) == 2 else "no interval, no verdict"
        return [f"{len(plan.seeds)} seeds give {few}. Use three or more: ablation.seeds=5."]
    several = len({contrast.setting for contrast in effects})
    asked = [contrast for contrast in effects if contrast.setting == effects[0].setting]

    size = hypot(*asked[0].weights.values())  # which is that of all in most designs

    def found_with(seeds: int) -> float:
        """Give it in standard deviations of the first difference."""
        return smallest(asked, several, seeds, plan.question) / size

    seeds = plan.question.most_seeds if plan.question.grows else len(plan.seeds)
    found = found_with(seeds)
    power = f"(power {100 * POWER:.0f} %; {found * size:.2f} times that of a run's score)"
    unit = "times the seed-to-seed standard deviation of the difference"
    weak = []
    if seeds < ENOUGH:
        weak = ["Verdicts of 3 or 4 seeds rest on normal scores. Better: ablation.seeds=5."]
    if found <= LARGE:
        return [f"With {seeds} seeds an effect of {found:.1f} {unit} can be found {power}.", *weak]
    enough = next((n for n in range(seeds, MOST_SEEDS) if found_with(n) <= LARGE), MOST_SEEDS)
    which = f"only very large effects can be found: {found:.1f} {unit} {power}"
    if found == float("inf"):
        which = "no effect can be found"
    return [f"With {seeds} seeds {which}. For {LARGE} times you need about {enough} seeds.", *weak]


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
