"""How often verdicts are wrong, by simulation: the code that makes verdicts, on made-up scores.

    python -m benchmarks.calibration           # the tables of docs/calibration.md
    python -m benchmarks.calibration --quick   # a look at them in half a minute; writes nothing

A family is the tricks of one ablation, and is counted as false if any of its verdicts is. Scores of
the baseline and of each trick are drawn and subtracted, so the differences depend on each other as
they do in an ablation. A rate beyond alpha by more than two standard errors is measured again, with
new numbers and ten times as many of them, and that one counts; if it is beyond too, the exit code
is 1.
"""

import argparse
import sys
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np

from runner.ablation.decide import Verdict, decide

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
class Family:
    """Tricks, their true effects, and how scores come about."""

    title: str
    effects: tuple[float, ...]
    margin: float
    noise: object = normal
    sd: float = 1.0
    accuracy: float | None = None
    """Of the baseline, if scores are accuracies: shares of `SAMPLES`."""

    def differences(self, draw, families, seeds):
        """Draw [families, K, seeds]."""
        shape = families, len(self.effects) + 1, seeds
        effects = np.array([0.0, *self.effects])[:, None]
        if self.accuracy is None:
            scores = self.sd * self.noise(draw, shape) + effects
        else:
            scores = draw.binomial(SAMPLES, self.accuracy + effects, shape) / SAMPLES
        return scores[:, 1:] - scores[:, :1]

    @property
    def step(self):
        """What differences are multiples of."""
        return 0.0 if self.accuracy is None else 1 / SAMPLES

    def verdicts(self, differences, sequential):
        """Judge families [families, K, seeds]."""
        return decide(differences, self.margin, ALPHA, sequential, self.step).verdict

    def false(self, verdicts):
        """Whether any verdict of a family is false, [families]."""
        effects = np.array(self.effects)
        return (
            ((verdicts == Verdict.HELPS) & (effects <= 0))
            | ((verdicts == Verdict.HURTS) & (effects >= 0))
            | ((verdicts == Verdict.NEGLIGIBLE) & (np.abs(effects) >= self.margin))
        ).any(-1)


def fixed(family, seeds, families, draw):
    """Judge once; give back the verdicts."""
    return family.verdicts(family.differences(draw, families, seeds), sequential=False)


def until_decided(family, families, draw):
    """Judge after each seed until all is decided.

    Returns, for each family: whether any verdict was false at any look; the last verdict on the
    first trick; the seeds that it took.
    """
    differences = family.differences(draw, families, LAST)
    false, first = np.zeros(families, bool), np.full(families, Verdict.UNDECIDED, object)
    took, going = np.full(families, LAST), np.arange(families)
    for n in range(FIRST, LAST + 1):
        verdicts = family.verdicts(differences[going, :, :n], sequential=True)
        false[going] |= family.false(verdicts)
        now = (first[going] == Verdict.UNDECIDED) & (verdicts[:, 0] != Verdict.UNDECIDED)
        took[going[now]] = n
        first[going] = verdicts[:, 0]
        going = going[(verdicts == Verdict.UNDECIDED).any(-1)]
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

    def false_rate(self, family, seeds, repeats):
        """The share of families with a false verdict; `seeds` None: until decided."""
        total = 0
        for families, draw in self.chunks(repeats):
            if seeds is None:
                total += until_decided(family, families, draw)[0].sum()
            else:
                total += family.false(fixed(family, seeds, families, draw)).sum()
        return float(total) / repeats

    def cell(self, family, seeds):
        """Measure a rate; again if it is too high, and then it counts."""
        repeats = self.repeats
        rate = self.false_rate(family, seeds, repeats)
        where = f"{family.title}, {len(family.effects)} tricks, {seeds or 'until decided'}"
        if rate > bound(repeats):
            self.again.append(f"{where}: {100 * rate:.2f} %")
            repeats *= 10
            rate = self.false_rate(family, seeds, repeats)
            if rate > bound(repeats):
                self.exceeded.append(f"{where}: {100 * rate:.2f} %")
        return f"{100 * rate:.2f} ±{100 * sqrt(rate * (1 - rate) / repeats):.2f}"

    def rows(self, families):
        """A row for each family, a column for each number of seeds."""
        for family in families:
            cells = [self.cell(family, seeds) for seeds in (*SEEDS, None)]
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
    "No trick does anything: families with HELPS or HURTS, in %": none_differs,
    "All are at the margin: families with NEGLIGIBLE or the wrong direction, in %": (
        all_at_the_margin
    ),
    "Half do nothing, half are at the margin: families with a false verdict, in %": (
        half_at_the_margin
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


def tables(simulation):
    """Measure and write all tables."""
    by_seeds = [*(f"{n} seeds" for n in SEEDS), "until decided"]
    for title, families in FALSE.items():
        print(f"\n{title}\n", flush=True)
        yield title, table(["scores", "tricks", *by_seeds], simulation.rows(families()))
    for title, (first, families, wanted) in FOUND.items():
        print(f"\n{title}\n", flush=True)
        heads = [first, "tricks", *by_seeds, "seeds it took, median"]
        yield title, table(heads, simulation.powers(families(), wanted))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=20_000, help="families a cell")
    parser.add_argument("--quick", action="store_true", help="1,000 families, nothing written")
    arguments = parser.parse_args()
    simulation = Simulation(1000 if arguments.quick else arguments.repeats)
    text = "".join(f"### {title}\n\n{lines}\n\n" for title, lines in tables(simulation))
    text += f"{simulation.repeats:,} families a cell; measured again with ten times as many: "
    text += ("; ".join(simulation.again) or "none") + "."
    print(f"\n{text.splitlines()[-1]}")
    if not arguments.quick:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
    if simulation.exceeded:
        sys.exit("Beyond alpha: " + "; ".join(simulation.exceeded))


if __name__ == "__main__":
    main()
