"""How far the verdicts on one effect agree over several settings, and where they do not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runner.ablation.decide import Verdict, decide
from runner.ablation.designs import Contrast
from runner.ablation.plan import Plan
from runner.ablation.statistics import FEWEST_SEEDS


class Judged(Protocol):
    """What is asked of a finding."""

    @property
    def contrast(self) -> Contrast:
        """The question, with its setting."""

    @property
    def verdict(self) -> Verdict | None:
        """The verdict in that setting."""

    @property
    def mean(self) -> float | None:
        """The mean difference."""

    @property
    def differences(self) -> Mapping[int, float]:
        """The difference with each seed."""

    @property
    def failures(self) -> Mapping[str, int]:
        """How many runs with it failed."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """An effect in all settings; differences are turned so that more is better."""

    effect: str
    verdicts: Mapping[str, Verdict]
    """By setting."""
    means: Mapping[str, float | None]
    """Likewise."""
    mean: float | None = None
    """Over the settings, each counted once; None until all have a mean."""
    positive: int = 0
    """In how many settings the mean is above 0."""
    compared: bool = False
    """Whether the settings can be compared: each has its seeds, and no run with it failed."""
    apart: Mapping[str, float]
    """For each setting in which the effect differs from that in the others by more than chance, by
    how much: the mean over the seeds of the effect there less the mean effect of the others."""


def agreements(plan: Plan, effects: Sequence[Judged], step: float) -> tuple[Agreement, ...]:
    """Put the effects of several settings side by side; nothing where there is one setting.

    Seeds are shared, so that a setting and the others are compared by one number a seed, with the
    rule that makes the verdicts, without a margin: Holm's method over all these comparisons, a
    family of their own at alpha. Where Cochran's Q would take the standard errors of a few seeds
    for known, this allows for them. That effects do not differ is never concluded.

    Args:
        plan: The plan.
        effects: What was found, in the plan's order.
        step: What the differences are multiples of; 0 if of nothing. Of several the largest.
    """
    if not plan.across:
        return ()
    groups: dict[str, list[Judged]] = {}
    for finding in effects:
        groups.setdefault(finding.contrast.effect, []).append(finding)
    ready = {effect: found for effect, found in groups.items() if _comparable(found)}
    rows = {
        (effect, setting): values
        for effect, found in ready.items()
        for setting, values in _comparisons(found, plan.question.looks)
    }
    apart: dict[str, dict[str, float]] = {effect: {} for effect in groups}
    if rows:
        table = np.full((len(rows), max(map(len, rows.values()))), np.nan)
        for row, values in zip(table, rows.values(), strict=True):
            row[: len(values)] = values
        sequential = plan.question.until == "decided"
        alpha = plan.question.alpha / max(1, len(plan.question.looks))
        verdicts = decide(table, 0.0, alpha, sequential, step).verdict
        for (effect, setting), values, verdict in zip(rows, rows.values(), verdicts, strict=True):
            if verdict != Verdict.UNDECIDED:
                apart[effect][setting] = float(values.mean())
    return tuple(_agreement(e, found, e in ready, apart[e]) for e, found in groups.items())


def _agreement(
    effect: str, found: Sequence[Judged], compared: bool, apart: Mapping[str, float]
) -> Agreement:
    means = [finding.mean for finding in found if finding.mean is not None]
    return Agreement(
        effect=effect,
        verdicts={f.contrast.setting: f.verdict or Verdict.NONE for f in found},
        means={f.contrast.setting: f.mean for f in found},
        mean=fmean(means) if len(means) == len(found) else None,
        positive=sum(mean > 0 for mean in means),
        compared=compared,
        apart=apart,
    )


def _comparable(found: Sequence[Judged]) -> bool:
    judged = all(f.verdict not in (None, Verdict.NONE, Verdict.BROKEN) for f in found)
    enough = len(_shared_seeds(found)) >= FEWEST_SEEDS
    return judged and enough and not any(f.failures for f in found)


def _shared_seeds(found: Sequence[Judged]) -> list[int]:
    return [s for s in found[0].differences if all(s in other.differences for other in found)]


def _comparisons(
    found: Sequence[Judged], looks: Sequence[int]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """For each setting the effect there less the mean one of the others, under each shared seed.

    Of two settings one comparison says all. Where there are looks, up to the last one so far.
    """
    seeds = _shared_seeds(found)
    seeds = seeds[: max((n for n in looks if n <= len(seeds)), default=0 if looks else len(seeds))]
    table = np.array([[f.differences[seed] for seed in seeds] for f in found])
    for row in range(len(found) if len(found) > 2 else 1):
        others = np.delete(table, row, axis=0).mean(0)
        yield found[row].contrast.setting, table[row] - others
