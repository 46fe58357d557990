"""Which runs would bring a table of scores closer to its verdicts."""

from collections.abc import Iterator
from typing import NamedTuple

from runner.ablation.decide import Verdict
from runner.ablation.statistics import FEWEST_SEEDS
from runner.ablation.verdicts import Finding, Findings
from runner.ablation.wording import ENOUGH

MOST_AT_ONCE = 5
"""Seeds that are asked for at once while runs are added until all is decided."""


class Next(NamedTuple):
    """The runs to make next."""

    runs: tuple[tuple[str, int], ...]
    """Each by its variant and its seed."""
    why: str
    """What to do with them, in words; also why there are none."""


BEST = (
    "One run of each variant decides nothing, and the best of so many looks better than it is, by "
    "the luck of all of them. Make these runs, of the baseline and of {best}, and judge them in a "
    "file of their own: the run by which {best} was chosen must not count again."
)
FIXED = (
    "Adding runs to a number that was settled would be looking until it comes out right. Make as "
    "many runs as the reasons say, with fresh seeds, and judge them in a file of their own; or "
    "settle on --until decided before the first of them."
)
FRESH = "Make these runs, with the same seeds on both sides, and judge them in a file of their own."
ADD = "Make these runs, add their rows at the end of the table, and give the same command again."


def next_runs(findings: Findings) -> Next:
    """Say which runs to make next; none if all is decided."""
    open_ones = [finding for finding in findings.effects if finding.open]
    if not open_ones:
        return Next((), "")
    question, baseline = findings.plan.question, next(iter(findings.plan.variants))
    counts = dict.fromkeys(findings.plan.variants, 0)
    for variant, _ in findings.runs:
        counts[variant] += 1
    unpaired = any(finding.unpaired for finding in findings.effects)
    if max(counts.values()) == 1 and (unpaired or question.until == "fixed"):
        if (best := _best(findings)) is None:
            return Next((), "")
        return Next(_fresh(findings, (baseline, best)), BEST.format(best=best))
    if unpaired:
        few = [f for f in open_ones if f.verdict is Verdict.NONE]
        if question.until == "fixed" and not few:
            return Next((), FIXED)
        names = (baseline, *(f.contrast.name for f in few))
        return Next(_fresh(findings, names), FRESH)
    if question.until == "decided":
        return Next(tuple(dict.fromkeys(_added(findings, open_ones, baseline))), ADD)
    few = [f for f in open_ones if f.verdict is Verdict.NONE]
    if not few:
        return Next((), FIXED)
    return Next(tuple(dict.fromkeys(_missing(findings, few, baseline))), ADD)


def _best(findings: Findings) -> str | None:
    """Find the variant with the best score, of those that have one."""
    known = [f for f in findings.effects if f.mean is not None]
    return max(known, key=lambda f: f.mean or 0.0).contrast.name if known else None


def _fresh(findings: Findings, names: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Give each of some variants as many seeds as a verdict needs to be unmarked, none used yet."""
    first = max(findings.plan.seeds) + 1
    return tuple((name, first + n) for n in range(ENOUGH) for name in names)


def _missing(findings: Findings, few: list[Finding], baseline: str) -> Iterator[tuple[str, int]]:
    """Fill up those that have too few runs to be judged, first where one side has run already."""
    last = max(findings.plan.seeds)
    for finding in few:
        sides = baseline, finding.contrast.name
        missing = {
            seed: [name for name in sides if not _has_ended(findings, name, seed)]
            for seed in (*findings.plan.seeds, *range(last + 1, last + 1 + FEWEST_SEEDS))
        }
        common = sum(not names for names in missing.values())
        for seed, names in sorted(missing.items(), key=lambda item: len(item[1])):
            begun = any((name, seed) in findings.runs for name in names)
            if names and (begun or common < FEWEST_SEEDS):
                common += 1
                yield from ((name, seed) for name in names)


def _added(
    findings: Findings, open_ones: list[Finding], baseline: str
) -> Iterator[tuple[str, int]]:
    """Continue each open sequence: first with seeds that one side has, never before its end."""
    for finding in open_ones:
        name, seeds = finding.contrast.name, list(findings.plan.seeds)
        ends = [i for i, seed in enumerate(seeds) if seed in finding.differences]
        wanted = finding.more_seeds_range[0] if finding.more_seeds_range else 1
        wanted = max(FEWEST_SEEDS - finding.seeds, min(wanted, MOST_AT_ONCE), 1)
        later = seeds[ends[-1] + 1 :] if ends else seeds
        later += range(max(seeds) + 1, max(seeds) + 1 + wanted)
        for seed in later[:wanted]:
            for each in (baseline, name):
                if not _has_ended(findings, each, seed):
                    yield each, seed


def _has_ended(findings: Findings, variant: str, seed: int) -> bool:
    """Whether a run has a score, or failed by itself."""
    run = findings.runs.get((variant, seed))
    return run is not None and run.state != "running" and not run.cause
