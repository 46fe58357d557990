"""The model that a run begins with: with random weights, or those that it is given."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from runner.config import Node, Settings
from runner.data import Batches, DataSet
from runner.errors import UserError
from runner.models.pretrained import origin
from runner.models.weights import Origin, load_weights
from runner.nodes import call, with_config_path
from runner.texts import short
from tricks import Chain, derive_seed


def build_model(settings: Settings, data: DataSet, chain: Chain) -> nn.Module:
    """Build the model as the tricks have it."""
    model, _ = begin_model(settings, data)
    with with_config_path("tricks"):
        return chain.model(model)


def rebuild_model(
    model: Node, tricks: Mapping[str, Node], channels: int, classes: int
) -> tuple[nn.Module, Chain]:
    """Build a model again as tricks changed it, with random weights; and these tricks.

    Args:
        model: Its node, checked.
        tricks: The nodes of the tricks, checked, in order, by where they are from.
        channels: Channels of the images.
        classes: Number of classes.
    """
    node = {**model, "pretrained": False} if "pretrained" in model else model
    built = call(node, "model", "model", channels=channels, classes=classes)
    with with_config_path("tricks"):
        chain = Chain(*(call(node, at, "tricks") for at, node in tricks.items()))
        return chain.model(built), chain


def begin_model(settings: Settings, data: DataSet) -> tuple[nn.Module, Origin]:
    """Build the model without the tricks; random weights depend on the seed alone.

    Raises:
        UserError: If it cannot be built, or the weights that it is to begin with do not fit.
    """
    torch.manual_seed(derive_seed(settings.seed, "weights"))
    channels, classes = data.train.shape[0], len(data.classes)
    file, pretrained = settings.model["weights"], settings.model.get("pretrained") or False
    if file is not None and pretrained:
        raise UserError(
            f"model.pretrained=true and model.weights={short(file)} both give the first weights. "
            "Remove one of them."
        )
    model = call(settings.model, "model", "model", channels=channels, classes=classes)
    if file is None and not pretrained:
        return model, Origin()
    found = load_weights(model, file, classes) if file else origin(model, channels, classes)
    key = "model.weights" if file else "model.pretrained"
    notes = [f"{key}: {note}" for note in found.notes]
    if (of := found.statistics) and len(of[0]) != channels:
        return model, Origin(tuple(notes))
    if of:
        mean, std = (", ".join(f"{value:.4g}" for value in each) for each in of)
        notes.append(f"{key}: inputs are normalised as theirs were, mean {mean}, std {std}")
    return model, Origin(tuple(notes), of)


def rebuilder(
    settings: Settings, batches: Batches, classes: int
) -> Callable[[str, Any], nn.Module] | None:
    """Give a function that builds a model of a library with one more keyword, and random weights.

    None if it has no keywords, or weights that fit this model alone.
    """
    node = settings.model
    if "kwargs" not in node or node["weights"] or node["pretrained"]:
        return None
    channels = batches.split.shape[0]

    def rebuild(key: str, value: object) -> nn.Module:
        changed = {**node, "kwargs": {**(node["kwargs"] or {}), key: value}}
        with torch.random.fork_rng([]):
            model = call(changed, "model", "model", channels=channels, classes=classes)
        assert isinstance(model, nn.Module)
        return model

    return rebuild
