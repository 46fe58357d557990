"""How often verdicts on unpaired runs are wrong, by simulation: two groups, without common seeds.

    python -m benchmarks.unpaired             # about ten minutes
    python -m benchmarks.unpaired --quick     # a look in a minute

As `benchmarks.calibration`, whose families these are: a family is all the variants of a table, and
counts as false if any verdict is. The columns are the runs of each variant, and of the baseline.
"""

import argparse
import sys
from math import sqrt

import numpy as np

from benchmarks.calibration import bound, table
from benchmarks.families import (
    ALPHA,
    SAMPLES,
    TRICKS,
    Family,
    diverging,
    heavy,
    normal,
    unequal,
)
from runner.ablation.decide import conclude
from runner.ablation.scores.unpaired import welch

SIZES = ((3, 3), (5, 5), (10, 10), (3, 10), (10, 3), (5, 20), (20, 5))


def skewed(draw, shape):
    """Exponential, with the long end below."""
    return 1 - draw.standard_exponential(shape)


def all_unequal(draw, shape):
    """Every trick spreads its runs three times as far as the baseline."""
    scores = draw.standard_normal(shape)
    scores[:, 1:] *= 3
    return scores


def baseline_unequal(draw, shape):
    """The baseline spreads its runs three times as far as the tricks."""
    scores = draw.standard_normal(shape)
    scores[:, 0] *= 3
    return scores


NOISES = {
    "normal": normal,
    "one trick spreads 3x": unequal,
    "all tricks spread 3x": all_unequal,
    "the baseline spreads 3x": baseline_unequal,
    "heavy tails (t, 3 df)": heavy,
    "skewed (exponential)": skewed,
    "3 % of runs diverge": diverging,
}


def families():
    """No effects, all at the margin, and half of each."""
    for count in TRICKS:
        signs = [1.0 if index % 2 else -1.0 for index in range(count)]
        truths = {"none": [0.0] * count, "margin": signs}
        if count > 1:
            truths["half"] = [0.0] * (count // 2) + signs[count // 2 :]
        for truth, effects in truths.items():
            for name, noise in NOISES.items():
                for sd in (1.0,) if truth == "none" else (0.3, 1.0):
                    title = f"{name}, {truth}" + ("" if truth == "none" else f", sd {sd}")
                    yield Family(title, tuple(effects), 1.0, noise, sd)
            lower = tuple(-0.005 * abs(effect) for effect in effects)
            for accuracy in (0.975, 0.99, 0.998):
                title = f"accuracies near {accuracy}, {truth}"
                yield Family(title, lower, 0.005, accuracy=accuracy)


def verdicts(family, runs, baseline, count, draw):
    """Draw and judge families of two groups, [count, K]."""
    shape = count, len(family.effects) + 1, max(runs, baseline)
    effects = np.array([0.0, *family.effects])[:, None]
    if family.accuracy is None:
        scores = family.sd * family.noise(draw, shape) + effects
    else:
        scores = draw.binomial(SAMPLES, family.accuracy + effects, shape) / SAMPLES
    groups = scores[:, 1:, :runs], scores[:, 0, :baseline]
    return conclude(welch(*groups, family.margin, family.step).tests, family.margin, ALPHA).verdict


def rate(family, sizes, repeats, seed):
    """The share of families with a false verdict."""
    draw = np.random.default_rng(seed)
    return float(family.false(verdicts(family, *sizes, repeats, draw)).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=10_000, help="families a cell")
    parser.add_argument("--quick", action="store_true", help="1,000 families")
    arguments = parser.parse_args()
    repeats = 1000 if arguments.quick else arguments.repeats
    exceeded = []

    def rows():
        for number, family in enumerate(families()):
            cells = []
            for sizes in SIZES:
                found, n = rate(family, sizes, repeats, number), repeats
                if found > bound(n):  # again, with new numbers and more of them
                    n = 10 * repeats
                    found = rate(family, sizes, n, number + 1000)
                    if found > bound(n):
                        exceeded.append(f"{family.title}, {len(family.effects)} tricks, {sizes}")
                cells.append(f"{100 * found:.2f} ±{100 * sqrt(found * (1 - found) / n):.2f}")
            yield [family.title, str(len(family.effects)), *cells]

    heads = ["scores", "tricks", *(f"{n} against {n0}" for n, n0 in SIZES)]
    table(heads, rows())
    if exceeded:
        sys.exit("Beyond alpha: " + "; ".join(exceeded))


if __name__ == "__main__":
    main()
