"""How often verdicts are wrong, by simulation: the code that makes verdicts, on made-up scores.

    python -m benchmarks.calibration           # the tables of docs/calibration.md
    python -m benchmarks.calibration 1 2       # two of them alone, by their places
    python -m benchmarks.calibration --quick   # a look at them in a minute; writes nothing

A family is the tricks of one ablation, and is counted as false if any of its verdicts is. Scores of
the baseline and of each trick are drawn and subtracted, so the differences depend on each other as
they do in an ablation. A rate beyond alpha by more than two standard errors is measured again, with
new numbers and ten times as many of them, and that one counts; if it is beyond too, the exit code
is 1. Of collapses, which no statistics of few seeds can see, the rates are shown as they are.
"""

import argparse
import sys
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np

from runner.ablation.decide import Verdict, adjust, decide
from runner.ablation.failures import failure_p
from runner.ablation.statistics import FEWEST_SEEDS

ALPHA = 0.05
SEEDS = (3, 5, 10, 20)
FIRST, LAST = 3, 30  # seeds of an ablation until=decided
TRICKS = (1, 2, 5, 10)
SAMPLES = 359  # of the test set of the digits
CHUNK = 10_000  # families at once: some 400 MB
DOCUMENT = Path(__file__).parent.parent / "docs" / "calibration.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"  # what lies between is replaced


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

    def differences(self, draw, families, seeds):
        """Draw [families, K, seeds]."""
        shape = families, len(self.effects) + 1, seeds
        effects = np.array([0.0, *self.effects])[:, None] * (not self.in_noise)
        if self.accuracy is None:
            scores = self.sd * self.noise(draw, shape) + effects
        else:
            scores = draw.binomial(SAMPLES, self.accuracy + effects, shape) / SAMPLES
        differences = scores[:, 1:] - scores[:, :1]
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
        return decide(differences, self.margin, ALPHA, sequential, self.step).verdict

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


def fixed(family, seeds, families, draw):
    """Judge once; give back the verdicts."""
    return family.verdicts(family.differences(draw, families, seeds), sequential=False)


def until_decided(family, families, draw, false_by="false"):
    """Judge after each seed until all is decided.

    Returns, for each family: whether any verdict was false at any look; the last verdict on the
    first trick; the seeds that it took.
    """
    wrong = getattr(family, false_by)
    open_ones = (Verdict.UNDECIDED, Verdict.NONE)
    differences = family.differences(draw, families, LAST)
    false, first = np.zeros(families, bool), np.full(families, Verdict.UNDECIDED, object)
    took, going = np.full(families, LAST), np.arange(families)
    for n in range(FIRST, LAST + 1):
        verdicts = family.verdicts(differences[going, :, :n], sequential=True)
        false[going] = wrong(verdicts) | (false[going] & (false_by != "void"))
        now = (first[going] == Verdict.UNDECIDED) & (verdicts[:, 0] != Verdict.UNDECIDED)
        took[going[now]] = n
        first[going] = verdicts[:, 0]
        going = going[np.isin(verdicts, open_ones).any(-1)]
    return false, first, took


class Simulation:
    """Measures rates, and remembers whether one was too high."""

    def __init__(self, repeats):
        self.repeats, self.drawn, self.exceeded, self.again = repeats, 0, [], []

    def chunks(self, repeats):
        """Sizes of chunks, each with a generator of its own."""
        for start in range(0, repeats, CHUNK):
            self.drawn += 1
            yield min(CHUNK, repeats - start), np.random.default_rng(self.drawn)

    def rate(self, family, seeds, repeats, false_by="false"):
        """The share of families with a false verdict; `seeds` None: until decided."""
        total = 0
        for families, draw in self.chunks(repeats):
            if seeds is None:
                total += until_decided(family, families, draw, false_by)[0].sum()
            else:
                total += getattr(family, false_by)(fixed(family, seeds, families, draw)).sum()
        return float(total) / repeats

    def cell(self, family, seeds, false_by, bounded):
        """Measure a rate; again if it is too high, and then it counts."""
        repeats = self.repeats
        rate = self.rate(family, seeds, repeats, false_by)
        where = f"{family.title}, {len(family.effects)} tricks, {seeds or 'until decided'}"
        if bounded and rate > bound(repeats):
            self.again.append(f"{where}: {100 * rate:.2f} %")
            repeats *= 10
            rate = self.rate(family, seeds, repeats, false_by)
            if rate > bound(repeats):
                self.exceeded.append(f"{where}: {100 * rate:.2f} %")
        return f"{100 * rate:.2f} ±{100 * sqrt(rate * (1 - rate) / repeats):.2f}"

    def rows(self, families, false_by="false", bounded=True):
        """A row for each family, a column for each number of seeds."""
        for family in families:
            cells = [self.cell(family, n, false_by, bounded) for n in (*SEEDS, None)]
            yield [family.title, str(len(family.effects)), *cells]

    def powers(self, families, wanted):
        """How often the first trick gets its verdict; and if seeds are added, how many it takes."""
        for family in families:
            cells = []
            for seeds in SEEDS:
                found = [
                    (fixed(family, seeds, n, draw)[:, 0] == wanted).sum()
                    for n, draw in self.chunks(self.repeats)
                ]
                cells.append(f"{100 * sum(found) / self.repeats:.0f}")
            found, took = 0, []
            for n, draw in self.chunks(self.repeats):
                _, first, seeds = until_decided(family, n, draw)
                found += (first == wanted).sum()
                took.append(seeds)
            cells.append(f"{100 * found / self.repeats:.0f}")
            cells.append(f"{np.median(np.concatenate(took)):.0f}")
            yield [family.title, str(len(family.effects)), *cells]


def bound(repeats):
    """Alpha and two standard errors."""
    return ALPHA + 2 * sqrt(ALPHA * (1 - ALPHA) / repeats)


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
            yield Family(f"{size:g} sd", (size * sqrt(2), *(0.0,) * (count - 1)), 0.5)


def harmless():
    """No effect, and a margin of 1, 2, 3 standard deviations of a difference."""
    for count in (1, 5):
        for size in (1.0, 2.0, 3.0):
            yield Family(f"{size:g} sd", (0.0,) * count, size * sqrt(2))


def table(heads, rows):
    """Write Markdown."""
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in rows:
        lines.append(f"| {' | '.join(row)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


FALSE = {
    "No trick does anything: families with HELPS or HURTS, in %": (none_differs, "false", True),
    "All are at the margin: families with NEGLIGIBLE or the wrong direction, in %": (
        *(all_at_the_margin, "false", True),
    ),
    "Half do nothing, half are at the margin: families with a false verdict, in %": (
        *(half_at_the_margin, "false", True),
    ),
    "Runs fail, and the seeds of the baseline's are left out: families with a false HELPS, HURTS "
    "or NEGLIGIBLE, in %": (lost, "false", True),
    "Every run fails as often: families with a false BROKEN, in %": (failing, "broken", True),
    "The same: families in which no trick can be judged, in %": (failing, "void", False),
    "Rare collapses, which few seeds do not show: families with a false verdict, in %": (
        *(collapsing, "false", False),
    ),
}
FOUND = {
    "One trick has an effect: how often it HELPS, in %": ("effect", powerful, Verdict.HELPS),
    "No trick does anything: how often the first one is NEGLIGIBLE, in %": (
        "margin",
        harmless,
        Verdict.NEGLIGIBLE,
    ),
}


TITLES = [*FALSE, *FOUND]


def measure(title, simulation):
    """Measure and write a table."""
    print(f"\n{title}\n", flush=True)
    by_seeds = [*(f"{n} seeds" for n in SEEDS), "until decided"]
    if title in FALSE:
        families, false_by, bounded = FALSE[title]
        rows = simulation.rows(families(), false_by, bounded)
        return table(["scores", "tricks", *by_seeds], rows)
    first, families, wanted = FOUND[title]
    heads = [first, "tricks", *by_seeds, "seeds it took, median"]
    return table(heads, simulation.powers(families(), wanted))


def write(measured):
    """Put tables, by their titles, into the document; the others stay."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    between, _, after = rest.partition(END)
    parts = [part.partition("\n\n") for part in between.split("### ")[1:]]
    tables = {title: text.strip() for title, _, text in parts} | measured
    text = "".join(f"### {title}\n\n{tables[title]}\n\n" for title in TITLES if title in tables)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("places", type=int, nargs="*", help=f"of tables, 1 to {len(TITLES)}; all")
    parser.add_argument("--repeats", type=int, default=20_000, help="families a cell")
    parser.add_argument("--quick", action="store_true", help="1,000 families, nothing written")
    arguments = parser.parse_args()
    exceeded = []
    for place in arguments.places or range(1, len(TITLES) + 1):
        simulation = Simulation(1000 if arguments.quick else arguments.repeats)
        title = TITLES[place - 1]
        text = measure(title, simulation)
        text += (
            f"\n\n{simulation.repeats:,} families a cell; measured again with ten times as many: "
        )
        text += ("; ".join(simulation.again) or "none") + "."
        exceeded += simulation.exceeded
        print(f"\n{text.splitlines()[-1]}")
        if not arguments.quick:
            write({title: text})
    if exceeded:
        sys.exit("Beyond alpha: " + "; ".join(exceeded))


if __name__ == "__main__":
    main()
