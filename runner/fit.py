"""Whether a model takes the images and the batch sizes of a run, tried before its first update."""

import copy
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from inspect import signature
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor, nn

from runner.data import Batches
from runner.errors import UserError, cause_of
from runner.quoting import literal
from runner.ranks import Parts
from runner.texts import reason
from tricks import overrides

SIDES = (32, 48, 64, 75, 96, 112, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)
"""Sides of images, in pixels, that are tried to find one that a model takes."""

PARTS = 16
"""Of a training, in each of which the sizes of the images grow or shrink, or stay."""

HERE = Path(__file__).resolve().parent
OTHERS = ("site-packages", "dist-packages", str(HERE), str(HERE.parent / "tricks"))
"""Parts of the paths of code that is not the user's."""


class Fit:
    """A copy of a model, to try which inputs it takes; the model itself does not change.

    Args:
        model: The model.
        name: What it is called.
        classes: How many logits it has to give.
        autocast: Makes the context of its precision.
        rebuild: Builds it again with one more keyword of its library's; None if it has none.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        classes: int,
        autocast: Callable[[], AbstractContextManager[Any]],
        rebuild: Callable[[str, Any], nn.Module] | None = None,
    ) -> None:
        self.model = copy.deepcopy(model)
        self.name, self.classes, self.autocast = name, classes, autocast
        self.rebuild = rebuild

    def problem(self, inputs: Tensor, training: bool = True) -> str | None:
        """Pass inputs [n, C, H, W]; give back why that fails, if it does."""
        try:
            devices = [inputs.device] if inputs.is_cuda else []
            with torch.random.fork_rng(devices), torch.no_grad(), self.autocast():
                outputs = self.model.train(training)(inputs)
        except Exception as error:  # a model may raise anything
            if cause_of(error) == "machine":
                raise
            return f"{reason(error).rstrip('!')}{place_of(error)}"
        if not isinstance(outputs, Tensor):
            return f"it returns a {type(outputs).__name__}, not logits"
        expected, found = [len(inputs), self.classes], list(outputs.shape)
        if found != expected:
            return f"it returns {found}, not logits {expected}"
        return None

    def check(
        self,
        training: Batches,
        evaluated: Sequence[Batches],
        micro: int | None,
        *,
        resizable: bool,
    ) -> None:
        """Refuse a run that would fail at its first batch, or at a last one of a single image.

        Args:
            training: The batches of the training split.
            evaluated: Those of the other splits, as far as they have images.
            micro: Images passed at once in training; None for a whole batch.
            resizable: Whether the data set has a setting `data.size`.

        Raises:
            UserError: If the model does not take the images, or a single one where one is left.
        """
        whole = replace(training, shuffle=False, drop_last=False)
        two = next(replace(whole, batch_size=2).epoch(0)).inputs
        count, size = len(training.split.labels), training.batch_size
        sizes = passed(count, size, micro, training.drop_last)
        alone = self.problem(two[:1]) if 1 in sizes else None
        if (alone or 1 not in sizes) and (problem := self.problem(two)):
            batch = next(whole.epoch(0)).inputs  # perhaps it takes no two, but as many as there are
            if all(self.problem(batch[:number]) for number in sizes - {1}):
                raise UserError(self._unfit(two, problem, resizable))
        if alone:
            what = f"which {self.name} cannot be trained on: {alone}"
            raise UserError(_one_left(what, [count], size, micro, training.drop_last))
        counts = [len(batches.split.labels) for batches in evaluated]
        if any(1 in passed(number, size, None) for number in counts) and (
            problem := self.problem(two[:1], training=False)
        ):
            what = f"which {self.name} cannot be evaluated on: {problem}"
            raise UserError(_one_left(what, [count, *counts], size, micro, training.drop_last))

    def check_parts(self, training: Batches, parts: Parts) -> None:
        """Refuse a run of which a rank would pass a single image, if the model does not take one.

        Args:
            training: The batches of the training split.
            parts: How they are divided.

        Raises:
            UserError: If so.
        """
        whole = replace(training, shuffle=False, drop_last=False)
        count, size, ranks = len(training.split.labels), training.batch_size, parts.ranks.count
        alone = [n for n in batch_sizes(count, size, training.drop_last) if 1 in parts.cut(n)]
        if ranks > 1 and alone:
            one = next(replace(whole, batch_size=1).epoch(0)).inputs
            if problem := self.problem(one):
                remedy = "Set drop_last=true" if size not in alone else "Set a larger batch_size"
                raise UserError(
                    f"An update of {max(alone)} images over {ranks} ranks leaves one of them with "
                    f"a single image, which {self.name} cannot be trained on: {problem}. {remedy}, "
                    "or another batch_size, or sync_batch_norm=true."
                )

    def check_sizes(self, sizes: Sequence[Tensor], training: Batches, micro: int | None) -> None:
        """Refuse a size that tricks give the images, if the model takes others, but not this one.

        Args:
            sizes: Two inputs of each size, as `inputs_of_each_size` gives them.
            training: The batches of the training split.
            micro: Images passed at once in training; None for a whole batch.

        Raises:
            UserError: If there is such a size.
        """
        shape = torch.Size(training.split.shape)
        others = [inputs for inputs in sizes if inputs.shape[1:] != shape]
        if not others or self.problem(sizes[0].new_zeros(2, *shape)):
            return
        count, size = len(training.split.labels), training.batch_size
        least = 1 if 1 in passed(count, size, micro, training.drop_last) else 2
        for inputs in others:
            if problem := self.problem(inputs[:least]):
                raise UserError(
                    f"tricks: they make images of {' x '.join(map(str, inputs.shape[1:]))}, which "
                    f"{self.name} does not take: {problem}. Make them larger (as by "
                    "tricks.progressive_resizing.start or step), or choose another model."
                )

    def _unfit(self, images: Tensor, problem: str, resizable: bool) -> str:
        """Write which images the model takes instead, if some are found."""
        own, *sides = images.shape[1:]
        sizes = (images.new_zeros(2, own, side, side) for side in (*SIDES, *_declared(self.model)))
        taken = next((tried.shape[-1] for tried in sizes if not self.problem(tried)), None)
        keyword = self._keyword(images)
        remedy = f"Set {keyword}" if keyword else "Correct the model, or choose another"
        if taken:
            other = f"set {keyword}" if keyword else "choose another model"
            resize = f"It takes {taken} x {taken}: resize the images, or {other}"
            size = f"Set data.size={taken}" + (f" or {keyword}" if keyword else "")
            remedy = size if resizable else resize
        shape = " x ".join(map(str, (own, *sides)))
        return f"model: {self.name} does not take images of {shape}: {problem}. {remedy}."

    def _keyword(self, images: Tensor) -> str | None:
        """Write the keyword that makes the library build the model for these images, if tried."""
        parameters = signature(type(self.model)).parameters
        key = next((key for key in ("img_size", "image_size") if key in parameters), None)
        height, width = images.shape[2:]
        if key is None or self.rebuild is None or (key == "image_size" and height != width):
            return None
        value = height if height == width else [height, width]
        try:
            other = self.rebuild(key, value).to(images.device)
        except Exception:  # it cannot be built for them
            return None
        if Fit(other, self.name, self.classes, self.autocast).problem(images):
            return None
        return quote(f"+model.kwargs.{key}={literal(value)}")


def inputs_of_each_size(training: Batches) -> list[Tensor]:
    """Give back two inputs of each size that they have in the course of a training."""
    begin, found = training.begin, dict[torch.Size, Tensor]()

    @cache
    def at(update: int) -> torch.Size:
        given = replace(training, begin=begin._replace(update=update))
        two = next(replace(given, batch_size=2, shuffle=False, drop_last=False).epoch(0)).inputs
        found.setdefault(two.shape, two)
        return two.shape

    def between(first: int, last: int) -> None:
        middle = (first + last) // 2
        if at(first) != at(last) and first < middle:
            between(first, middle)
            between(middle, last)

    last = max(0, begin.updates - 1) if any(overrides(t, "images") for t in training.trick) else 0
    marks = sorted({last * part // PARTS for part in range(PARTS + 1)})
    for pair in pairwise(marks):
        between(*pair)
    at(0)
    return [*found.values()]


def _declared(model: nn.Module) -> Iterator[int]:
    """Find the side of images that a model of torchvision or timm says it is for."""
    config = getattr(model, "default_cfg", None)
    sizes = config.get("input_size", ()) if isinstance(config, dict) else ()
    for side in (getattr(model, "image_size", None), *sizes[-1:]):
        if isinstance(side, int) and side > 0:
            yield side


def place_of(error: Exception) -> str:
    """Write where in the user's code an error was raised; "" if it was not there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in OTHERS)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def passed(count: int, size: int, micro: int | None, drop_last: bool = False) -> set[int]:
    """Give back how many images are passed at once, in an epoch over so many.

    >>> sorted(passed(450, 64, 9))
    [1, 2, 9]
    >>> sorted(passed(450, 64, 9, drop_last=True))
    [1, 9]
    """
    batches = batch_sizes(count, size, drop_last)
    return {n for b in batches for n in (min(b, micro or b), b % (micro or b))} - {0}


def batch_sizes(count: int, size: int, drop_last: bool = False) -> set[int]:
    """Give back how many images the updates of an epoch over so many have."""
    return {size} if drop_last else {min(count, size), count % size} - {0}


def _one_left(
    what: str, counts: Sequence[int], size: int, micro: int | None, drop_last: bool
) -> str:
    """Write which setting leaves one image by itself, and the nearest values that do not.

    `counts` are the images of the training split, then of the others.
    """

    def is_good(size: int, micro: int | None, drop_last: bool = drop_last) -> bool:
        parts = [passed(counts[0], size, micro, drop_last)]
        parts += [passed(number, size, None) for number in counts[1:]]
        is_empty = drop_last and size > counts[0]
        return size > 1 and micro != 1 and not is_empty and not any(1 in part for part in parts)

    def near(value: int, is_good: Callable[[int], bool]) -> list[int]:
        lower = next((v for v in range(value - 1, 1, -1) if is_good(v)), None)
        higher = next((v for v in range(value + 1, value + max(counts) + 2) if is_good(v)), None)
        return [v for v in (lower, higher) if v]

    key, value = "batch_size", size
    values = near(size, lambda size: is_good(size, micro))
    if micro and is_good(size, None):
        key, value = "micro_batch_size", micro
        values = near(micro, lambda micro: is_good(size, micro))
    found = [f"{key}={value}" for value in values]
    found += ["drop_last=true"] * (not drop_last and is_good(size, micro, drop_last=True))
    choices = " or ".join(found)
    remedy = f"Set {choices}" if choices else "Choose another model, or give each split more images"
    return f"{key}={value} passes one image by itself, {what}. {remedy}."
