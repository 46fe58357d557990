"""What each way to compare scores says where nothing differs, and what it finds elsewhere.

    python -m benchmarks.nothing                # the tables of docs/nothing.md
    python -m benchmarks.nothing --only mushin  # the rows whose name has that word; others stay
    python -m benchmarks.nothing --quick        # a look at them in seconds; writes nothing
    python -m benchmarks.nothing --check-aso    # deep-significance as run here, and as it is

Scores are normal with a standard deviation of 1; the tricks of a family share its baseline, as in
`benchmarks.calibration`. A family counts as false if any of its claims is. Two packages are needed
that Biscuits itself does not need; without them, or with --quick, their rows are left out:

    pip install deepsig 'mushin-py[eval]'
"""

import argparse
import importlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import sqrt
from pathlib import Path

import numpy as np
from scipy import sparse, stats

from benchmarks.calibration import table
from runner.ablation.decide import Verdict, adjust, decide
from runner.ablation.sharing import find_sharing

ALPHA, MARGIN = 0.05, 1.0  # on the digits the default margin, 0.5 points, is 1.03 of their sd
TRICKS, SEEDS = (1, 5, 10), (3, 5, 10)
EFFECTS, FEWER_SEEDS = (1.0, 1.5, 2.0), (5, 10)  # in standard deviations of a difference
BETTER, WORSE, SMALL = 1, -1, 2  # what is claimed of a trick; 0: nothing
ASO = {"num_bootstrap_iterations": 50, "dt": 0.02}  # its 1000 and 0.005 take 80 times as long
SPREADS = "own", "shared"
BOUNDS = {}  # which both thresholds are compared with
DOCUMENT = Path(__file__).parent.parent / "docs" / "nothing.md"


def keep_if_better(scores, effects, draw, again=False):
    """One run a change, in random order; what is kept is what the next change is made to.

    Args:
        scores: [families, K + 1, seeds], the baseline first; one seed of each is used.
        effects: [K], what a kept trick adds to all that follow.
        draw: Numbers for the order, and for the runs of the incumbent.
        again: Whether the incumbent is run again beside each change; else its old score is the bar.
    """
    single = scores[:, :, 0]
    families, count = single.shape[0], single.shape[1] - 1
    every, kept = np.arange(families), np.zeros((families, count), bool)
    bar, gained = single[:, 0].copy(), np.zeros(families)
    for trick in draw.permuted(np.tile(np.arange(count), (families, 1)), axis=1).T:
        score = single[every, 1 + trick] + gained
        if again:
            bar = draw.standard_normal(families) + gained
        better = score > bar
        kept[every, trick] = better
        bar = np.where(better, score, bar)
        gained += better * effects[trick]
    return kept * BETTER


def mean_is_better(scores, effects, draw):  # noqa: ARG001
    """Keep what has the better mean over the seeds."""
    return (scores[:, 1:].mean(-1) > scores[:, :1].mean(-1)) * BETTER


def best_of_seeds(scores, effects, draw):  # noqa: ARG001
    """Compare the best run of each side."""
    return (scores[:, 1:].max(-1) > scores[:, :1].max(-1)) * BETTER


def bootstrap(scores, effects, draw):  # noqa: ARG001
    """Whether the 95 % percentile interval of the difference of means excludes 0."""
    count, chunks = scores.shape[1] - 1, []
    for chunk in np.array_split(scores, max(1, scores.size // 2000)):
        baseline = np.broadcast_to(chunk[:, :1], (len(chunk), count, chunk.shape[2]))
        interval = stats.bootstrap(
            (chunk[:, 1:], baseline),
            lambda a, b, axis: a.mean(axis) - b.mean(axis),
            n_resamples=1000,
            axis=-1,
            method="percentile",
            rng=draw,
        ).confidence_interval
        chunks.append((interval.low > 0) * BETTER + (interval.high < 0) * WORSE)
    return np.concatenate(chunks)


def signed(test, p):
    """What a two-sided test claims."""
    return np.sign(test.statistic) * (p <= ALPHA)


def welch(scores, effects, draw):  # noqa: ARG001
    test = stats.ttest_ind(scores[:, 1:], scores[:, :1], axis=-1, equal_var=False)
    return signed(test, test.pvalue)


def paired(scores, effects, draw):  # noqa: ARG001
    test = stats.ttest_rel(scores[:, 1:], scores[:, :1], axis=-1)
    return signed(test, adjust(test.pvalue, test.pvalue))


def sharing_of(spread, count):
    """How tricks with one baseline share their spread; None if they do not."""
    weights = np.hstack([-np.ones((count, 1)), np.eye(count)])
    return find_sharing(sparse.csr_array(weights)) if spread == "shared" else None


def ours(scores, effects, draw, spread):  # noqa: ARG001
    """The rule of Biscuits."""
    sharing = sharing_of(spread, scores.shape[1] - 1)
    differences = scores[:, 1:] - scores[:, :1]
    verdict = decide(differences, MARGIN, ALPHA, sharing=sharing).verdict
    words = {Verdict.HELPS: BETTER, Verdict.HURTS: WORSE, Verdict.NEGLIGIBLE: SMALL}
    return sum((verdict == word) * claim for word, claim in words.items())


def aso(scores, effects, draw, threshold):  # noqa: ARG001
    """deep-significance: almost stochastic order, with its correction for the number of tricks."""
    key = scores.tobytes(), scores.shape
    if key not in BOUNDS:
        BOUNDS[key] = violations(scores)
    return (BOUNDS[key] < threshold) * BETTER


def violations(scores, **settings):
    """Take deep-significance's bounds on how far tricks are from being better in every way."""
    from deepsig import aso

    settings = {**ASO, "num_comparisons": scores.shape[1] - 1, "show_progress": False} | settings
    np.random.seed(0)  # which it draws from
    return np.array(
        [[aso(trick, baseline, **settings) for trick in tricks] for baseline, *tricks in scores]
    )


def mushin(scores, effects, draw, **settings):  # noqa: ARG001
    """Take mushin's table of all pairs; those with the baseline are read, as in its summary."""
    from mushin.benchmark import compare_methods
    from xarray import Dataset

    names, claims = [f"{i}" for i in range(scores.shape[1])], []
    for family in scores:
        data = Dataset({"score": (("method", "seed"), family)}, {"method": names})
        with warnings.catch_warnings(action="ignore"):  # that no p-value of so few seeds is small
            pairs = compare_methods(data, **settings)
        pairs = pairs[pairs["method_a"] == names[0]]
        claims.append(np.where(pairs["mean_diff"] < 0, BETTER, WORSE) * pairs["significant"])
    return np.array(claims)


@dataclass(frozen=True)
class Tool:
    """A way to compare scores."""

    name: str
    claims: Callable
    """Scores [families, K + 1, seeds], effects [K] and a generator to claims [families, K]."""
    package: str | None = None
    module: str | None = None
    share: float = 1.0
    """Of the families of a cell: a slow one gets fewer."""
    comparisons: int | None = None
    """At most so many in a cell, of a trick with its baseline."""

    def missing(self):
        """Why it cannot run here, or None."""
        if self.module is None:
            return None
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            return f"left out, pip install '{self.package}' first ({error})"
        print(f"{self.name}: version {version(self.package.partition('[')[0])}")
        return None

    def measure(self, effects, seeds, most, seed):
        """Draw families and count.

        Returns:
            The shares of families with a false claim, and of those in which the first trick is
            said to be better; and the number of families.
        """
        families = round(most * self.share)
        if self.comparisons:
            families = min(families, self.comparisons // len(effects))
        draw = np.random.default_rng([seed, seeds, len(effects)])
        scores = draw.standard_normal((families, len(effects) + 1, seeds))
        scores[:, 1:] += effects[:, None]
        claims = self.claims(scores, effects, draw)
        false = (
            ((claims == BETTER) & (effects <= 0))
            | ((claims == WORSE) & (effects >= 0))
            | ((claims == SMALL) & (np.abs(effects) >= MARGIN))
        ).any(-1)
        return false.mean(), (claims[:, 0] == BETTER).mean(), families


DEEPSIG, MUSHIN = ("deepsig", "deepsig"), ("mushin-py[eval]", "mushin.benchmark")
TOOLS = [
    Tool("keep if better, one run each", keep_if_better),
    Tool("keep if better, incumbent run again", partial(keep_if_better, again=True)),
    Tool("keep if the mean is better", mean_is_better),
    Tool("best of the seeds", best_of_seeds),
    Tool("percentile bootstrap", bootstrap, share=0.1),
    Tool("Welch's t, each at 5 %", welch),
    Tool("deepsig, ε < 0.5", partial(aso, threshold=0.5), *DEEPSIG, comparisons=400),
    Tool("deepsig, ε < 0.2", partial(aso, threshold=0.2), *DEEPSIG, comparisons=400),
    Tool("mushin", mushin, *MUSHIN, share=0.01),
    Tool('mushin, `test="welch"`', partial(mushin, test="welch"), *MUSHIN, share=0.01),
    Tool("paired t, Holm", paired),
    *(Tool(f"**Biscuits**, `spread={word}`", partial(ours, spread=word)) for word in SPREADS),
]


def percent(rate, families):
    """Write a rate with its standard error."""
    error = sqrt(rate * (1 - rate) / families)
    return f"{100 * rate:.1f} ±{100 * error:.1f}"


def false_rows(tools, most):
    """Where nothing differs."""
    for tool in tools:
        cells = [
            tool.measure(np.zeros(count), seeds, most, seed=1)
            for count in TRICKS
            for seeds in SEEDS
        ]
        yield [tool.name, *(percent(false, families) for false, _, families in cells)]


def found_rows(tools, most):
    """Where one of five tricks has an effect."""
    for tool in tools:
        row = [tool.name]
        for size in EFFECTS:
            for seeds in FEWER_SEEDS:
                effects = np.array([size * sqrt(2), 0.0, 0.0, 0.0, 0.0])
                false, found, families = tool.measure(effects, seeds, most, seed=2)
                row.append(f"{percent(found, families)}; {100 * false:.1f}")
        yield row


def check_aso(comparisons=30):
    """How often deep-significance as run here decides as with its defaults."""
    draw = np.random.default_rng(3)
    scores = draw.standard_normal((comparisons, 2, 5))
    scores[:, 1] += np.repeat([0.0, 1.5], comparisons // 2)[:, None]  # half of them an effect
    usual = {"num_bootstrap_iterations": 1000, "dt": 0.005}
    here, there = violations(scores), violations(scores, **usual)
    for threshold in (0.5, 0.2):
        same = ((here < threshold) == (there < threshold)).sum()
        print(f"ε < {threshold}: the same decision in {same} of {comparisons} comparisons")


TITLES = {
    "No trick does anything: families with a false claim, in %": (
        [f"{k} trick{'s' * (k > 1)}, {n} seeds" for k in TRICKS for n in SEEDS],
        false_rows,
    ),
    "One of five tricks has an effect: how often it is found, in %; families with a false claim": (
        [f"{size:g} sd, {n} seeds" for size in EFFECTS for n in FEWER_SEEDS],
        found_rows,
    ),
}


def write(mark, tables):
    """Put rows, by their names, into the tables between two marks of the document."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, _, rest = DOCUMENT.read_text().partition(begin)
    between, _, after = rest.partition(end)
    text = ""
    for title, lines in tables.items():
        old = between.partition(f"### {title}\n")[2].partition("###")[0].strip().splitlines()[2:]
        head, rule, *new = lines.splitlines()
        rows = {line.split("|")[1].strip(): line for line in (*old, *new)}
        text += "\n".join([f"### {title}\n", head, rule, *rows.values()]) + "\n\n"
    DOCUMENT.write_text(f"{before}{begin}\n\n{text}{end}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="the rows whose name has this word")
    parser.add_argument("--quick", action="store_true", help="1,000 families, and no packages")
    parser.add_argument("--check-aso", action="store_true", help="see above")
    arguments = parser.parse_args()
    if arguments.check_aso:
        return check_aso()
    print(", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy")))
    reasons, tools = {}, [tool for tool in TOOLS if arguments.only in tool.name]
    for tool in tools:
        if reason := "left out by --quick" if arguments.quick and tool.module else tool.missing():
            reasons[tool.name] = reason
            print(f"{tool.name}: {reason}")
    tools = [tool for tool in tools if tool.name not in reasons]
    tables = {}
    for title, (heads, rows) in TITLES.items():
        print(f"\n{title}\n")
        tables[title] = table(["", *heads], rows(tools, 1000 if arguments.quick else 20_000))
    if not arguments.quick:
        write("tools", tables)
    return None


if __name__ == "__main__":
    sys.exit(main())
