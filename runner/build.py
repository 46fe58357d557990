"""Config to objects: the only place that instantiates, behind the allow-list."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.allowed import locate
from runner.begin import begin_model, rebuilder
from runner.compiled import compile_model, refuse_cuda_graphs
from runner.config import OWN_KEYS, Node, Settings
from runner.data import Augmentation, Batches, DataSet, Inputs, check_source, split_source
from runner.device import (
    compute_exactly,
    find_device,
    refuse_emulated,
    to_channels_last_,
)
from runner.eager import do_without_compiler
from runner.errors import UserError
from runner.fit import Fit, inputs_of_each_size
from runner.losses import class_weights, weighted
from runner.metrics import refuse_unmeasurable
from runner.nodes import call, with_config_path
from runner.optimizers import parameter_groups, refuse_unusable, step_together_
from runner.ranks import ALONE, WHOLE, Ranks, divide
from runner.schedulers import Scheduler, tabulate
from runner.texts import listed, short
from runner.train import Training
from runner.transforms import build_transforms
from tricks import Chain, Time, derive_seed, overrides


@dataclass(frozen=True)
class Bench:
    """The objects of one run."""

    data: DataSet
    training: Training
    batches: Batches
    validation: Batches
    test: Batches
    notes: tuple[str, ...]
    """What a user should know before reading its numbers."""
    has_loaded: bool = False
    """Whether the model begins with weights that were read."""


def build(settings: Settings, data: DataSet | None = None, ranks: Ranks = ALONE) -> Bench:
    """Build a run; what the settings left open is chosen (runner/auto.py).

    Args:
        settings: The config.
        data: What `build_data` gives for it; None to read it here.
        ranks: Those that share the run.

    Raises:
        UserError: If a part cannot be built from its config.
    """
    device = find_device(settings.device)
    compute_exactly(device, int(settings.threads), settings.tf32)
    refuse_emulated(device, settings.precision, settings.allow_emulated)
    if settings.compile == "cuda_graphs":
        refuse_cuda_graphs(device)
    data = (data or build_data(settings)).to(device)
    chain = build_tricks(settings)
    notes = [*data.notes]
    model, origin = begin_model(settings, data)
    notes += origin.notes
    has_loaded = bool(settings.model["weights"] or settings.model.get("pretrained"))
    refuse_first_weights(chain, has_loaded)
    with with_config_path("tricks"):
        model = chain.model(model).to(device)
    if origin.statistics:
        mean, std = (each.to(device) for each in origin.statistics)
        data = replace(data, mean=mean, std=std)
    memory_format = form_of(settings)
    if memory_format is torch.channels_last:
        to_channels_last_(model, device)
    training_batches, size = build_batches(settings, data, chain, ranks), settings.batch_size
    batches = partial(Batches, mean=data.mean, std=data.std, memory_format=memory_format)
    updates_per_epoch, inputs = len(training_batches), Inputs(training_batches)
    optimizer = begin(settings, chain, model, inputs)
    training = Training(
        model.train(),
        optimizer,
        chain,
        build_scheduler(settings, optimizer, updates_per_epoch),
        updates_per_epoch,
        parts=training_batches.parts,
        precision=settings.precision,
        not_finite=settings.not_finite,
        loss=build_loss(settings, data),
        updates=settings.updates(updates_per_epoch),
        classes=len(data.classes),
        inputs=inputs,
        seed=settings.seed,
    )
    torch.manual_seed(derive_seed(settings.seed, "training"))
    validation, test = evaluated = batches(data.validation, size), batches(data.test, size)
    refuse_unfit(settings, training, training_batches, evaluated, len(data.classes))
    refuse_unmeasurable(settings.metrics, data.test.labels.cpu().numpy(), len(data.classes))
    if settings.compile:
        compile_model(model, cuda_graphs=settings.compile == "cuda_graphs")
    return Bench(data, training, training_batches, validation, test, tuple(notes), has_loaded)


def form_of(settings: Settings) -> torch.memory_format:
    """Give back the memory format of the images and the convolutions, as torch names it."""
    last = settings.memory_format == "channels_last"
    return torch.channels_last if last else torch.contiguous_format


def refuse_first_weights(chain: Chain, has_loaded: bool) -> None:
    """Refuse tricks that set the first weights where those were read.

    Raises:
        UserError: If there are such.
    """
    named = zip(chain.names, chain, strict=True)
    if has_loaded and (names := [name for name, trick in named if overrides(trick, "initialize")]):
        raise UserError(
            f"tricks: {listed(names)} would overwrite the weights that model.weights or "
            "model.pretrained reads. Keep one of the two."
        )


def build_data(settings: Settings) -> DataSet:
    """Read the data set and take the validation split off."""
    source = call(settings.data, "data", "data")
    check_source(source, f"data ({settings.data['_target_']})")
    return split_source(source, settings.data["validation"], settings.seed)


def build_tricks(settings: Settings) -> Chain:
    """Build the tricks that are on, in the order of the config."""
    nodes = {name: node for name, node in settings.tricks.items() if node["enabled"]}
    with with_config_path("tricks"):
        return Chain(*(call(node, f"tricks.{name}", "tricks") for name, node in nodes.items()))


def build_optimizer(settings: Settings, model: nn.Module) -> Optimizer:
    """Build the optimizer for the model's parameters."""
    groups = parameter_groups(model, settings.optimizer["decay_norms_and_biases"])

    def make(params: list[Any]) -> Optimizer:
        optimizer = call(settings.optimizer, "optimizer", "optimizer", params=params)
        assert isinstance(optimizer, Optimizer)
        return optimizer

    do_without_compiler()
    optimizer = make(groups)
    refuse_unusable(optimizer, make)
    step_together_(optimizer)
    return optimizer


def begin(
    settings: Settings, chain: Chain, model: nn.Module, inputs: Iterable[Tensor]
) -> Optimizer:
    """Let the tricks set the first weights; build the optimizer as they have it."""
    with with_config_path("tricks"):
        chain.initialize(model, inputs)
    optimizer = build_optimizer(settings, model)
    with with_config_path("tricks"):
        return chain.optimizer(optimizer, model)


def build_scheduler(
    settings: Settings, optimizer: Optimizer, updates_per_epoch: int
) -> Callable[[int], float]:
    """Build the scheduler, as a function of the number of updates done."""
    node, epochs = settings.scheduler, settings.epochs
    if not isinstance(epochs, int):  # to the end of the last update
        epochs = settings.updates(updates_per_epoch) / updates_per_epoch
    target = locate(node["_target_"], "scheduler", "scheduler")
    if not issubclass(target, Scheduler):
        taken = {k: v for k, v in node.items() if k not in ("_target_", "unit")}
        lr, count = optimizer.param_groups[0]["lr"], updates_per_epoch
        return tabulate(target, node["unit"], taken, lr=lr, updates_per_epoch=count, epochs=epochs)
    scheduler = call(node, "scheduler", "scheduler")
    return lambda update: float(scheduler.factor(update, updates_per_epoch, epochs))


def build_batches(settings: Settings, data: DataSet, chain: Chain, ranks: Ranks = ALONE) -> Batches:
    """Build the batches of the training split, on the device of the data, as the tricks have them.

    Raises:
        UserError: If a transform cannot be built or does not take the images, there is no batch,
            since the only one would be smaller and is left out, or there are too many ranks.
    """
    split, size, first = data.train, settings.batch_size, torch.zeros(1, dtype=torch.int64)
    augmentation = Augmentation(**settings.data["augment"])
    last = 0 if settings.drop_last else len(split.labels) % size
    batches = Batches(
        split,
        size,
        mean=data.mean,
        std=data.std,
        augmentation=augmentation,
        transforms=build_transforms(augmentation.transforms, split.images_of(first)[0]),
        seed=derive_seed(settings.seed, "data"),
        shuffle=True,
        balanced=settings.data["sampling"] == "balanced",
        drop_last=settings.drop_last,
        memory_format=form_of(settings),
        trick=chain,
        parts=divide(size, last, settings.micro_batch_size, ranks, settings.sync_batch_norm),
    )
    count = len(batches)
    batches.begin = Time(0, count, settings.updates(count) if count else 0, settings.seed)
    if not count:
        count = len(split.labels)
        raise UserError(
            f"drop_last=true leaves no batch: batch_size={size}, and there are {count:,} training "
            f"images. Set batch_size={count} or less, or drop_last=false."
        )
    return batches


def build_loss(settings: Settings, data: DataSet) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the loss, as a function of logits [N, K] and targets to losses [N].

    Raises:
        UserError: If there is not one weight for each class, or all are 0.
    """
    node, classes, labels = settings.loss, len(data.classes), data.train.labels
    target = locate(node["_target_"], "loss", "loss")
    taken = {k: v for k, v in node.items() if k != "_target_" and k not in OWN_KEYS["loss"]}
    loss, given = partial(target, **taken), node["class_weights"]
    if given is None:
        return loss
    if given != "balanced" and len(given) != classes:
        raise UserError(
            f"loss.class_weights must be {classes} numbers, one for each class, got {len(given)}. "
            f"The classes are, in order: {listed(data.classes)}."
        )
    drawn = labels.cpu().bincount(minlength=classes)
    if settings.data["sampling"] == "balanced":
        drawn = torch.ones(classes)
    with with_config_path("loss.class_weights"):
        weights = class_weights(None if given == "balanced" else given, drawn)
    return weighted(loss, weights.to(labels.device))


def refuse_unfit(
    settings: Settings,
    training: Training,
    batches: Batches,
    evaluated: Sequence[Batches],
    classes: int,
) -> None:
    """Refuse a model that does not take the images, or a single one that is left for a batch.

    A model that cannot be copied is not tried.
    """
    with with_config_path("tricks"):
        sizes = inputs_of_each_size(replace(batches, parts=WHOLE))
    try:
        name, rebuild = title(settings.model, "model"), rebuilder(settings, batches, classes)
        fit = Fit(training.model, name, classes, training.autocast, rebuild)
    except Exception:  # copying may fail in any way
        return
    resizable = "size" in settings.data
    plain, micro = replace(batches, trick=Chain(), parts=WHOLE), settings.micro_batch_size
    fit.check(plain, [each for each in evaluated if len(each)], micro, resizable=resizable)
    fit.check_sizes(sizes, batches, micro)
    if not settings.sync_batch_norm:
        fit.check_parts(plain, training.parts)


def title(node: Node, group: str) -> str:
    """Write what a node of the config makes: its name, or its function with its settings.

    >>> title({"_target_": "runner.models.cifar_resnet", "depth": 8, "weights": None}, "model")
    'cifar_resnet(depth=8)'
    """
    if "name" in node:
        return short(node["name"])
    own, usual = {"_target_", *OWN_KEYS[group]}, _defaults(node, group)
    given = [f"{k}={v}" for k, v in node.items() if k not in own and usual.get(k) != v]
    name = node["_target_"].rpartition(".")[2]
    return short(f"{name}({', '.join(given)})" if given else name)


def _defaults(node: Node, group: str) -> dict[str, Any]:
    """The values that a node's target takes by itself."""
    try:
        parameters = signature(locate(node["_target_"], group, group)).parameters
    except ValueError:  # a builtin without a signature
        return {}
    return {name: each.default for name, each in parameters.items()}
