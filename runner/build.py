"""Config to objects: the only place that instantiates, behind the allow-list."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.allowed import locate
from runner.begin import begin_model, rebuilder
from runner.config import OWN_KEYS, Node, Settings
from runner.data import Augmentation, Batches, DataSet, check_source, split_source
from runner.errors import Unfit, UserError
from runner.fit import Fit
from runner.metrics import refuse_unmeasurable
from runner.nodes import call, with_config_path
from runner.optimizers import parameter_groups, refuse_unusable
from runner.schedulers import Scheduler, tabulate
from runner.texts import short
from runner.train import Training
from tricks import Chain, derive_seed


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


def build(settings: Settings, data: DataSet | None = None) -> Bench:
    """Build a run; `data` is what `build_data` gives for it, None to read it here.

    Raises:
        UserError: If a part cannot be built from its config.
    """
    device = find_device(settings.device)
    compute_exactly(device, int(settings.threads))
    _refuse_emulated(settings, device)
    data = (data or build_data(settings)).to(device)
    chain = build_tricks(settings)
    notes = [*data.notes]
    model, origin = begin_model(settings, data)
    notes += origin.notes
    with with_config_path("tricks"):
        model = chain.model(model).to(device)
    if origin.statistics:
        mean, std = (each.to(device) for each in origin.statistics)
        data = replace(data, mean=mean, std=std)
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    if settings.channels_last:
        _refuse_four_channels(model, device)
        model = model.to(memory_format=memory_format)
    optimizer = chain.optimizer(build_optimizer(settings, model))
    augmentation, size = Augmentation(**settings.data["augment"]), settings.batch_size
    seed = derive_seed(settings.seed, "data")
    batches = partial(Batches, mean=data.mean, std=data.std, memory_format=memory_format)
    training_batches = batches(data.train, size, augmentation=augmentation, seed=seed, shuffle=True)
    updates_per_epoch = len(training_batches)
    training = Training(
        model.train(),
        optimizer,
        chain,
        build_scheduler(settings, optimizer, updates_per_epoch),
        updates_per_epoch,
        micro_batch_size=settings.micro_batch_size,
        precision=settings.precision,
        not_finite=settings.not_finite,
        loss=build_loss(settings),
        seed=settings.seed,
    )
    torch.manual_seed(derive_seed(settings.seed, "training"))
    validation, test = batches(data.validation, size), batches(data.test, size)
    evaluated = [each for each in (validation, test) if len(each)]
    refuse_unfit(settings, training, training_batches, evaluated, len(data.classes))
    refuse_unmeasurable(settings.metrics, data.test.labels.cpu().numpy(), len(data.classes))
    if settings.compile:
        _compile(model)
    has_loaded = bool(settings.model["weights"] or settings.model.get("pretrained"))
    return Bench(data, training, training_batches, validation, test, tuple(notes), has_loaded)


def compute_exactly(device: torch.device, threads: int) -> None:
    """Let torch compute the same bits each time."""
    torch.set_num_threads(threads)
    if device.type == "cuda":  # on a CPU torch is deterministic, for a number of threads
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False


def _compile(model: nn.Module) -> None:
    """Compile a model in place, so that the keys of its state stay; each run from nothing.

    Torch keeps what it compiled for as long as the process lives, and trains uncompiled, with a
    warning at most, what goes beyond its limit. Each shape gets a graph of its own: one for all
    shapes would be made when the second shape comes, so a resumed run would make it elsewhere.
    """
    import torch._dynamo.config as limits  # takes a second to import

    # on a card the compiler recommends less exact products, as a warning
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
    torch.compiler.reset()
    limits.recompile_limit, limits.accumulated_recompile_limit = 1024, 2**16
    limits.fail_on_recompile_limit_hit = True
    model.compile(dynamic=False)


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

    optimizer = make(groups)
    refuse_unusable(optimizer, make)
    return optimizer


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


def build_loss(settings: Settings) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the loss, as a function of logits [N, K] and targets to losses [N]."""
    node = settings.loss
    target = locate(node["_target_"], "loss", "loss")
    taken = {k: v for k, v in node.items() if k != "_target_" and k not in OWN_KEYS["loss"]}
    return partial(target, **taken)


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
    try:
        name, rebuild = title(settings.model, "model"), rebuilder(settings, batches, classes)
        fit = Fit(training.model, name, classes, training.autocast, rebuild)
    except Exception:  # copying may fail in any way
        return
    resizable = "size" in settings.data
    fit.check(batches, evaluated, settings.micro_batch_size, resizable=resizable)


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


def find_device(name: str) -> torch.device:
    """Give back the device of that name; `auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {name}.")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        cards = f"{count} CUDA card{'s' * (count > 1)}" if count else "no CUDA card"
        raise Unfit(
            f"device={name}: torch sees {cards} here (torch {torch.__version__}). "
            "Use device=cpu or device=auto."
        )
    return device


def _refuse_emulated(settings: Settings, device: torch.device) -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    emulated = device.type == "cpu" and settings.precision != "float32"
    if emulated and "AVX512" not in capability and not settings.allow_emulated:
        raise Unfit(
            f"precision must be float32 on this processor ({capability}), which only emulates "
            f"{settings.precision}, 20 to 40 times slower; got {settings.precision}. "
            "To do it all the same, set allow_emulated=true."
        )


def _refuse_four_channels(model: nn.Module, device: torch.device) -> None:
    """Torch's CPU convolutions with 4 channels crash, or take minutes, in channels_last."""
    for name, module in model.named_modules():
        four = isinstance(module, nn.Conv2d) and 4 in (module.in_channels, module.out_channels)
        if four and device.type == "cpu":
            raise UserError(
                "channels_last must be false for a convolution of 4 channels on a CPU, got true "
                f"with {name}, on which torch crashes. Use another width."
            )
