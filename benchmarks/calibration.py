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
from math import sqrt
from pathlib import Path

import numpy as np

from benchmarks import families as f
from benchmarks.families import ALPHA
from runner.ablation.decide import Verdict, plan_looks

SEEDS = (3, 5, 10, 20)
FIRST, LAST = 3, 30  # seeds of an ablation until=decided
LOOKS = plan_looks(5, LAST)
CHUNK = 10_000  # families at once: some 400 MB
DOCUMENT = Path(__file__).parent.parent / "docs" / "calibration.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"  # what lies between is replaced


def fixed(family, seeds, families, draw):
    """Judge once; give back the verdicts."""
    return family.verdicts(family.differences(draw, families, seeds), sequential=False)


def until(way, family, families, draw, false_by="false"):
    """Judge again and again until all is decided: `decided` after each seed, `looks` at a few.

    At looks, seeds are added to the tricks that are undecided alone, as in an ablation.

    Returns, for each family: whether any verdict was false at any look, [F]; the last verdicts,
    [F, K]; the seeds until each trick had its own, [F, K].
    """
    wrong, few = getattr(family, false_by), way == "looks"
    open_ones = (Verdict.UNDECIDED, Verdict.NONE)
    looks = LOOKS if few else range(FIRST, LAST + 1)
    differences = family.differences(draw, families, LAST)
    settled = np.ones(differences.shape, bool)
    false, going = np.zeros(families, bool), np.arange(families)
    last = np.full(differences.shape[:-1], Verdict.UNDECIDED, object)
    took = np.full(last.shape, LAST)
    for n in looks:
        seen = differences[going, :, :n]
        if few:
            known = settled[going, :, :n]
            verdicts = family.verdicts_at_looks(np.where(known, seen, np.nan), known, LOOKS)
        else:
            verdicts = family.verdicts(seen, sequential=True)
        false[going] = wrong(verdicts) | (false[going] & (false_by != "void"))
        undecided = np.isin(verdicts, open_ones)
        took[going] = np.where(np.isin(last[going], open_ones) & ~undecided, n, took[going])
        last[going] = verdicts
        settled[going, :, n:] = undecided[..., None]
        going = going[undecided.any(-1)]
    return false, last, took


def usual(family):
    """How seeds are added: with few looks where spreads are shared, else with one after each."""
    return "looks" if family.shared else "decided"


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
        """The share of families with a false verdict; `seeds` None: seeds are added."""
        total = 0
        for families, draw in self.chunks(repeats):
            if seeds is None:
                total += until(usual(family), family, families, draw, false_by)[0].sum()
            else:
                total += getattr(family, false_by)(fixed(family, seeds, families, draw)).sum()
        return float(total) / repeats

    def cell(self, family, seeds, false_by, bounded):
        """Measure a rate; again if it is too high, and then it counts."""
        repeats = self.repeats
        rate = self.rate(family, seeds, repeats, false_by)
        where = f"{family.title}, {len(family.effects)} tricks, {seeds or usual(family)}"
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
                _, last, seeds = until(usual(family), family, n, draw)
                found += (last[:, 0] == wanted).sum()
                took.append(seeds[:, 0])
            cells.append(f"{100 * found / self.repeats:.0f}")
            cells.append(f"{np.median(np.concatenate(took)):.0f}")
            yield [family.title, str(len(family.effects)), *cells]

    def budgets(self, families):
        """For each design what it finds, what it calls negligible, and how often it errs, in %.

        The seeds are a number, or the way in which they are added.
        """
        for family, seeds in families:
            count, variants = family.weights.shape
            helps = negligible = false = runs = 0
            for n, draw in self.chunks(self.repeats):
                if isinstance(seeds, int):
                    verdicts = fixed(family, seeds, n, draw)
                    wrong, took = family.false(verdicts), np.full((n, count), seeds)
                else:
                    wrong, verdicts, took = until(seeds, family, n, draw)
                helps += (verdicts[:, 0] == Verdict.HELPS).sum()
                negligible += (verdicts[:, 1] == Verdict.NEGLIGIBLE).sum()
                false += wrong.sum()
                alone = variants == count + 1  # the baseline is run with every seed
                most = took.max(1)
                runs += (took.sum(1) + most if alone else most * variants).sum()
            shares = [f"{100 * n / self.repeats:.1f}" for n in (helps, negligible, false)]
            yield [family.title, f"{runs / self.repeats:.0f}", *shares]


def bound(repeats):
    """Alpha and two standard errors."""
    return ALPHA + 2 * sqrt(ALPHA * (1 - ALPHA) / repeats)


def table(heads, rows):
    """Write Markdown."""
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in rows:
        lines.append(f"| {' | '.join(row)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


FALSE = {
    "No trick does anything: families with HELPS or HURTS, in %": (f.none_differs, "false", True),
    "All are at the margin: families with NEGLIGIBLE or the wrong direction, in %": (
        *(f.all_at_the_margin, "false", True),
    ),
    "Half do nothing, half are at the margin: families with a false verdict, in %": (
        *(f.half_at_the_margin, "false", True),
    ),
    "Spreads are shared, and no trick does anything: families with HELPS or HURTS, in %": (
        *(f.shared, "false", True),
    ),
    "Spreads are shared, and all are at the margin: families with NEGLIGIBLE or the wrong "
    "direction, in %": (f.shared_at_the_margin, "false", True),
    "Other designs, and spreads are shared: families with a false verdict, in %": (
        *(f.other_designs, "false", True),
    ),
    "Runs fail, and the seeds of the baseline's are left out: families with a false HELPS, HURTS "
    "or NEGLIGIBLE, in %": (f.lost, "false", True),
    "Every run fails as often: families with a false BROKEN, in %": (f.failing, "broken", True),
    "The same: families in which no trick can be judged, in %": (f.failing, "void", False),
    "Rare collapses, which few seeds do not show: families with a false verdict, in %": (
        *(f.collapsing, "false", False),
    ),
}
FOUND = {
    "One trick has an effect: how often it HELPS, in %": ("effect", f.powerful, Verdict.HELPS),
    "No trick does anything: how often the first one is NEGLIGIBLE, in %": (
        *("margin", f.harmless, Verdict.NEGLIGIBLE),
    ),
}
BUDGET = "Five tricks, one with an effect, and about so many runs"


TITLES = [*FALSE, *FOUND, BUDGET]


def measure(title, simulation):
    """Measure and write a table."""
    print(f"\n{title}\n", flush=True)
    by_seeds = [f"{n} seeds" for n in SEEDS]
    if title in FALSE:
        families, false_by, bounded = FALSE[title]
        rows = simulation.rows(families(), false_by, bounded)
        return table(["scores", "tricks", *by_seeds, "seeds added"], rows)
    if title == BUDGET:
        heads = ["design", "runs", "HELPS of the one", "NEGLIGIBLE of another", "any false"]
        return table(heads, simulation.budgets(f.budgets()))
    first, families, wanted = FOUND[title]
    heads = [first, "tricks", *by_seeds, "seeds added", "median of them"]
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
