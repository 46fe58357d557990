"""The weights that torchvision and timm offer for their models; a line about what else to do.

A model that has them says so as timm's models do: in an attribute `pretrained_cfg`, a dictionary
with `mean` and `std` of the pixels / 255 as in its training, `num_classes` and `input_size`
(C, H, W); here also with `left`, the names of what begins with random weights all the same.
"""

import os
import pickle
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import UserError
from runner.models.weights import Origin, fit
from runner.texts import listed, reason, short

NETWORK_TIMEOUT = 10.0  # seconds without a byte; torch itself would wait for ever
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def load_torchvision(
    model: nn.Module, name: str, channels: int, classes: int, options: Mapping[str, Any]
) -> None:
    """Load torchvision's weights into a model of torchvision, with their `pretrained_cfg`.

    For other classes the classifier stays as it is. For other than three channels the weights w of
    the first convolution become w' of the same size, as timm makes them: for one channel their sum,
    w' = w_R + w_G + w_B; for C channels w'_c = 3 / C * w_(c mod 3).

    GoogLeNet and Inception v3, which torchvision has normalise their inputs once more, do not: the
    means and deviations are those after that.

    Args:
        model: Of torchvision, with weights of any kind.
        name: Its name there.
        channels: Channels of the images.
        classes: Number of classes.
        options: The keywords that it was built with.

    Raises:
        UserError: If the weights cannot be had, or do not fit.
    """
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    place, remedy = _hub_file(weights.url)
    with torch.random.fork_rng([]), _reading("torchvision", name, remedy, place):
        theirs: Any = models.get_model(
            name, weights=weights, progress=sys.stderr.isatty(), **options
        )
    size, own = (getattr(each, "image_size", None) for each in (theirs, model))
    if size != own:
        raise UserError(
            f"model.pretrained: the weights of {name} are for images of {size} x {size}, not {own}."
            f" Set +model.kwargs.image_size={size} and data.size={size}."
        )
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith(("aux", "AuxLog"))}
    convolutions = (n for n, each in model.named_modules() if isinstance(each, nn.Conv2d))
    first = f"{next(convolutions)}.weight"
    state[first] = _other_channels(state[first], channels)
    left = fit(model, state, f"model.pretrained: the file of {weights}", classes).left
    transforms = weights.transforms()
    twice = getattr(theirs, "transform_input", False) and "transform_input" not in options
    model.__dict__["pretrained_cfg"] = {
        "mean": (0.5,) * 3 if twice else tuple(transforms.mean),
        "std": (0.5,) * 3 if twice else tuple(transforms.std),
        "num_classes": len(weights.meta["categories"]),
        "left": left,
        "input_size": (3, *transforms.crop_size * 2),
    }


def create_pretrained(create: Callable[..., nn.Module], name: str) -> nn.Module:
    """Create a model of timm with its weights; a file that is on the disk needs no network.

    Args:
        create: `timm.create_model` with all its arguments but `pretrained`.
        name: Its name in timm.

    Raises:
        UserError: If timm has no weights for it, or they cannot be had.
    """
    import timm

    if not timm.is_model_pretrained(name):
        raise UserError(
            f"model.pretrained: timm has no weights for {name}. Choose another of "
            "timm.list_models(pretrained=True), or set model.pretrained=false."
        )
    cfg: Any = timm.get_pretrained_cfg(name)
    if cfg.hf_hub_id:
        address = f"https://huggingface.co/{cfg.hf_hub_id}"
        remedy = f"Take {cfg.hf_hub_filename or HUB_FILES[0]} from {address}: model.weights=FILE"
        with _reading("timm", name, remedy):
            file = _from_hub(
                cfg.hf_hub_id, [cfg.hf_hub_filename] if cfg.hf_hub_filename else HUB_FILES
            )
        with _reading("timm", name, remedy, file.resolve()):
            create = partial(create, pretrained_cfg_overlay={"file": str(file)})
            return _tell_left(create)
    url, *named = [cfg.url] if isinstance(cfg.url, str) else cfg.url
    place, remedy = _hub_file(url, *named)
    with _reading("timm", name, remedy, place):
        return _tell_left(create)


def _tell_left(create: Callable[..., nn.Module]) -> nn.Module:
    """Create a model of timm with its weights, and name what is as random as without them.

    timm passes over what a file lacks, where the classes are others.
    """
    with torch.random.fork_rng([]):
        plain = create(pretrained=False).state_dict()
    model: Any = create(pretrained=True)
    found = model.state_dict().items()
    left = [k for k, v in found if v.ndim > 1 and torch.equal(v, plain[k]) and v.std() > 0]
    model.__dict__["pretrained_cfg"] = {**model.pretrained_cfg, "left": left}
    return model  # type: ignore[no-any-return]


def origin(model: nn.Module, channels: int, classes: int) -> Origin:
    """Say what of pretrained weights a model has, and how its inputs are to be normalised.

    Args:
        model: One with pretrained weights.
        channels: Channels of the images.
        classes: Number of classes.
    """
    cfg: Any = getattr(model, "pretrained_cfg", None)
    if not isinstance(cfg, Mapping):
        return Origin()
    notes = []
    if left := listed([*map(str, cfg.get("left", ()))], 5):
        count = cfg.get("num_classes")
        why = f"the weights are for {count} classes, not {classes}: " if count != classes else ""
        notes.append(f"{why}random ones for {left}")
    if (count := (cfg.get("input_size") or (channels,))[0]) != channels:
        how = "summed up" if channels == 1 else "repeated"
        notes.append(
            f"the weights are for {count} channels, not {channels}: "
            f"those of the first convolution are {how}"
        )
    mean, std = (cfg.get(key) for key in ("mean", "std"))
    if not (mean and std and len(mean) == len(std) == channels):
        return Origin(tuple(notes))
    return Origin(tuple(notes), (torch.tensor(mean), torch.tensor(std)))


def _other_channels(weight: Tensor, channels: int) -> Tensor:
    """Make weights [O, C, h, w] for other channels of those for three."""
    if channels == 3:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % 3] * (3 / channels)


@contextmanager
def _reading(library: str, name: str, remedy: str, place: Path | None = None) -> Iterator[None]:
    """Read weights without running what is in them; say in one line why that fails.

    Args:
        library: Whose weights they are.
        name: Of the model.
        remedy: What to do where there is no network.
        place: The file, if it is known.
    """
    before, forced = socket.getdefaulttimeout(), os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # torchvision does not ask for it
    there = place is not None and place.exists()
    where = f"model.pretrained: the weights of {library}'s {name}"
    try:
        yield
    except (TypeError, UserError):
        raise
    except Exception as error:  # a damaged file, and each kind of network, has errors of its own
        if isinstance(error, ValueError) or "loading state_dict" in str(error):
            raise UserError(
                f"{where} do not fit it with model.kwargs: {reason(error)}. Remove the keyword."
            ) from error
        if there:
            code = isinstance(error, pickle.UnpicklingError)
            problem = "holds more than tensors" if code else f"is damaged ({reason(error)})"
            raise UserError(
                f"{where}: {short(place)} {problem}. Remove it: it is then downloaded again."
            ) from error
        cause = getattr(error, "reason", None)
        text = reason(cause if isinstance(cause, Exception) else error)
        raise UserError(f"{where} cannot be downloaded: {text}. {remedy}.") from error
    finally:
        socket.setdefaulttimeout(before)
        os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        if forced is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = forced


def _hub_file(url: str, name: str | None = None) -> tuple[Path, str]:
    """Say where torch keeps a file of the network, and what to do to have it there."""
    address, _, file = url.rpartition("/")
    folder = Path(torch.hub.get_dir(), "checkpoints")
    how = f"Put {file} from {address}/ into {short(folder)}, or set model.weights=FILE"
    return folder / (name or file), how


def _from_hub(repository: str, names: Sequence[str]) -> Path:
    """Find the first of some files of the hub on the disk, else download it.

    Raises:
        OSError: If there is no network; the hub's own client would try for most of a minute.
    """
    import huggingface_hub as hub

    repo, _, revision = repository.partition("@")
    kept = (hub.try_to_load_from_cache(repo, name, revision=revision or None) for name in names)
    if found := next((path for path in kept if isinstance(path, str)), None):
        return Path(found)
    request = urllib.request.Request(hub.constants.ENDPOINT, method="HEAD")
    with suppress(urllib.error.HTTPError):  # which is an answer
        urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT).close()
    *others, last = names
    for name in others:
        with suppress(hub.errors.EntryNotFoundError):
            return Path(hub.hf_hub_download(repo, name, revision=revision or None))
    return Path(hub.hf_hub_download(repo, last, revision=revision or None))
