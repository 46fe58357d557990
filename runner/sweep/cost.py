"""What an epoch of training costs in each variant: multiply-adds, counted, or seconds, measured.

Both are of whole updates: augmentation, tricks, micro-batches, the optimizer's step. The last batch
of an epoch, which may be smaller, counts by its share, or not at all if it is dropped. Evaluations
are left out.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Size
from torch.utils.flop_counter import (
    FlopCounterMode,
    conv_flop_count,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from runner.ablation.plan import Plan
from runner.build import build, build_data
from runner.config import Settings, check
from runner.data import DataSet
from runner.errors import UserError
from runner.texts import in_one_line
from runner.train import Diverged
from tricks import Batch

FEWEST = 3  # updates of each variant that are timed, however long they take
MOMENTS = 8  # of the training, at which an update is measured whose cost varies

Sets = dict[str, DataSet]
"""The data sets that were read, by their settings."""


class Cost(NamedTuple):
    """What an epoch of a variant's training costs."""

    epoch: float
    """Multiply-adds, or seconds."""
    updates: int
    """In an epoch."""


def multiply_adds(plan: Plan) -> dict[str, Cost]:
    """Count the multiply-adds of an epoch of each variant, forwards and backwards.

    Torch's counter takes convolutions, products of matrices and attention for two operations each
    multiply-add, and everything else for none. Neither precision nor `compile` changes the number.
    One formula is put right: torch counts the gradient of the weight of a grouped convolution as
    many times as there are groups. And one is added, for attention on a CPU.
    """
    sets, counts = Sets(), {}
    for variant in plan.variants:
        settings = settings_of(plan, variant)
        device = settings.device if torch.cuda.is_available() else "cpu"
        plain = replace(
            settings, device=device, precision="float32", compile=False, tf32="convolutions"
        )
        trial = Trial(variant, plain, sets)
        found = []
        for moment in trial.moments:
            if len(trial.moments) > 1:
                trial.update(moment)  # which tells the tricks the time
            with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
                trial.update(moment)
            found.append(counter.get_total_flops() / 2)
        counts[variant] = trial.cost(mean(found))
    return counts


def _convolution_backward(
    gradient: Size,
    images: Size,
    weight: Size,
    *more: Any,  # noqa: ANN401
    out_shape: object,  # noqa: ARG001
) -> int:
    """Each gradient, of the images and of the weight, takes as much as the convolution did."""
    _bias, _stride, _padding, _dilation, is_transposed, _output_padding, _groups, wanted = more
    forward = conv_flop_count([*images], [*weight], [*gradient], transposed=is_transposed)
    return forward * int(sum(wanted[:2]))


ATEN = torch.ops.aten
FORMULAS = {
    ATEN.convolution_backward: _convolution_backward,
    ATEN._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q, k, v
    ),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
        sdpa_backward_flop_count(g, q, k, v)
    ),
}
"""Beside those of torch."""


def seconds(
    plan: Plan,
    each: float,
    longest: float = float("inf"),
    look: "Callable[[Trial], object]" = lambda _: None,
) -> dict[str, Cost]:
    """Measure the seconds of an epoch of each variant.

    Each variant and the first one make updates in turn, so that what slows the machine slows both;
    the median of their ratios counts, and the mean of it over the training if it varies.

    Args:
        plan: The plan.
        each: How long to time each variant.
        longest: After so many seconds the variants that are left get the mean of the others.
        look: What is called with the training of each variant that was timed.
    """
    start, sets = time.perf_counter(), Sets()
    reference, *others = plan.variants
    first, taken = Trial(reference, settings_of(plan, reference), sets), list[float]()
    relative = {reference: first.cost(1.0)}  # in updates of the reference
    for variant in others or [reference]:
        if taken and time.perf_counter() - start > longest:
            relative[variant] = Cost(mean(cost.epoch for cost in relative.values()), 0)
            continue
        other = Trial(variant, settings_of(plan, variant), sets)
        first.update()  # what is done once: memory is taken, a model compiled
        ratios = []
        for moment in other.moments:
            other.update(moment)
            pairs, begun = list[tuple[float, float]](), time.perf_counter()
            while len(pairs) < FEWEST or time.perf_counter() - begun < each / len(other.moments):
                pairs.append((first.update(), other.update(moment)))
            taken += [one for one, _ in pairs]
            ratios.append(median(another / one for one, another in pairs))
        look(other)
        relative.setdefault(variant, other.cost(mean(ratios)))
    update = median(taken)
    return {v: Cost(update * relative[v].epoch, relative[v].updates) for v in plan.variants}


def settings_of(plan: Plan, variant: str) -> Settings:
    """Give back the settings of the first run of a variant."""
    return check(OmegaConf.create(plan.config_of(variant, plan.seeds[0])))


class Trial:
    """Updates of a training, one at a time.

    Args:
        variant: Whose training, for messages.
        settings: Of the run.
        sets: The data sets that were read; it adds its own.

    Raises:
        UserError: If it cannot be built, or an update fails, with what is wrong.
    """

    def __init__(self, variant: str, settings: Settings, sets: Sets) -> None:
        self.variant, self.settings, key = variant, settings, repr(settings.data)
        try:
            if key not in sets:
                sets[key] = build_data(settings)
            self.bench, self.threads = build(settings, sets[key]), int(settings.threads)
        except UserError as error:
            raise UserError(f"{variant} cannot be built: {error}") from error
        self.images = len(sets[key].train.labels)
        self.size = min(settings.batch_size, self.images)
        self.batches = self._whole_batches()
        self.moments = self._moments()

    def cost(self, update: float) -> Cost:
        """Give back the cost of an epoch, by that of an update."""
        batches = self.bench.batches
        images = len(batches) * self.size if batches.drop_last else self.images
        return Cost(update * images / self.size, len(batches))

    def _moments(self) -> Sequence[int]:
        """When an update is to be measured: evenly over the training if its cost varies."""
        training, batches = self.bench.training, self.bench.batches
        if not any(trick.varies_in_cost for trick in training.trick):
            return (0,)
        updates, whole = training.begin.updates, max(1, self.images // self.size)
        spread = ((2 * i + 1) * updates // (2 * MOMENTS) for i in range(MOMENTS))
        return sorted({t - max(0, t % len(batches) - whole + 1) for t in spread})

    def update(self, moment: int = 0) -> float:
        """Make an update, the next one or that of a moment; give back the seconds that it took."""
        if torch.get_num_threads() != self.threads:  # another variant's
            torch.set_num_threads(self.threads)
        start = time.perf_counter()
        try:
            with suppress(Diverged):
                self.bench.training.step(self._batch(moment))
        except Exception as error:  # a trick's, about its first batch
            text = f"{self.variant} cannot be trained: {in_one_line(error)}"
            raise UserError(text) from error
        if self.bench.training.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def _batch(self, moment: int) -> Batch:
        if not moment:
            return next(self.batches)
        epoch, start = divmod(moment, len(self.bench.batches))
        self.bench.training.updates = moment
        return next(self.bench.batches.epoch(epoch, start))

    def _whole_batches(self) -> Iterator[Batch]:
        for epoch in count():
            for batch in self.bench.batches.epoch(epoch):
                if len(batch.targets) == self.size:
                    yield batch
