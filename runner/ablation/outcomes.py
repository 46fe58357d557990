"""What happened in the runs of one effect, besides the scores: failures, inactivity, cost."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runner.ablation.designs import Contrast
from runner.ablation.plan import Plan
from runner.ablation.statistics import Array
from runner.ablation.table import Table
from runner.ablation.wording import BAD
from runner.store.runs import Run, number


@dataclass(frozen=True)
class Outcomes:
    """The runs of an effect: with it, those of positive weight, and without it."""

    plan: Plan
    table: Table
    contrast: Contrast
    used: NDArray[np.bool_]
    """[S], the seeds that count."""

    @cached_property
    def with_it(self) -> list[str]:
        """The variants with it."""
        return [name for name, weight in self.contrast.weights.items() if weight > 0]

    @cached_property
    def without_it(self) -> list[str]:
        """The variants without it."""
        return [name for name, weight in self.contrast.weights.items() if weight < 0]

    @property
    def failures(self) -> dict[str, int]:
        """Of the runs with it, how many failed, by state."""
        counts = Counter(self._states(self.with_it).ravel().tolist())
        return {state: counts[state] for state in BAD if counts[state]}

    @cached_property
    def broken(self) -> list[int]:
        """The seeds where runs with it failed, and all runs without it are done."""
        bad = np.isin(self._states(self.with_it), list(BAD)).any(0)
        done = np.isin(self._states(self.without_it), "done").all(0)
        return self._seeds(np.logical_and(bad, done))

    @cached_property
    def baseline_failed(self) -> list[int]:
        """The seeds where runs without it failed."""
        return self._seeds(np.isin(self._states(self.without_it), list(BAD)).any(0))

    def bad_states(self, variants: list[str], seeds: list[int]) -> dict[str, list[str]]:
        """Give back which of the variants failed with these seeds, and how."""
        columns = [self.plan.seeds.index(seed) for seed in seeds]
        states = self._states(variants)[:, columns]
        rows = zip(variants, states.tolist(), strict=True)
        return {name: bad for name, row in rows if (bad := [s for s in row if s in BAD])}

    @cached_property
    def same_weights(self) -> bool:
        """Whether, with every seed that counts, its weights equal those of the runs without it."""
        digests = [
            [self._result(name, seed).get("weights") for name in pair]
            for pair in self._pairs()
            for seed in self._seeds(self.used)
        ]
        return bool(digests) and all(one is not None and one == other for one, other in digests)

    @cached_property
    def idle(self) -> dict[tuple[str, int], bool]:
        """For each finished run with it, whether its trick reported that it changed nothing."""
        factor, runs = self.contrast.factors[0], self.table.runs
        keys = [(name, seed) for name in self.with_it for seed in self.plan.seeds]
        done = {key: runs[key].result for key in keys if key in runs}
        lists = {key: result.get("inactive") for key, result in done.items() if result}
        return {k: isinstance(names, list) and factor in names for k, names in lists.items()}

    @property
    def idle_seeds(self) -> list[int]:
        """The seeds with which a run's trick changed nothing."""
        return sorted({seed for (_, seed), idle in self.idle.items() if idle})

    @property
    def trick_metrics(self) -> dict[str, float]:
        """What the factor's trick reported: for each number the mean over the runs with it."""
        prefix = f"tricks/{self.contrast.factors[0]}/"
        found: dict[str, list[float]] = {}
        for key in self.idle:
            for name, value in (self.table.runs[key].result or {}).items():
                if name.startswith(prefix) and (known := number(value)) is not None:
                    found.setdefault(name.removeprefix(prefix), []).append(known)
        return {name: float(np.mean(values)) for name, values in found.items()}

    def ratio(self, cost: Array) -> float | None:
        """Give the geometric mean of a cost with it over that without it; None if unknown."""
        rows = self.table.rows
        with np.errstate(divide="ignore", invalid="ignore"):  # no time, which is not known then
            logs = np.log(cost[:, self.used])
        if not self.used.any():
            return None
        groups = self.with_it, self.without_it
        over, under = (logs[[rows[name] for name in names]].mean() for names in groups)
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

    def _states(self, variants: list[str]) -> NDArray[np.str_]:
        return self.table.states[[self.table.rows[name] for name in variants]]

    def _seeds(self, which: ArrayLike) -> list[int]:
        return [seed for seed, yes in zip(self.plan.seeds, np.asarray(which), strict=True) if yes]

    def _result(self, variant: str, seed: int) -> Mapping[str, object]:
        run: Run | None = self.table.runs.get((variant, seed))
        return run.result or {} if run else {}

    def _pairs(self) -> list[tuple[str, str]]:
        """Each variant with it, and the one that differs in this alone; none if one has no such."""
        if len(self.contrast.weights) == 2:
            return [(self.with_it[0], self.without_it[0])]
        place = [f.name for f in self.plan.factors].index(self.contrast.factors[0])
        names = {levels: name for name, levels in self.plan.variants.items()}
        off, rows = self.plan.factors[place].levels[0], self.plan.variants
        without = [(*rows[n][:place], off, *rows[n][place + 1 :]) for n in self.with_it]
        matches = [names[levels] for levels in without if levels in names]
        return [*zip(self.with_it, matches, strict=True)] if len(matches) == len(without) else []
