"""model.pt: a trained model, and all that it takes to use it, as plain values and tensors."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, with_config
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from runner.allowed import refuse_foreign
from runner.begin import rebuild_model
from runner.build import Bench
from runner.config import OWN_KEYS, Natural, Node, Positive, Settings, check_node
from runner.data.decode import Reading
from runner.errors import UserError
from runner.names import label
from runner.store import archive
from runner.store.files import FORMAT, Damaged, write_atomically
from runner.store.runs import MODEL
from runner.texts import reason, short
from runner.validation import STRICT, validate
from tricks import Chain, derive_seed, overrides
from tricks.blur_pool import pair

LARGEST = 2**34  # bytes of a file
SLACK = 2**24  # numbers by which a network may be larger than its weights before it is refused

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive32 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=2**15)]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What builds a network."""

    model: Node
    channels: Positive
    classes: Positive
    seed: Natural


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a model's file says beside its weights."""

    architecture: Architecture
    tricks: list[Node]
    """The tricks that changed the network or what it answers, in order."""
    classes: tuple[str, ...]
    mean: tuple[Finite, ...]
    """Of each channel, of the pixels / levels."""
    std: tuple[Positive32, ...]
    levels: Literal[255, 65535]
    """The value of white."""
    shape: tuple[Positive, Side, Side]
    reading: Reading | None
    precision: Literal["float32", "bfloat16", "float16"]
    channels_last: bool
    batch_size: Positive
    threads: Annotated[int, Field(ge=1, le=1024)]
    device: Literal["cpu", "cuda"]
    data: str
    tf32: Literal["none", "convolutions", "all"] = "convolutions"


def write(folder: Path, settings: Settings, bench: Bench, name: str = MODEL) -> None:
    """Write the weights that the model has now, with what rebuilds it and prepares its images.

    No path is in the file, and the same run gives the same bytes.

    Args:
        folder: The folder of the run.
        settings: The config.
        bench: The run, trained.
        name: The name of the file.

    Raises:
        Unfit: If there is no room for it.
    """
    content = _content(settings, bench)
    write_atomically(folder / name, lambda file: archive.write(content, file))


def _content(settings: Settings, bench: Bench) -> dict[str, Any]:
    data, training, node = bench.data, bench.training, settings.data
    exactness = {} if settings.tf32 == "convolutions" else {"tf32": settings.tf32}
    return {
        **exactness,
        "format": FORMAT,
        "model": {key: value.cpu() for key, value in training.model.state_dict().items()},
        "architecture": {
            "model": _plain(settings.model, "model"),
            "channels": data.train.shape[0],
            "classes": len(data.classes),
            "seed": settings.seed,
        },
        "tricks": _changing(settings, training.trick),
        "classes": [*data.classes],
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "levels": data.train.levels,
        "shape": [*data.train.shape],
        "reading": data.reading and asdict(data.reading),
        "precision": settings.precision,
        "channels_last": settings.memory_format == "channels_last",
        "batch_size": settings.batch_size,
        "threads": settings.threads,
        "device": training.device.type,
        "data": str(node.get("name") or node["_target_"].rpartition(".")[2]),
    }


def _changing(settings: Settings, chain: Chain) -> list[Node]:
    """Give back the nodes of the tricks that change the model or what it answers, in order."""
    named, hooks = zip(chain.names, chain, strict=True), ("model", "prediction")
    changing = [name for name, trick in named if any(overrides(trick, hook) for hook in hooks)]
    return [_plain(settings.tricks[name], "tricks") for name in changing]


def _plain(node: Node, group: str) -> Node:
    """Leave out what the runner itself reads: where weights came from is a path."""
    return {key: value for key, value in node.items() if key not in OWN_KEYS[group]}


def read(path: Path) -> tuple[Facts, nn.Module, Chain]:
    """Read a model's file, whoever wrote it, and rebuild the network with its weights, on the CPU.

    The tricks of the network come too, for what they have in `prediction`.

    Raises:
        UserError: If it is damaged, newer, not that of a trained model, or of a network that is
            not allowed.
    """
    where = label(path)
    remedy = "Take it from the run that it is of."
    try:
        content = archive.read(path, "a trained model", remedy, LARGEST, follow=True)
    except Damaged as error:
        raise UserError(f"{where} is damaged: {error}. Copy it anew, or redo its run.") from None
    facts, state = _check(content, where)
    return facts, *_rebuild(facts, state, where)


def _check(content: Mapping[str, Any], where: str) -> tuple[Facts, dict[str, Tensor]]:
    """Check a file, whoever wrote it, before anything is built from it.

    Raises:
        UserError: If it is not that of a trained model.
    """
    names = [field.name for field in fields(Facts)]
    try:
        facts = validate(Facts, {name: content[name] for name in names if name in content})
        built, size = facts.architecture, facts.reading and facts.reading.size
        counts = built.channels, built.channels, built.channels, built.classes
        if (facts.shape[0], len(facts.mean), len(facts.std), len(facts.classes)) != counts:
            raise UserError("its parts are for other numbers of channels or classes")
        if size is not None and pair(size) != facts.shape[1:]:
            raise UserError("its images are read in another size than they have")
        state = content["model"]
        if odd := [key for key in state if type(key) is not str or not _is_plain(state[key])]:
            raise UserError(f"{short(odd[0])} of model is no plain tensor")
    except Exception as error:  # one made by hand can fail in any way
        raise UserError(
            f"{where} is not the file of a trained model: {reason(error)}. "
            "Take it from the run that it is of."
        ) from error
    return facts, state


def _is_plain(value: object) -> bool:
    """Whether something is a tensor with each of its numbers in memory."""
    return (
        isinstance(value, Tensor)
        and (value.layout, value.device.type) == (torch.strided, "cpu")
        and not value.is_quantized
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _rebuild(facts: Facts, state: Mapping[str, Tensor], where: str) -> tuple[nn.Module, Chain]:
    """Build the network as the run did, and give it its weights; and its tricks.

    The random numbers of this process are left as they are.

    Raises:
        UserError: If a part of it is not allowed or unknown, or the weights do not fit.
    """
    targets = {"model": (facts.architecture.model.get("_target_"), "model")}
    named = {f"tricks.{n}": node for n, node in enumerate(facts.tricks)}
    targets |= {at: (node.get("_target_"), "tricks") for at, node in named.items()}
    try:
        refuse_foreign(targets)
        model = check_node("model", facts.architecture.model, "model")
        tricks = {at: check_node(at, node, "tricks") for at, node in named.items()}
        channels, classes = facts.shape[0], len(facts.classes)
        build = partial(rebuild_model, model, tricks, channels, classes)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
            _refuse_larger(build, state)
            seed = derive_seed(facts.architecture.seed, "weights")
            torch.default_generator.manual_seed(seed)  # torch's own would seed cards too
            network, chain = build()
        network.load_state_dict(state)
    except (UserError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{where}: {reason(error)}.") from error
    return network, chain


class _Undrawn(TorchFunctionMode):
    """Draws no random weights: on the meta device torch would import its compiler for them."""

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        named = kwargs or {}
        if str(getattr(func, "__name__", "")).endswith(("normal_", "uniform_")):
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def _refuse_larger(
    build: Callable[[], tuple[nn.Module, Chain]], state: Mapping[str, Tensor]
) -> None:
    """Refuse a network that is much larger than its weights, before there is memory for it."""
    planned = None
    # not every network can be built without data
    with suppress(Exception), torch.device("meta"), _Undrawn():
        planned, _ = build()
    if planned is not None:
        size = sum(math.prod(value.shape) for value in planned.state_dict().values())
        if size > sum(value.numel() for value in state.values()) + SLACK:
            raise UserError(f"its network has {size:,} numbers, far more than its weights")
