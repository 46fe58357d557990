"""Whether compiling pays: what it takes, what it saves, and after how many epochs that is even."""

import math
import time
from dataclasses import replace
from statistics import median

import torch

from runner.ablation.plan import Plan
from runner.compiled import forget
from runner.errors import UserError
from runner.sweep.cost import FEWEST, Sets, Trial, settings_of
from runner.texts import in_one_line


def does_compiling_pay(plan: Plan, each: float) -> list[str]:
    """Measure it on the reference of a plan whose runs are compiled; nothing for other plans.

    Args:
        plan: The plan.
        each: How long to time the updates, in seconds.

    Raises:
        UserError: If the network cannot be compiled, with what is wrong.
    """
    variant, sets = next(iter(plan.variants)), Sets()
    settings = settings_of(plan, variant)
    if not settings.compile:
        return []
    plain = Trial(variant, replace(settings, compile=False), sets)
    trial = Trial(variant, settings, sets)
    _pass_each_shape(plain)  # what is done once: memory is taken
    usual = _pass_each_shape(plain)
    try:
        first = _pass_each_shape(trial) - usual
        forget()
        again = _pass_each_shape(trial) - usual
    except Exception as error:  # of the compiler, which may be missing
        text = f"{variant} cannot be compiled: {in_one_line(error)}. Use compile=false."
        raise UserError(text) from error
    pairs, begun = list[tuple[float, float]](), time.perf_counter()
    while len(pairs) < FEWEST or time.perf_counter() - begun < each:
        pairs.append((plain.update(), trial.update()))
    before, after = (trial.cost(median(taken)).epoch for taken in zip(*pairs, strict=True))
    return [
        f"compile={str(settings.compile).lower()}: an epoch of {variant} takes {after:.2f} s, and "
        f"{before:.2f} s without; compiling took {first:.1f} s, and {max(again, 0.0):.1f} s once "
        "torch's cache on disk has it",
        _when_it_pays(before - after, first, again, settings.epochs),
    ]


def _when_it_pays(gain: float, first: float, again: float, epochs: float) -> str:
    """Write from when on it pays, by the seconds that an epoch is shorter.

    >>> _when_it_pays(0.5, first=30.0, again=1.2, epochs=15)
    'it pays after 60 epochs, 4.0 runs, and after 3 epochs, 0.2 runs, once the cache has it (a
    worker compiles a network once for all its runs)'
    >>> _when_it_pays(-0.5, first=30.0, again=1.2, epochs=15)
    'it never pays here: an epoch takes no less. Drop it.'
    """
    if gain <= 0:
        return "it never pays here: an epoch takes no less. Drop it."
    even = (max(1, math.ceil(seconds / gain)) for seconds in (first, again))
    texts = [f"{count} epochs, {count / epochs:,.1f} runs" for count in even]
    return (
        f"it pays after {texts[0]}, and after {texts[1]}, once the cache has it (a worker compiles "
        "a network once for all its runs)"
    )


def _pass_each_shape(trial: Trial) -> float:
    """Train and evaluate on batches of each size that a run has; give back the seconds."""
    start, training = time.perf_counter(), trial.bench.training
    trial.update()
    training.step(next(trial.bench.batches.epoch(0, len(trial.bench.batches) - 1)))
    splits = [split for split in (trial.bench.validation, trial.bench.test) if len(split)]
    training.model.eval()
    with torch.no_grad(), training.autocast():
        for split in splits:
            for number in {0, len(split) - 1}:
                training.predictor(next(split.epoch(0, number)).inputs)
    training.model.train()
    if training.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
