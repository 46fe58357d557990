"""A hundred changes that do nothing and ten that help: what a loop keeps, and what verdicts keep.

    python -m benchmarks.keep_if_better          # simulated; some minutes
    python -m benchmarks.keep_if_better --real   # on the digits: half an hour on one core
    python -m benchmarks.keep_if_better --quick  # simulated, few repetitions; writes nothing

The loop makes one change after the other, in random order, and keeps a change if its run scores
better; the next change is made to what was kept. Verdicts compare each change with the baseline,
with the same seeds. The runs of --real are kept in outputs/keep_if_better.jsonl: the same command
goes on where it was stopped.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from math import sqrt
from pathlib import Path

import numpy as np

from benchmarks.calibration import table
from benchmarks.nothing import ALPHA, MARGIN, SPREADS, keep_if_better, percent, sharing_of, write
from runner.ablation.decide import (
    Verdict,
    conclude,
    decide,
    paired_tests_at_looks,
    plan_looks,
)

NULL, REAL = 100, 10
FEW, MORE, FIRST, LAST = 5, 10, 3, 30  # seeds; the last two of `until=decided`
LOOKS = FEW, LAST
BATCH, SHORT = 10, 20  # changes in a family of their own
LOOPED = 3  # orders of the changes for real
RUNS = Path("outputs/keep_if_better.jsonl")

BASELINE = {  # worse than it has to be in ten ways
    "data.augment.flip": True,
    "data.augment.cutout": 2,
    "model.width": 6,
    "epochs": 4,
    "batch_size": 32,
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.8,
    "tricks.clipping.max_norm": 1.0,
    "wrong labels": 0.05,  # the share of the training labels that are made wrong
    "images": 0.8,  # the share of the training images that are used
    "shift of seeds": 0,
    "order of images": 0,  # which random permutation of the training images
    "order of classes": 0,  # which random numbering of the classes
}
HELPFUL = {
    "data.augment.flip": False,
    "data.augment.cutout": 0,
    "model.width": 8,
    "epochs": 5,
    "batch_size": 24,
    "optimizer.lr": 0.15,
    "optimizer.momentum": 0.9,
    "tricks.clipping.max_norm": 10.0,
    "wrong labels": 0.0,
    "images": 1.0,
}
CHANGES = [  # a hundred that only draw other random numbers, or rename what has no order
    *({"shift of seeds": 1000 * k} for k in range(1, 35)),
    *({"order of images": k} for k in range(1, 34)),
    *({"order of classes": k} for k in range(1, 34)),
    *({key: value} for key, value in HELPFUL.items()),
]
EFFECTIVE = np.arange(NULL + REAL) >= NULL


def judged(differences, spread="shared"):
    """Of which changes HELPS is said, [..., K]."""
    sharing = sharing_of(spread, differences.shape[-2])
    return decide(differences, MARGIN, ALPHA, sharing=sharing).verdict == Verdict.HELPS


def in_batches(differences, order):
    """Judge them in families of ten, each at alpha; `order` [K] is how the changes come."""
    shape = differences.shape
    families = differences[..., order, :].reshape(*shape[:-2], -1, BATCH, shape[-1])
    kept = np.zeros(shape[:-1], bool)
    kept[..., order] = judged(families).reshape(kept.shape)
    return kept


def with_more_seeds(differences, until, spread="shared"):
    """Add seeds to the changes that are UNDECIDED; which HELPS, and the runs.

    Args:
        differences: [..., K, LAST].
        until: `decided`, after each seed; or `looks`, at a few numbers of seeds.
        spread: As in the config.
    """
    looks = plan_looks(*LOOKS) if until == "looks" else range(FIRST, LAST + 1)
    sharing = sharing_of(spread, differences.shape[-2])
    taken = np.full(differences.shape[:-1], looks[0])
    for now, then in zip(looks, (*looks[1:], LAST), strict=True):
        settled = np.arange(now) < taken[..., None]
        seen = np.where(settled, differences[..., :now], np.nan)
        if until == "looks":
            tests = paired_tests_at_looks(seen, settled, looks, MARGIN, sharing=sharing)
            verdict = conclude(tests, MARGIN, ALPHA).verdict
        else:
            verdict = decide(seen, MARGIN, ALPHA, sequential=True).verdict
        taken[(verdict == Verdict.UNDECIDED) & (taken == now)] = then
    return verdict == Verdict.HELPS, (taken.sum(-1) + taken.max(-1)).mean()


def short_list(single, differences):
    """Judge the twenty of the best single run, by seeds that the choice has not seen."""
    chosen = np.argsort(-single, -1)[..., :SHORT]
    kept = np.zeros(single.shape, bool)
    verdicts = judged(np.take_along_axis(differences, chosen[..., None], -2))
    np.put_along_axis(kept, chosen, verdicts, -1)
    return kept


SHORT_LISTED = f"one run each, then the best {SHORT} judged"
LOOPS = [  # name, runs of each change, whether the incumbent is run again
    ("keep if better, one run each", 1, False),
    ("keep if better, incumbent run again", 1, True),
    ("keep if the mean of 5 seeds is better", FEW, False),
]


def simulated(size, repeats):
    """Yield each way, what it keeps [repeats, K], and its runs.

    Args:
        size: What each of the ten changes adds, in standard deviations of a difference.
        repeats: How often all of it is done.
    """
    draw, count = np.random.default_rng([3, round(10 * size)]), NULL + REAL
    effects = size * sqrt(2) * EFFECTIVE
    for name, seeds, again in LOOPS:
        scores = draw.standard_normal((repeats, count + 1, seeds)).mean(-1, keepdims=True)
        scores[:, 1:] += effects[:, None]
        kept = keep_if_better(scores, effects, draw, again) == 1
        yield name, kept, 2 * count if again else seeds * (count + 1)
    scores = draw.standard_normal((repeats, count + 1, LAST))
    scores[:, 1:] += effects[:, None]
    differences, order = scores[:, 1:] - scores[:, :1], draw.permutation(count)
    single = draw.standard_normal((repeats, count)) + effects
    for seeds in FEW, MORE:
        few, runs = differences[..., :seeds], seeds * (count + 1)
        for spread in SPREADS:
            yield f"judged, {seeds} seeds, `spread={spread}`", judged(few, spread=spread), runs
        yield f"judged in families of ten, {seeds} seeds", in_batches(few, order), runs
    kept = short_list(single, differences[..., :MORE])
    yield f"{SHORT_LISTED}, {MORE} fresh seeds", kept, count + MORE * (SHORT + 1)
    for until, first in (("looks", LOOKS[0]), ("decided", FIRST)):
        name = f"judged, {first} to {LAST} seeds, `until={until}`"
        yield name, *with_more_seeds(differences[: repeats // 5], until)


def row(name, kept, runs):
    """Write what a way keeps."""
    false, real = kept[..., ~EFFECTIVE].sum(-1), kept[..., EFFECTIVE].sum(-1)
    some = percent((false > 0).mean(), len(false))
    counts = [f"{x.mean():.2f} ±{x.std() / sqrt(len(x)):.2f}" for x in (false, real)]
    return [name, counts[0], some, counts[1], f"{runs:,.0f}"]


class Digits:
    """Short runs on the digits, each done once and remembered in a file."""

    def __init__(self, file=RUNS):
        from runner.cli.task import register

        register()
        file.parent.mkdir(exist_ok=True)
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.scores = dict(map(json.loads, lines))

    def __call__(self, recipe, seed):
        """Give back the test accuracy of a recipe with a seed."""
        key = json.dumps([recipe, seed], sort_keys=True)
        if key not in self.scores:
            self.scores[key] = train({**recipe}, seed)
            with self.file.open("a") as file:
                file.write(json.dumps([key, self.scores[key]]) + "\n")
        return self.scores[key]

    def table(self, changes, seeds):
        """Score the baseline and each change with each seed, [K + 1, seeds]."""
        recipes = [BASELINE, *(BASELINE | change for change in changes)]
        columns = [[self(recipe, seed) for recipe in recipes] for seed in seeds]
        return np.array(columns).T

    def loop(self, repeat, again):
        """Keep if better, for real; which changes it kept, [K]."""
        seed, recipe = 100 + repeat, BASELINE
        kept, bar = np.zeros(NULL + REAL, bool), self(recipe, seed)
        for place, change in enumerate(np.random.default_rng(repeat).permutation(NULL + REAL)):
            if again:  # with other random numbers, else it would be the same run
                bar = self(recipe, 10_000 * (1 + place) + seed)
            score = self(recipe | CHANGES[change], seed)
            if score > bar:
                kept[change], bar, recipe = True, score, recipe | CHANGES[change]
        return kept


def train(recipe, seed):
    """Do a run in this process; give back its test accuracy."""
    from runner.build import build
    from runner.data.split import split_source
    from runner.evaluate import evaluate

    wrong, images = recipe.pop("wrong labels"), recipe.pop("images")
    order, classes = recipe.pop("order of images"), recipe.pop("order of classes")
    seed += recipe.pop("shift of seeds")
    given = replace(composed(*(f"{key}={value}" for key, value in recipe.items())), seed=seed)
    bench = build(given, split_source(changed_digits(wrong, images, order, classes), 0, seed))
    for epoch in range(given.epochs):
        bench.training.epoch(bench.batches.epoch(epoch))
    return evaluate(bench.training.model, bench.test).accuracy


@cache
def composed(*overrides):
    """Compose the config of a run."""
    from tests.conftest import settings

    return settings("data=digits", "data.validation=0", "tricks=[clipping]", *overrides)


@cache
def changed_digits(wrong, images, order, classes):
    """Read the digits with some labels wrong, some images left out, and others numbers for both."""
    import torch

    from runner.data import Source, digits
    from runner.data.source import Split

    source, draw = digits(), np.random.default_rng(0)
    pixels, labels = (part.numpy() for part in source.train[:2])
    used = draw.permutation(len(labels))[: round(images * len(labels))]
    false = draw.random(len(labels)) < wrong
    labels = np.where(false, (labels + draw.integers(1, 10, len(labels))) % 10, labels)
    if order:
        used = np.random.default_rng(order).permutation(used)
    numbers = np.random.default_rng(classes).permutation(10) if classes else np.arange(10)
    train = Split(torch.from_numpy(pixels[used]), torch.from_numpy(numbers[labels[used]]))
    test = Split(source.test.images, torch.from_numpy(numbers[source.test.labels.numpy()]))
    return Source(train, test, source.classes)


HEADS = ["", "false ones kept, of 100", "any false one, in %", "real ones kept, of 10", "runs"]


def simulate(repeats):
    """The tables of ten real changes of one size, by their titles."""
    tables = {}
    for size in 1.0, 2.0:
        title = f"Simulated: each of the ten real ones adds {size:g} sd of a difference"
        print(f"\n{title}\n")
        tables[title] = table(HEADS, (row(*way) for way in simulated(size, repeats)))
    return tables


TRUE_HEADS = ["", "test accuracy, points", "sd of a run", "effect / sd of a difference"]
REAL_HEADS = ["", "false ones kept, of 100", "real ones kept, of 10", "runs"]


def judge(name, places, scores, seeds):
    """Judge changes by `python -m runner.judge`; which HELPS is said of, [K].

    Args:
        name: Of the table that is written beside the runs.
        places: Of the changes.
        scores: [1 + their number, seeds], the baseline first.
        seeds: The seeds.
    """
    names = "baseline", *(str(place) for place in places)
    rows = ["variant,seed,accuracy"]
    for variant, row in zip(names, scores, strict=True):
        rows += [f"{variant},{seed},{score}" for seed, score in zip(seeds, row, strict=True)]
    file = RUNS.with_name(f"keep_if_better_{name}.csv")
    file.write_text("\n".join(rows) + "\n")
    options = "--baseline", "baseline", "--margin", "0.005", "--samples", "359", "--json"
    command = [sys.executable, "-m", "runner.judge", str(file), *options]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    verdicts = {effect["contrast"]["name"]: effect["verdict"] for effect in answer["effects"]}
    return np.array([verdicts.get(str(place)) == "HELPS" for place in range(NULL + REAL)])


def real_rows(digits):
    """What each way keeps of the changes of the digits."""

    def written(name, kept, runs):
        return [name, f"{kept[~EFFECTIVE].sum()}", f"{kept[EFFECTIVE].sum()}", f"{runs}"]

    count = NULL + REAL
    single = digits.table(CHANGES, [0])[1:, 0]
    chosen, fresh = np.argsort(-single, kind="stable")[:SHORT], range(1, 1 + FEW)
    scores = digits.table([CHANGES[place] for place in chosen], fresh)
    kept = judge("short", chosen, scores, fresh)
    yield written(f"{SHORT_LISTED}, {FEW} fresh seeds", kept, count + FEW * (SHORT + 1))
    for repeat in range(LOOPED):
        kept, order = digits.loop(repeat, again=False), f"order {1 + repeat}"
        yield written(f"keep if better, one run each, {order}", kept, 1 + count)
    kept = digits.loop(0, again=True)
    yield written("keep if better, incumbent run again, order 1", kept, 2 * count)
    seeds = range(FEW)
    kept = judge("all", range(count), digits.table(CHANGES, seeds), seeds)
    yield written(f"judged, {FEW} seeds", kept, FEW * (1 + count))


def truth_rows(digits):
    """What the ten changes do, by ten seeds that nothing else uses."""
    scores = digits.table(CHANGES[NULL:], range(5000, 5010))
    yield "baseline", f"{100 * scores[0].mean():.2f}", f"{100 * scores[0].std(ddof=1):.2f}", ""
    for (key, value), change in zip(HELPFUL.items(), scores[1:], strict=True):
        differences = 100 * (change - scores[0])
        error = differences.std(ddof=1) / sqrt(len(differences))
        size = differences.mean() / differences.std(ddof=1)
        effect = f"{differences.mean():+.2f} ±{error:.2f}"
        yield (
            f"{key}: {BASELINE[key]} → {value}",
            effect,
            f"{change.std(ddof=1) * 100:.2f}",
            f"{size:.1f}",
        )


def do_for_real():
    """The tables of the digits, by their titles."""
    digits, tables = Digits(), {}
    for title, heads, rows in (
        ("What the ten real ones do, by ten seeds of their own", TRUE_HEADS, truth_rows),
        ("What is kept of the 110", REAL_HEADS, real_rows),
    ):
        print(f"\n{title}\n")
        tables[title] = table(heads, rows(digits))
    return tables


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--real", action="store_true", help="on the digits")
    parser.add_argument("--quick", action="store_true", help="20 repetitions")
    arguments = parser.parse_args()
    if arguments.real:
        write("digits", do_for_real())
    else:
        tables = simulate(20 if arguments.quick else 500)
        if not arguments.quick:
            write("loops", tables)


if __name__ == "__main__":
    main()
