"""What tuning does to verdicts, by simulation: tricks that do nothing, and settings to choose from.

    python -m benchmarks.tuning [--repeats 20000]

A variant has a number of settings. Each is tried in so many trials, the best mean is chosen, and
the variants are judged with what was chosen for each, with the code that makes verdicts. Scores are
a setting's own, the same in every variant, and normal noise of standard deviation 1 for each run;
a trial is scored by a validation split of as much noise. No trick does anything, so every HELPS or
HURTS is false, or is owed to the settings.
"""

import argparse
from dataclasses import dataclass
from math import sqrt

import numpy as np

from benchmarks.families import ALPHA
from runner.ablation.decide import Verdict, decide

CHUNK = 2000  # families at once


@dataclass(frozen=True)
class Tuning:
    """How tricks that do nothing, and their baseline, are tuned before they are judged."""

    title: str
    settings: int = 9
    trials: int = 1
    """Of each setting."""
    apart: float = 0.0
    """The standard deviation of the settings' own scores; 0: they are all as good."""
    baseline: bool = True
    """Whether the baseline is tuned as well, or has the first setting."""
    fresh: bool = True
    """Whether other seeds judge; else the scores that were chosen by are judged."""
    withheld: bool = True
    """Whether there is no verdict on a trick with another setting than the baseline, as in an
    ablation."""

    def scores(self, draw, families, variants, seeds):
        """Draw the scores that are judged, [families, variants, seeds], and what was chosen."""
        own = self.apart * draw.standard_normal((families, 1, self.settings))
        shape = families, variants, self.settings
        judged = own[..., None] + draw.standard_normal((*shape, seeds))
        noise = draw.standard_normal(shape) / sqrt(self.trials)
        chosen = np.argmax(own + noise if self.fresh else judged.mean(-1), -1)
        if not self.baseline:
            chosen[:, 0] = 0
        return np.take_along_axis(judged, chosen[..., None, None], 2)[:, :, 0], chosen

    def false(self, draw, families, tricks, seeds):
        """Whether any trick HELPS or HURTS, [families]."""
        scores, chosen = self.scores(draw, families, tricks + 1, seeds)
        verdicts = decide(scores[:, 1:] - scores[:, :1], 0.0, ALPHA).verdict
        found = np.isin(verdicts, (Verdict.HELPS, Verdict.HURTS))
        return (found & ~(self.withheld & (chosen[:, 1:] != chosen[:, :1]))).any(-1)


ROWS = (
    Tuning("all are tuned, as an ablation does it; the settings are as good"),
    *(
        Tuning(f"the same, the settings 1 sd apart, {n} trials of each", 9, n, 1.0)
        for n in (1, 3, 10)
    ),
    Tuning("the tricks' own settings are tuned", baseline=False, withheld=False),
    *(
        Tuning(
            f"verdicts on other settings too, 1 sd apart, {n} trials of each",
            *(9, n, 1.0),
            withheld=False,
        )
        for n in (1, 3, 10)
    ),
    Tuning(
        "the judging seeds reused, the tricks alone tuned",
        baseline=False,
        fresh=False,
        withheld=False,
    ),
    Tuning(
        "fresh seeds, the tricks alone tuned, the settings 1 sd apart",
        *(9, 1, 1.0),
        baseline=False,
        withheld=False,
    ),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=20_000, help="families a cell")
    repeats = parser.parse_args().repeats
    print(
        f"| families with HELPS or HURTS, in % ({repeats:,} a cell) | tricks | 5 seeds | 10 | 20 |"
    )
    print("|---|---:|---:|---:|---:|")
    for row in ROWS:
        for tricks in (1, 5):
            cells = []
            for seeds in (5, 10, 20):
                draw = np.random.default_rng(seeds)
                total = sum(
                    row.false(draw, min(CHUNK, repeats - start), tricks, seeds).sum()
                    for start in range(0, repeats, CHUNK)
                )
                rate = total / repeats
                cells.append(f"{100 * rate:.2f} ±{100 * sqrt(rate * (1 - rate) / repeats):.2f}")
            print(f"| {row.title} | {tricks} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
