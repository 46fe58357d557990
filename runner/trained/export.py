"""Exports of a trained model: made, held against the original on real images, then written."""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runner.errors import UserError
from runner.store.files import write_atomically, write_text
from runner.texts import reason, short
from runner.trained import forms
from runner.trained.forms import Form, Normalized, Whole, quiet
from runner.trained.model import TrainedModel
from runner.versions import made_by
from tricks import Chain, overrides

Kind = Literal["state_dict", "torch", "onnx"]

TOLERANCE = 1e-4
"""By how much logits may differ, as a share of the largest of a batch.

Other orders of float32's sums move them by 1e-7 to 1e-5 of it. A wrong mean, a lost blur or swapped
channels move them by 1e-2 and more.
"""
FILES = {
    "state_dict": "weights, as torch.save(network.state_dict(), file) writes them",
    "torch": "a program of torch.export: torch.export.load(file).module()",
    "onnx": "a model of ONNX",
}


class Different(Exception):
    """An export does not give what the original gives."""


def export(
    model: TrainedModel, kind: Kind, file: Path, images: Tensor, normalized: bool
) -> Iterator[str]:
    """Export a model; what gets the name of the file has given the original's answers.

    Args:
        model: The model, on the CPU.
        kind: What to make.
        file: Where to write it; what there is to know of it goes into FILE.json beside it.
        images: [N, C, H, W], 16 to 64 real images.
        normalized: Whether the normalisation stays outside; it always does with the weights alone.

    Yields:
        What a user should know, in lines.

    Raises:
        UserError: If it cannot be exported, or differs from the original. Nothing is written then.
    """
    if kind == "onnx":
        forms.require_onnx()
    outside = normalized or kind == "state_dict"
    original = copy.copy(model)
    if model.precision != "float32":
        original.precision = "float32"
        yield f"note: the run computed in {model.precision}, and the export does in float32"
    if kind == "state_dict" and any(overrides(trick, "prediction") for trick in model.chain):
        original.chain = Chain()
        model = original
        yield "note: the file has the weights alone; the run averaged several views of each image"
    module = Normalized(model) if outside else Whole(model)
    prepare = partial(_normalize, model) if outside else Tensor.contiguous
    batches, others = [images[:1], images], _of_another_size(original, images)
    problems = dict[bool, str]()
    for any_size in (True, False) if others else (False,):
        facts = describe(model, kind, outside, any_size)
        try:
            with quiet():
                sample = prepare(others[-1] if any_size else batches[-1][:3])
                form = _make(module, kind, sample, any_size, facts)
                answer = form.load()
            compared = [*batches, *(others if any_size else ())]
            largest = max(
                _compare(original.answer(each), answer(prepare(each))) for each in compared
            )
        except Exception as error:  # exporters raise many types
            problems[any_size] = reason(error)
        else:
            break
    else:
        raise UserError(
            f"--to {kind}: {file.name} is not written: {problems[False]}. "
            + ("" if kind == "state_dict" else "The weights alone: --to state_dict.")
        )
    if kind != "state_dict" and not any_size:
        why = problems.get(True, "the network takes no other")
        size = f"{model.shape[2]} x {model.shape[1]}"
        yield f"note: it takes images of {size} pixels alone, as the run's: {why}"
    checked = {"images": len(images), "largest difference of a logit, as a share": largest}
    text = json.dumps({**facts, "checked": checked}, indent=1, ensure_ascii=False)
    write_text(file.with_name(f"{file.name}.json"), text + "\n")
    write_atomically(file, lambda opened: opened.write(form.content))
    yield (
        f"{short(file)}: {FILES[kind]}. It answers {len(images)} real images as the run does, "
        + (f"to {largest:.0e} of the largest logit." if largest else "to the bit.")
    )


def _normalize(model: TrainedModel, images: Tensor) -> Tensor:
    """Normalise images by the rule that FILE.json tells."""
    mean, std = (each.double().view(1, -1, 1, 1) for each in (model.mean, model.std))
    return ((images.double() / model.levels - mean) / std).float()


def _of_another_size(original: TrainedModel, images: Tensor) -> list[Tensor]:
    """Give images of other sizes, higher than wide and wider than high; none if it takes none."""
    height, width = images.shape[2:]
    sizes = [(2 * height + 3, width + width // 2 + 1), (height + 1, 2 * width + 1)]
    enlarged = [F.interpolate(images[:3].float(), size).to(images.dtype) for size in sizes]
    try:
        for each in enlarged:
            original.answer(each)
    except Exception:  # a network may raise anything
        return []
    return enlarged


def _make(
    module: nn.Module, kind: Kind, sample: Tensor, any_size: bool, facts: Mapping[str, Any]
) -> Form:
    if isinstance(module, Normalized) and kind == "state_dict":
        return forms.state_dict(module.network)
    if kind == "onnx":
        return forms.onnx(module, sample, any_size, facts)
    return forms.program(module, sample, any_size)


def _compare(expected: Tensor, found: Tensor) -> float:
    """Give back the largest difference of logits [N, K], as a share of the largest logit.

    Raises:
        Different: If it is above `TOLERANCE`, or the likeliest class is another, which is not
            within that difference.
    """
    if found.shape != expected.shape or not found.isfinite().all():
        raise Different(f"it gives {list(found.shape)}, not {list(expected.shape)} finite logits")
    scale = max(expected.abs().max().item(), torch.finfo(torch.float32).tiny)
    share = (found - expected).abs().max().item() / scale
    chosen = expected.gather(1, found.argmax(1, keepdim=True)).squeeze(1)
    behind = (expected.amax(1) - chosen).max().item() / scale
    if share > TOLERANCE or behind > TOLERANCE:
        raise Different(f"its logits differ from the original's by {share:.1g} of the largest one")
    return share


def describe(model: TrainedModel, kind: Kind, outside: bool, any_size: bool) -> dict[str, Any]:
    """Write what there is to know of an exported model, as plain values."""
    channels, height, width = model.shape
    white = model.levels
    sides = ["H", "W"] if any_size or kind == "state_dict" else [height, width]
    bands = {1: "grey", 3: "red, green, blue"}.get(channels, f"{channels} bands")
    normalize = "(pixels / white - mean) / std, for each channel"
    return {
        "what": f"A network that classifies images; the file is {FILES[kind]}.",
        "made by": made_by(),
        "trained on": model.data,
        "classes": [*model.classes],
        "input": {
            "name": "inputs" if outside else "images",
            "type": "float32" if outside else "uint8" if white == 255 else "uint16",
            "shape": ["N", channels, *sides],
            "is": f"N images of {channels} channels ({bands}), H rows, W columns, "
            + (f"normalised: {normalize}" if outside else f"from 0 to {white}, as in their files"),
        },
        "output": {
            "name": forms.OUTPUT,
            "type": "float32",
            "shape": ["N", len(model.classes)],
            "is": "a number for each class; the largest is the answer; softmax gives probabilities",
        },
        "preparing": {
            "steps": [*_steps(model), *([f"Normalise: {normalize}."] if outside else [])],
            "height": height,
            "width": width,
            "white": white,
            "mean": model.mean.tolist(),
            "std": model.std.tolist(),
            "reading": model.reading and asdict(model.reading),
            "normalising is": "yours to do" if outside else "in the network",
        },
        "network": model.architecture,
    }


def _steps(model: TrainedModel) -> Iterator[str]:
    """Write how an image file becomes the input."""
    channels, height, width = model.shape
    colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} bands")
    yield f"Decode the image to {colours}, {8 if model.levels == 255 else 16} bits."
    ways = {
        "stretch": "whatever its shape",
        "pad": "to fit within them, with a black border around",
        "crop": "to fill them, and cut off what goes beyond, to the centre",
    }
    way = ways[model.reading.resize if model.reading else "stretch"]
    yield (
        f"Resize it to {width} x {height} pixels, {way} (bilinear, antialiased, as Pillow does), "
        "unless it has that size."
    )
    yield "Put the channels first: [channels, rows, columns]."
