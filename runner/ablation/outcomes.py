"""What happened in the runs of one effect, besides the scores: failures, inactivity, cost."""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.ablation.designs import Contrast
from runner.ablation.estimates import Estimate
from runner.ablation.failures import cause_outside, failure_p_of_several
from runner.ablation.plan import Plan
from runner.ablation.statistics import Array
from runner.ablation.table import Table
from runner.ablation.wording import BAD
from runner.store.runs import CORRECT, PREDICTIONS, number


class Outcomes:
    """The runs of an effect: with it, those of positive weight, and without it."""

    def __init__(self, plan: Plan, table: Table, contrast: Contrast, estimated: Estimate) -> None:
        self.plan, self.table, self.contrast = plan, table, contrast
        self.with_it = [name for name, weight in contrast.weights.items() if weight > 0]
        self.without_it = [name for name, weight in contrast.weights.items() if weight < 0]
        self.complete = bool(estimated.settled.all())
        absent = self._of(table.absent, [*contrast.weights]).any(0)
        self.settled, self.used = estimated.settled & ~absent, estimated.used

    def failures(self, variants: list[str]) -> dict[str, int]:
        """Of the runs of these variants, how many failed by themselves, by state."""
        failed = self._failed(variants) & self.settled
        counts = Counter(self._of(self.table.states, variants)[failed].tolist())
        return {state: counts[state] for state in BAD if counts[state]}

    @cached_property
    def failure_p(self) -> float:
        """The chance of so many more failures with it than without it, if it changed nothing."""
        sides = self._failed(self.with_it), self._failed(self.without_it)
        if not self.plan.question.grows and not self.complete:
            return np.nan  # no look before the end
        return failure_p_of_several(*sides, self.settled, self.plan.question.grows)

    @property
    def outside(self) -> dict[str, str]:
        """What ended runs from outside: for each of them by `VARIANT/seed=S`, in words."""
        found = {}
        for name in (*self.with_it, *self.without_it):
            failed = self.table.failed[self.table.rows[name]].tolist()
            for seed, is_evidence in zip(self.plan.seeds, failed, strict=True):
                run = self.table.runs.get((name, seed))
                if not run or run.state != "failed" or is_evidence:
                    continue
                if cause := cause_outside(run):
                    found[f"{name}/seed={seed}"] = cause
        return found

    @property
    def left_out(self) -> list[int]:
        """The settled seeds that do not count, since a run failed with them."""
        return self._seeds(self.settled & ~self.used)

    @property
    def same_weights(self) -> bool | None:
        """Whether, with every seed, its weights and predictions equal those without it.

        The same weights may predict by other means, as the mean over several views of an image.
        None if that is not known of all: a digest of weights is missing, or runs have no such
        counterpart.
        """
        pairs = [
            [self._result(name, seed) for name in pair]
            for pair in self._pairs()
            for seed in self._seeds(self.settled)
        ]
        known = [pair for pair in pairs if all(run.get("weights") is not None for run in pair)]
        if any(_answers_differ(*pair) for pair in known):
            return False
        return True if pairs and len(known) == len(pairs) else None

    @cached_property
    def idle(self) -> dict[tuple[str, int], bool]:
        """For each finished run with it, whether its trick reported that it changed nothing."""
        if len(self.contrast.factors) > 1:  # all tricks together report nothing of themselves
            return {}
        factor, keys = self.contrast.factors[0], product(self.with_it, self.plan.seeds)
        lists = {k: found.get("inactive") for k in keys if (found := self._result(*k))}
        return {k: isinstance(names, list) and factor in names for k, names in lists.items()}

    @property
    def trick_metrics(self) -> dict[str, float]:
        """What the factor's trick reported: for each number the mean over the runs with it."""
        prefix = f"tricks/{self.contrast.factors[0]}/"
        found: dict[str, list[float]] = {}
        for key in self.idle:
            for name, value in self._result(*key).items():
                if name.startswith(prefix) and (known := number(value)) is not None:
                    found.setdefault(name.removeprefix(prefix), []).append(known)
        return {name: float(np.mean(values)) for name, values in found.items()}

    def ratio(self, cost: Array) -> float | None:
        """Give the geometric mean of a cost with it over that without it; None if unknown."""
        if not self.used.any():
            return None
        with np.errstate(divide="ignore", invalid="ignore"):  # no time, which is not known then
            over, under = (
                np.log(self._of(cost, names)[:, self.used]).mean()
                for names in (self.with_it, self.without_it)
            )
        return float(np.exp(over - under)) if np.isfinite(over - under) else None

    def correlation(self) -> float | None:
        """Give the correlation of two variants' scores over the seeds; None if it has none."""
        if len(self.contrast.weights) != 2 or self.used.sum() < 3:
            return None
        one, other = (
            self.table.scores[self.table.rows[n], self.used] for n in self.contrast.weights
        )
        if np.ptp(one) == 0 or np.ptp(other) == 0:
            return None
        return float(np.corrcoef(one, other)[0, 1])

    def _of(self, table: NDArray[Any], variants: list[str]) -> NDArray[Any]:
        return table[[self.table.rows[name] for name in variants]]

    def _failed(self, variants: list[str]) -> NDArray[np.bool_]:
        return self._of(self.table.failed, variants)

    def _seeds(self, which: ArrayLike) -> list[int]:
        return [seed for seed, yes in zip(self.plan.seeds, np.asarray(which), strict=True) if yes]

    def _result(self, variant: str, seed: int) -> Mapping[str, object]:
        run = self.table.runs.get((variant, seed))
        return (run and run.result) or {}

    def _pairs(self) -> list[tuple[str, str]]:
        """Each variant with it, and the one that differs from it in this alone; [] if one lacks."""
        if len(self.contrast.weights) == 2:
            return [(self.with_it[0], self.without_it[0])]
        place = [f.name for f in self.plan.factors].index(self.contrast.factors[0])
        off = self.plan.factors[place].levels[0]
        names = {levels: name for name, levels in self.plan.variants.items()}
        rows = {name: self.plan.variants[name] for name in self.with_it}
        twins = {n: (*row[:place], off, *row[place + 1 :]) for n, row in rows.items()}
        found = [(name, names[twin]) for name, twin in twins.items() if twin in names]
        return found if len(found) == len(twins) else []


def _answers_differ(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether two results are of other weights, or of other predictions where both have some."""
    kept = [d if isinstance(d := run.get("digests"), dict) else {} for run in (one, other)]
    both = {PREDICTIONS, CORRECT}.intersection(*kept)
    return one["weights"] != other["weights"] or any(kept[0][k] != kept[1][k] for k in both)
