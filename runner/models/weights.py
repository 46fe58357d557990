"""Saved weights into a model, all of them or none; nothing in a file is executed."""

import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import UserError
from runner.names import CONF
from runner.quoting import literal
from runner.store.archive import refuse_packed
from runner.store.files import Damaged, read_bytes
from runner.store.packed import is_packed, is_there
from runner.store.runs import CONFIG, MODEL
from runner.store.values import read_values
from runner.texts import listed, short

PLACES = (("training", "model"), ("model",), ("state_dict",), ("model_state_dict",))
"""The keys under which checkpoints keep the weights: a run's own, torch's tutorials, Lightning."""

WRAPPERS = ("module", "_orig_mod")
"""What DataParallel and torch.compile put before, or into, the names."""

State = Mapping[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where the first weights of a model come from, as far as a run has to know it."""

    notes: tuple[str, ...] = ()
    """What of them was not loaded, in words."""
    statistics: tuple[Tensor, Tensor] | None = None
    """Mean and standard deviation of the pixels, [C] each, by which their inputs were normalised;
    None if that is not known."""


@dataclass(frozen=True)
class Fitted:
    """What of some weights went into a model."""

    left: tuple[str, ...]
    """The names that were not loaded: those of a classifier for other classes."""
    classes: int | None
    """For how many classes that is; None if all was loaded."""


def load_weights(model: nn.Module, file: str, classes: int) -> Origin:
    """Load the weights of a model from a file; if they do not fit, none is loaded.

    The file is the `model.pt`, `best.pt` or `checkpoint.pt` of a run, or the run's folder, of which
    `model.pt` is read, else `checkpoint.pt`; or what `torch.save(model.state_dict(), file)` writes;
    or a checkpoint that has such a dictionary under "model", "state_dict" or "model_state_dict"; or
    a safetensors file. What DataParallel, torch.compile or a Lightning module put before the names
    is ignored. Nothing in it is executed.

    A classifier for another number of classes is not loaded, and stays as it is.

    Raises:
        UserError: If the file is missing or damaged, holds more than tensors and plain values, or
            belongs to another model.
    """
    path, own = _find(Path(os.path.expanduser(file))), model.state_dict()
    content = _read(path)
    forms = {name: max(_forms(s), key=lambda s: _fit(s, own)) for name, s in _states(content)}
    if len(whole := [name for name, state in forms.items() if state.keys() == own.keys()]) > 1:
        raise UserError(
            f"model.weights: {short(path)} has weights of this model under {listed(whole)}. "
            "Save those that you want by themselves."
        )
    state = max(forms.values(), key=lambda state: _fit(state, own))
    fitted = fit(
        model, state, f"model.weights: {short(path)}", classes, _other_model(path, content)
    )
    notes = []
    if fitted.left:
        notes.append(
            f"{short(path)} is for {fitted.classes} classes, not {classes}: "
            f"{listed(fitted.left)} were not loaded, and keep their random values"
        )
    return Origin(tuple(notes), _statistics(path, content))


def fit(
    model: nn.Module,
    state: State,
    where: str,
    classes: int,
    remedy: str = "Choose the model that was saved",
) -> Fitted:
    """Load weights into a model, without the classifier if it is for other classes.

    Args:
        model: The model; if they do not fit, it stays as it is.
        state: The weights.
        where: What they are, for a message.
        classes: The classes of the model.
        remedy: What to do if they do not fit.

    Raises:
        UserError: If they are of another model.
    """
    own = model.state_dict()
    # which files of torch before 0.4.1 lack; it changes nothing
    state = {**{k: v for k, v in own.items() if k.endswith("num_batches_tracked")}, **state}
    wrong = {key: (_kind(state[key]), _kind(own[key])) for key in own if key in state}
    wrong = {key: kinds for key, kinds in wrong.items() if kinds[0] != kinds[1]}
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of wrong shape": [f"{key} {a} instead of {b}" for key, (a, b) in wrong.items()],
    }
    others = {_other_classes(state[key], own[key], classes) for key in wrong}
    head_alone = len(others) == 1 and None not in others
    if problems["missing"] or problems["unexpected"] or (wrong and not head_alone):
        found = "; ".join(f"{what}: {listed(keys, 5)}" for what, keys in problems.items() if keys)
        raise UserError(f"{where} does not fit the {type(model).__name__}; {found}. {remedy}.")
    model.load_state_dict({**state, **{key: own[key] for key in wrong}})
    return Fitted(tuple(wrong), others.pop() if wrong else None)


def _find(path: Path) -> Path:
    """Find the weights in the folder of a run; a file is given back as it is."""
    if not path.is_dir() and not is_packed(path):
        return path
    for name in (MODEL, "checkpoint.pt"):
        if is_there(path / name):
            return path / name
    runs = sorted((*path.glob("seed=*/"), *path.glob("*/seed=*/")))
    near = f" Did you mean {short(runs[0])}?" if runs else ""
    raise UserError(
        f"model.weights: {short(path)} is a folder without {MODEL} or checkpoint.pt. "
        f"Expected a file, or the folder of a run, which ends in seed=N.{near}"
    )


def _other_model(path: Path, content: State) -> str:
    """Write which model a file is of, as far as it, or the run that it lies with, says so."""
    facts: Any = content.get("architecture")
    node: Any = facts.get("model") if isinstance(facts, Mapping) else None
    if not isinstance(node, Mapping):
        try:
            config: Any = read_values(path.parent / CONFIG)
            node = config["model"]
        except (OSError, Damaged, LookupError, TypeError):
            return "Choose the model that was saved"
    if facts and "channels" in facts:
        images = f" for images of {facts['channels']} channels"
        return f"These are weights of {_typed(node)}{images}. Choose that model, and such images"
    return f"These are weights of {_typed(node)}. Choose that model"


def _typed(node: Mapping[str, Any]) -> str:
    """Write what to type for a model, by its node of a config: the option, and what differs."""
    ways: list[list[str]] = []
    given = {**node, "weights": None, "pretrained": False}
    for file in sorted(CONF.glob("model/*.yaml")):
        plain: Any = read_values(file)
        if plain["_target_"] == node.get("_target_"):
            usual = {"kwargs": {}, "pretrained": False, **plain}
            changed = {k: v for k, v in given.items() if v != usual.get(k)}
            words = [f"model.{key}={literal(value)}" for key, value in changed.items()]
            ways.append([f"model={file.stem}", *words])
    own = [str(node.get("_target_"))]
    way = min(ways or [own], key=len)
    return short(" ".join(way))


def _statistics(path: Path, content: State) -> tuple[Tensor, Tensor] | None:
    """Read by which mean and deviation a run normalised its images, of its model.pt."""
    if "architecture" not in content:
        return None
    try:
        mean, std = (torch.tensor(content[key], dtype=torch.float32) for key in ("mean", "std"))
        if mean.ndim != 1 or mean.shape != std.shape or not (std > 0).all():
            raise ValueError
        if not (mean.isfinite() & std.isfinite()).all():
            raise ValueError
    except (LookupError, TypeError, ValueError, RuntimeError):
        raise UserError(
            f"model.weights: {short(path)} has no mean and std of each channel, std > 0. "
            "Use the file as the run wrote it."
        ) from None
    return mean, std


def _states(content: State) -> Iterator[tuple[str, State]]:
    """Find the dictionaries in a file that may be the weights, with their places."""
    yield "its top", content
    for keys in PLACES:
        found: Any = content
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping):
            yield ".".join(keys), found


def _forms(state: State) -> Iterator[State]:
    """Give the names in a file, then without wrappers, then without what they all begin with."""
    state = {str(key): value for key, value in state.items()}
    yield state
    parts = {key: [part for part in key.split(".") if part not in WRAPPERS] for key in state}
    named = [key for key in state if key != "n_averaged"]  # AveragedModel's count
    plain = {".".join(parts[key]): state[key] for key in named}
    if len(plain) < len(named):
        return  # two would be one
    yield plain
    while len({key.partition(".")[0] for key in plain}) == 1 and all("." in key for key in plain):
        plain = {key.partition(".")[2]: value for key, value in plain.items()}
        yield plain


def _fit(state: State, own: State) -> int:
    """Count the names that fit, less those that do not."""
    return 2 * len(state.keys() & own.keys()) - len(state)


def _kind(value: object) -> str:
    """Write the shape of a tensor, and what it holds if that is not plain numbers."""
    return f"{list(value.shape)}{_type(value)}" if isinstance(value, Tensor) else _type(value)


def _type(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        return " not dense"
    return "" if value.is_floating_point() else " complex" if value.is_complex() else " of integers"


def _other_classes(saved: object, own: Tensor, classes: int) -> int | None:
    """Give back for how many classes a classifier's tensor is; None if it is not one."""
    if not isinstance(saved, Tensor) or _type(saved) != _type(own) or own.shape[:1] != (classes,):
        return None
    other = saved.shape[:1] != own.shape[:1] and saved.shape[1:] == own.shape[1:]
    return saved.shape[0] if saved.ndim and other else None


def _read(file: Path) -> State:
    """Read the names and tensors in a file."""
    data = b""
    try:
        data = read_bytes(file, most=2**34, follow=True)
        if data[8:9] == b"{":  # safetensors: the length of a JSON object, and that object
            from safetensors.torch import load  # timm brings it

            return load(data)
        refuse_packed(data)
        with warnings.catch_warnings(action="ignore"):  # about formats that are refused below
            content = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
        if isinstance(content, Mapping):
            return content
        problem = f"holds a {type(content).__name__}, not a dictionary of tensors"
    except Damaged as error:
        problem = str(error)
    except FileNotFoundError:
        problem = "does not exist"
    except ImportError:
        raise UserError(
            f"model.weights: {short(file)} is a safetensors file, and safetensors is not "
            "installed. Run pip install safetensors."
        ) from None
    except Exception as error:  # torch raises many types for damaged files
        is_pickle = data.startswith((b"PK", b"\x80"))  # in a zip archive, or by itself
        problem = "is damaged, or not a file of torch.save"
        if "TorchScript" in str(error):
            problem = "is a TorchScript archive, which holds code"
        elif is_pickle and isinstance(error, pickle.UnpicklingError):
            problem = "holds more than tensors; loading it could run any code"
    expected = "Expected a run's folder, or a file of torch.save(model.state_dict(), file)."
    raise UserError(f"model.weights: {short(file)} {problem}. {expected}")
