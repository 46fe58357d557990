"""Keywords of the user's for the constructors of torchvision and timm, `model.kwargs`."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn

from runner.errors import UserError, did_you_mean
from runner.texts import listed, reason

DATA = "comes from the data. Remove it."
PRETRAINED = "would read weights. Set model.pretrained=true, or model.weights=FILE."

TORCHVISION_GIVEN = {
    "num_classes": DATA,
    **dict.fromkeys(("weights", "pretrained"), PRETRAINED),
    "progress": "belongs to a download. Remove it.",
    **dict.fromkeys(("aux_logits", "init_weights"), "is chosen here. Remove it."),
}
"""Keywords that are not the user's, and why."""

TIMM_GIVEN = {
    **dict.fromkeys(("num_classes", "in_chans"), DATA),
    **dict.fromkeys(
        ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
        PRETRAINED,
    ),
    "model_name": "is model.name. Set that.",
}

PASSED_OVER = ("MobileNetV3", "ConvNeXt")
"""Classes of torchvision that ignore keywords that they do not know."""

MOBILENET_V3 = {"width_mult", "reduced_tail", "dilated"}
"""What its builders take beside what its class takes."""


def tupled(value: object) -> object:
    """Give back a list of a config as a tuple, as the libraries write sizes."""
    return tuple(map(tupled, value)) if isinstance(value, list) else value


def refuse_given(options: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Refuse keywords that the runner gives."""
    for key in options.keys() & given.keys():
        raise UserError(f"model.kwargs.{key} {given[key]}")


def refuse_passed_over(
    library: str, name: str, options: Mapping[str, Any], model: nn.Module
) -> None:
    """Refuse keywords that a model takes and does not use."""
    kind = type(model).__name__
    if kind in PASSED_OVER:
        known = _parameters(model) | (MOBILENET_V3 if kind == "MobileNetV3" else set())
        for key in options.keys() - known:
            raise UserError(_unknown(library, name, key, known))


@contextmanager
def explained(
    library: str, name: str, options: Mapping[str, Any], plain: Callable[[], nn.Module]
) -> Iterator[None]:
    """Explain what a constructor says about the keywords in one line.

    Args:
        library: Whose it is.
        name: Of the model.
        options: The keywords; without any, errors stay as they are.
        plain: Builds the model without them, to know its parameters.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a constructor may raise anything about a wrong value
        if not options:
            raise
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found and found[1] in options:
            with torch.device("meta"), torch.random.fork_rng([]):
                known = _parameters(plain())
            raise UserError(_unknown(library, name, found[1], known)) from None
        raise UserError(
            f"model.kwargs: {library}'s {name} does not take {listed([*options])} as given: "
            f"{type(error).__name__}: {reason(error)}. Correct or remove it."
        ) from error


def _parameters(model: nn.Module) -> set[str]:
    """Name the parameters of a model's class that have a default, less those the runner gives."""
    found = signature(type(model)).parameters.values()
    given = TORCHVISION_GIVEN.keys() | TIMM_GIVEN.keys()
    return {p.name for p in found if p.default is not Parameter.empty} - given


def _unknown(library: str, name: str, key: str, known: set[str]) -> str:
    near = did_you_mean(key, known) or f" It takes {listed(sorted(known), 20)}."
    return f"model.kwargs.{key} is not a keyword of {library}'s {name}.{near}"
