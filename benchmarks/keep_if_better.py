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
from dataclasses import replace
from functools import cache
from math import sqrt
from pathlib import Path

import numpy as np

from benchmarks.calibration import table
from benchmarks.nothing import ALPHA, DOCUMENT, MARGIN, keep_if_better
from runner.ablation.decide import Verdict, decide

NULL, REAL = 100, 10
FEW, MORE, FIRST, LAST = 5, 10, 3, 30  # seeds; the last two of `until=decided`
BATCH, SHORT = 10, 20  # changes in a family of their own
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


def judged(differences, margin=MARGIN, step=0.0, **settings):
    """Which changes HELPS is said of, [..., K]."""
    return decide(differences, margin, ALPHA, step=step, **settings).verdict == Verdict.HELPS


def in_batches(differences, order, **settings):
    """The same, in families of ten, each at alpha; `order` [K] is how they come."""
    families = differences[..., order, :].reshape(
        *differences.shape[:-2], -1, BATCH, differences.shape[-1]
    )
    kept = np.zeros(differences.shape[:-1], bool)
    kept[..., order] = judged(families, **settings).reshape(kept.shape)
    return kept


def until_decided(differences, margin=MARGIN, step=0.0, **settings):
    """Add seeds to the changes that are UNDECIDED, one at a time; the runs that it takes as well."""
    count = differences.shape[-2]
    taken = np.full(differences.shape[:-1], FIRST)
    for n in range(FIRST, differences.shape[-1] + 1):
        seen = np.where(np.arange(n) < taken[..., None], differences[..., :n], np.nan)
        verdict = decide(seen, margin, ALPHA, True, step, **settings).verdict
        going = verdict == Verdict.UNDECIDED
        if n == differences.shape[-1] or not going.any():
            break
        taken += going & (taken == n)
    return verdict == Verdict.HELPS, (taken.sum(-1) + taken.max(-1)).mean(), count


def short_list(single, differences, **settings):
    """Judge those twenty that had the best single run, by seeds that the choice has not seen."""
    chosen = np.argsort(-single, -1)[..., :SHORT]
    kept = np.zeros(single.shape, bool)
    verdicts = judged(np.take_along_axis(differences, chosen[..., None], -2), **settings)
    np.put_along_axis(kept, chosen, verdicts, -1)
    return kept


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
    pixels, labels = (part.numpy() for part in source.train)
    used = draw.permutation(len(labels))[: round(images * len(labels))]
    false = draw.random(len(labels)) < wrong
    labels = np.where(false, (labels + draw.integers(1, 10, len(labels))) % 10, labels)
    if order:
        used = np.random.default_rng(order).permutation(used)
    numbers = np.random.default_rng(classes).permutation(10) if classes else np.arange(10)
    train = Split(torch.from_numpy(pixels[used]), torch.from_numpy(numbers[labels[used]]))
    test = Split(source.test.images, torch.from_numpy(numbers[source.test.labels.numpy()]))
    return Source(train, test, source.classes)
