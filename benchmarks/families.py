"""Families of made-up scores: ablations whose truth is known, for `benchmarks.calibration`.

Scores of every variant are drawn and weighed as a design has it, so the differences depend on each
other as they do in an ablation.
"""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from scipy import sparse

from runner.ablation.decide import Verdict, adjust, conclude, decide, paired_tests_at_looks
from runner.ablation.designs import Factor, design
from runner.ablation.failures import failure_p
from runner.ablation.sharing import find_sharing
from runner.ablation.statistics import FEWEST_SEEDS

ALPHA = 0.05
TRICKS = (1, 2, 5, 10)
SHARING = (3, 5, 10)  # tricks that share their spread
SAMPLES = 359  # of the test set of the digits


def normal(draw, shape):
    return draw.standard_normal(shape)


def heavy(draw, shape):
    return draw.standard_t(3, shape) / sqrt(3)  # a standard deviation of 1


def diverging(draw, shape):
    """3 runs in 100 end far below the others."""
    return draw.standard_normal(shape) - 20 * (draw.random(shape) < 0.03)


def unequal(draw, shape):
    """The first trick spreads its runs three times as far."""
    scores = draw.standard_normal(shape)
    scores[:, 1] *= 3
    return scores


def skewed(draw, shape):
    """A long tail to the right."""
    return draw.standard_exponential(shape) - 1


def lognormal(draw, shape):
    """Every variant has a spread of its own: exp(0.6 z), z standard normal."""
    return draw.standard_normal(shape) * np.exp(0.6 * draw.standard_normal((*shape[:2], 1)))


@dataclass(frozen=True)
class Wide:
    """One variant spreads its runs so many times as far; 0 is the baseline."""

    times: float
    variant: int = 1

    def __call__(self, draw, shape):
        """Draw scores."""
        scores = draw.standard_normal(shape)
        scores[:, self.variant] *= self.times
        return scores


@dataclass(frozen=True)
class WideFactor:
    """All variants with the first trick of a factorial spread so many times as far."""

    times: float

    def __call__(self, draw, shape):
        """Draw scores."""
        scores = draw.standard_normal(shape)
        scores[:, shape[1] // 2 :] *= self.times
        return scores


def seeded(draw, shape):
    """Half of the variance with the first trick of a factorial is common to all runs of a seed."""
    scores = draw.standard_normal(shape)
    scores[:, shape[1] // 2 :] += draw.standard_normal((shape[0], 1, shape[2]))
    return scores


@dataclass(frozen=True)
class Collapsing:
    """Runs with a trick fall far down with a chance, which makes up its whole effect."""

    chance: float
    mean: float
    """The mean effect of the collapses."""
    compensated: bool = False
    """Whether the other runs are so much better that the mean effect is 0."""

    def __call__(self, draw, shape):
        """Draw scores."""
        scores = draw.standard_normal(shape)
        falls = draw.random(scores[:, 1:].shape) < self.chance
        scores[:, 1:] += (self.mean / self.chance) * falls - self.compensated * self.mean
        return scores


@dataclass(frozen=True)
class Failing:
    """Every run, the baseline's too, comes to nothing with a chance, and has no score then."""

    chance: float
    lowest: bool = False
    """Whether it is those of the lowest scores that do."""
    baseline_only: bool = False

    def __call__(self, draw, shape):
        """Draw scores."""
        scores = draw.standard_normal(shape)
        fails = draw.random(shape) < self.chance
        if self.lowest:
            fails = scores < np.quantile(scores, self.chance)
        if self.baseline_only:
            fails[:, 1:] = False
        scores[fails] = np.nan
        return scores


@dataclass(frozen=True)
class Family:
    """Tricks, their true effects, and how scores come about."""

    title: str
    effects: tuple[float, ...]
    margin: float
    noise: object = normal
    sd: float = 1.0
    in_noise: bool = False
    """Whether the noise makes the effects already."""
    accuracy: float | None = None
    """Of the baseline, if scores are accuracies: shares of `SAMPLES`."""
    design: str = "one_at_a_time"
    shared: bool = False
    """Whether effects share their spread."""
    tricks: int = 0
    """How many there are, if there are more effects than tricks."""

    @cached_property
    def weights(self):
        """What each variant weighs in each effect, [K, V]."""
        count = self.tricks or len(self.effects)
        factors = [Factor(f"t{k}", ("off", f"t{k}")) for k in range(count)]
        laid_out = design(self.design, factors)
        effects = [contrast for contrast in laid_out.contrasts if contrast.kind == "effect"]
        rows = [[each.weights.get(name, 0.0) for name in laid_out.variants] for each in effects]
        return np.array(rows)

    @cached_property
    def sharing(self):
        """How the spreads are shared, if they are."""
        return find_sharing(sparse.csr_array(self.weights)) if self.shared else None

    def differences(self, draw, families, seeds):
        """Draw [families, K, seeds]."""
        shape = families, self.weights.shape[1], seeds
        if self.accuracy is not None:
            chances = self.accuracy + np.array([0.0, *self.effects])[:, None]
            scores = draw.binomial(SAMPLES, chances, shape) / SAMPLES
            return self.weights @ scores
        scores = self.sd * self.noise(draw, shape)
        effects = np.array(self.effects)[:, None] * (not self.in_noise)
        if not isinstance(self.noise, Failing):
            return self.weights @ scores + effects
        differences = scores[:, 1:] - scores[:, :1] + effects
        own, others = (
            np.broadcast_to(np.isnan(x), differences.shape) for x in (scores[:, 1:], scores[:, :1])
        )
        differences[own & ~others], differences[others & ~own] = np.inf, -np.inf
        return differences

    @property
    def step(self):
        """What differences are multiples of."""
        return 0.0 if self.accuracy is None else 1 / SAMPLES

    def verdicts(self, differences, sequential):
        """Judge families [families, K, seeds]."""
        if isinstance(self.noise, Failing):
            return self.with_failures(differences, sequential)
        rule = self.margin, ALPHA, sequential, self.step, self.sharing
        return decide(differences, *rule).verdict

    def verdicts_at_looks(self, differences, settled, looks):
        """Judge families by the looks that have been."""
        rule = looks, self.margin, self.step, self.sharing
        tests = paired_tests_at_looks(differences, settled, *rule)
        return conclude(tests, self.margin, ALPHA).verdict

    def with_failures(self, differences, sequential):
        """Judge families of which runs failed, as `runner/ablation/effects.py` does.

        Of a difference that is missing, infinity tells that the trick's run failed, -infinity that
        the baseline's did, and NaN that both did.
        """
        lost = ~np.isfinite(differences)
        own, others = (lost & (differences != end) for end in (-np.inf, np.inf))
        p = failure_p(own, others, np.ones(lost.shape), sequential)
        left = np.where(lost, np.nan, differences)
        order = np.argsort(lost, -1, kind="stable")  # a sequence passes over a seed that was lost
        left = np.take_along_axis(left, order, -1)
        verdicts = decide(left, self.margin, ALPHA, sequential, self.step).verdict
        judged = (left.shape[-1] - lost.sum(-1)) >= FEWEST_SEEDS
        good = own.any(-1) & (verdicts != Verdict.HURTS)
        verdicts = np.where(good, Verdict.UNDECIDED, verdicts)
        verdicts = np.where(judged | own.any(-1), verdicts, Verdict.NONE)
        return np.where(adjust(p, p) <= ALPHA, Verdict.BROKEN, verdicts)

    def false(self, verdicts):
        """Whether any verdict of a family is false, [families]."""
        effects = np.array(self.effects)
        return (
            ((verdicts == Verdict.HELPS) & (effects <= 0))
            | ((verdicts == Verdict.HURTS) & (effects >= 0))
            | ((verdicts == Verdict.NEGLIGIBLE) & (np.abs(effects) >= self.margin))
        ).any(-1)

    def broken(self, verdicts):
        """Whether any trick is BROKEN, which none is, [families]."""
        return (verdicts == Verdict.BROKEN).any(-1)

    def void(self, verdicts):
        """Whether no trick is judged, [families]."""
        return (verdicts == Verdict.NONE).all(-1)


def none_differs():
    """Families without any effect."""
    for count in TRICKS:
        none = (0.0,) * count
        yield Family("normal", none, 1.0)
        yield Family("heavy tails (t, 3 df)", none, 1.0, heavy)
        yield Family("3 % of runs diverge", none, 1.0, diverging)
        yield Family("one trick spreads 3x", none, 1.0, unequal)
        for accuracy in (0.975, 0.99, 0.994, 0.998):
            yield Family(f"accuracies near {accuracy}", none, 0.005, accuracy=accuracy)


def all_at_the_margin():
    """Families of effects that just matter: NEGLIGIBLE is false, and so is the other direction."""
    for count in (1, 5):
        effects = tuple(1.0 if index % 2 else -1.0 for index in range(count))
        for sd in (0.1, 0.3, 1.0):
            yield Family(f"normal, sd {sd} margins", effects, 1.0, sd=sd)
        yield Family("heavy tails, sd 0.3 margins", effects, 1.0, heavy, 0.3)
        yield Family("3 % diverge, sd 0.3 margins", effects, 1.0, diverging, 0.3)
        yield Family("one spreads 3x, sd 0.3 margins", effects, 1.0, unequal, 0.3)
        for accuracy in (0.975, 0.99, 0.994, 0.998, 1.0):
            lower = (-0.005,) * count
            yield Family(f"accuracies near {accuracy}", lower, 0.005, accuracy=accuracy)


def half_at_the_margin():
    """Families in which half of the tricks do nothing, and half just matter."""
    for count in (2, 4, 10):
        effects = (0.0,) * (count // 2) + (1.0, -1.0, 1.0, -1.0, 1.0)[: count // 2]
        for sd in (0.1, 0.3, 0.5, 1.0):
            yield Family(f"normal, sd {sd} margins", effects, 1.0, sd=sd)
        accuracies = (0.0,) * (count // 2) + (-0.005,) * (count // 2)
        yield Family("accuracies near 0.99", accuracies, 0.005, accuracy=0.99)


def failing():
    """Families in which nothing differs, and every run may fail."""
    for count in (1, 5):
        none = (0.0,) * count
        for chance in (0.01, 0.03, 0.2):
            yield Family(f"{100 * chance:g} % fail", none, 1.0, Failing(chance))
        yield Family("the lowest 3 % fail", none, 1.0, Failing(0.03, lowest=True))
        yield Family(
            "20 % of the baseline's alone fail", none, 1.0, Failing(0.2, baseline_only=True)
        )


def failing_at_the_margin():
    """Families of effects that just matter, and every run may fail."""
    for count in (1, 5):
        effects = tuple(1.0 if index % 2 else -1.0 for index in range(count))
        for chance in (0.03, 0.2):
            noise = Failing(chance)
            yield Family(f"at the margin, {100 * chance:g} % fail", effects, 1.0, noise, 0.3)
            yield Family(
                f"at the margin, sd 1.0, {100 * chance:g} % fail", effects, 1.0, noise, 1.0
            )


def lost():
    """All of these."""
    yield from failing()
    yield from failing_at_the_margin()


def collapsing():
    """Families of tricks whose effect is that some of their runs collapse."""
    for count in (1, 5):
        for chance in (0.05, 0.2):
            # in units of the spread; the effect is the margin, 1 / 0.6 standard deviations
            noise = Collapsing(chance, -1 / 0.6)
            effects, title = (-1.0,) * count, f"{100 * chance:g} % collapse, at the margin"
            yield Family(title, effects, 1.0, noise, 0.6, in_noise=True)
        noise = Collapsing(0.2, -1 / 0.6, compensated=True)
        yield Family("20 % collapse, mean 0", (0.0,) * count, 1.0, noise, 0.6)


def powerful():
    """One effect of 1, 2, 3 standard deviations of a difference, among tricks without any."""
    for count in (1, 5):
        for size in (1.0, 2.0, 3.0):
            effects = (size * sqrt(2), *(0.0,) * (count - 1))
            yield Family(f"{size:g} sd", effects, 0.5)
            if count in SHARING:
                yield Family(f"{size:g} sd, shared", effects, 0.5, shared=True)


def harmless():
    """No effect, and a margin of 1, 2, 3 standard deviations of a difference."""
    for count in (1, 5):
        for size in (1.0, 2.0, 3.0):
            margin = size * sqrt(2)
            yield Family(f"{size:g} sd", (0.0,) * count, margin)
            if count in SHARING:
                yield Family(f"{size:g} sd, shared", (0.0,) * count, margin, shared=True)


def budgets():
    """Designs of five tricks, each with its seeds; effect and margin 0.5, spread 0.3.

    Runs of a seed have a correlation of 0.3; what they have in common cancels, so it is not drawn.
    """
    sd, effects = 0.3 * sqrt(0.7), (0.5, 0.0, 0.0, 0.0, 0.0)
    for kind, seeds in (("one_at_a_time", 5), ("one_at_a_time", 8), ("fractional", 3)):
        for shared, whose in ((False, "own"), (True, "shared")):
            title = f"{kind}, {seeds} seeds, {whose} spread"
            yield Family(title, effects, 0.5, sd=sd, design=kind, shared=shared), seeds
    for way, shared in (("decided", False), ("looks", False), ("looks", True)):
        title = f"one_at_a_time, until={way}, {'shared' if shared else 'own'} spread"
        yield Family(title, effects, 0.5, sd=sd, shared=shared), way


def shared():
    """Families that share their spread, without any effect."""
    for count in SHARING:
        none = (0.0,) * count
        for title, noise in SPREADS.items():
            yield Family(title, none, 1.0, noise, shared=True)
        for accuracy in (0.975, 0.99, 0.998):
            title = f"accuracies near {accuracy}"
            yield Family(title, none, 0.005, accuracy=accuracy, shared=True)


def shared_at_the_margin():
    """Families that share their spread, of effects that just matter."""
    for count in SHARING:
        effects = tuple(1.0 if index % 2 else -1.0 for index in range(count))
        for title, noise in SPREADS.items():
            for sd in (0.3, 1.0):
                yield Family(f"{title}, sd {sd} margins", effects, 1.0, noise, sd, shared=True)
        for accuracy in (0.975, 0.99, 0.998):
            lower, title = (-0.005,) * count, f"accuracies near {accuracy}"
            yield Family(title, lower, 0.005, accuracy=accuracy, shared=True)


SPREADS = {
    "normal": normal,
    "heavy tails (t, 3 df)": heavy,
    "3 % of runs diverge": diverging,
    "skewed": skewed,
    "lognormal spreads": lognormal,
    "one trick spreads 3x": Wide(3),
    "one trick spreads 10x": Wide(10),
    "the baseline spreads 3x": Wide(3, 0),
    "the baseline spreads 10x": Wide(10, 0),
}


def other_designs():
    """Families of other designs that share their spread, without any effect and at the margin."""
    noises = {
        "normal": normal,
        "skewed": skewed,
        "lognormal spreads": lognormal,
        "one variant spreads 3x": Wide(3),
        "one variant spreads 10x": Wide(10),
        "a factor spreads 3x": WideFactor(3),
        "a seed effect with a factor": seeded,
    }
    for kind, count in (("fractional", 5), ("factorial", 3), ("both", 3), ("cumulative", 5)):
        for title, noise in noises.items():
            if kind in ("both", "cumulative") and "factor" in title:
                continue
            for size, what in ((0.0, "no effect"), (1.0, "at the margin")):
                effects = [size if index % 2 else -size for index in range(count)]
                effects += {"both": effects, "cumulative": [sum(effects)]}.get(kind, [])
                yield Family(
                    f"{kind}: {title}, {what}",
                    tuple(effects),
                    1.0,
                    noise,
                    sd=0.5 / SIZES[kind],
                    design=kind,
                    shared=True,
                    tricks=count,
                )


SIZES = {"fractional": 0.5, "factorial": 0.5**0.5, "both": 2**0.5, "cumulative": 2**0.5}
"""The standard deviation of an effect, in that of a score."""
