"""The command `python -m runner.anti_alias MODEL`: what anti-aliasing does to a network.

A table with a line for each layer that it changes: what the layer is, what it becomes, the size of
its map; then the strided layers that stay as they are, and the cost of the denser maps.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from runner.allowed import locate
from runner.errors import UserError
from runner.models import timm_model, torchvision_model
from runner.names import CONF
from runner.report.text import lines, table
from runner.terminal import terminal
from runner.texts import printable, reason, say
from tricks import AntiAliasing, find_places
from tricks.blur_pool import pair

BECOMES = {
    "pointwise": "blur before it, stride 1",
    "linear": "blur of stride 1 before it",
    "max-pool": "stride 1, blur after it",
    "average-pool": "the blur",
    "other average-pool": "stride 1, blur after it",
}


def build_model(name: str, channels: int, classes: int = 10) -> nn.Module:
    """Build a network: by name, of conf/model, torchvision or `timm/NAME`, or from a YAML file.

    Raises:
        UserError: If there is no such network or file.
    """
    if name.startswith("timm/"):
        return timm_model(name=name.removeprefix("timm/"), channels=channels, classes=classes)
    own = name.endswith(".yaml")
    file = Path(name) if own else CONF / "model" / f"{name}.yaml"
    if own and not file.is_file():
        raise UserError(f"MODEL: no file {name}. Give a YAML file, or the name of a model.")
    if not file.is_file():
        return torchvision_model(name=name, channels=channels, classes=classes)
    node: Any = OmegaConf.to_container(OmegaConf.load(file))
    build = locate(node.pop("_target_", None), str(file), "model")
    node.pop("weights", None)
    model: nn.Module = build(**node, channels=channels, classes=classes)
    return model


def describe(model: nn.Module, trick: AntiAliasing, channels: int, size: int) -> list[str]:
    """Anti-alias a model, and return the lines of the table.

    Raises:
        ValueError: If the model cannot be anti-aliased; it is unchanged then.
        UserError: If the size or the channels are not positive, or the model does not accept
            images of that size.
    """
    for name, value in (("--size", size), ("--channels", channels)):
        if value < 1:
            raise UserError(f"{name} must be >= 1, got {value}.")
    places = find_places(model, trick.first)
    changed = {place.layer for place in places}
    images = torch.zeros(1, channels, size, size, device="meta")  # shapes without data
    model = model.to("meta").eval()
    try:
        maps, plain = _map_sizes(model, images), count_multiply_adds(model, images)
    except RuntimeError as error:  # a layer may raise anything for such a map
        raise UserError(
            f"--size: the model does not accept images of {size} x {size} pixels: "
            f"{reason(error)}. The usual size is 224."
        ) from error
    dense = count_multiply_adds(trick.model(model), images)
    rows = []
    for p in places:
        becomes = BECOMES.get(p.kind, f"stride 1, blur {p.side} {', '.join(p.at)}")
        rows.append([p.layer, p.kind, "x".join(map(str, p.stride)), becomes, maps[p.layer]])
    kept = [f"{name} ({sides})" for name, sides in maps.items() if name not in changed]
    return [
        *lines(table(["layer", "is a", "stride", "becomes", "map"], rows, wide=(0, 3))),
        "",
        f"Unchanged: {', '.join(kept) or 'no strided layer'}.",
        f"Multiply-adds of the convolutions: {plain / 1e6:.1f} million, anti-aliased "
        f"{dense / 1e6:.1f} million, {dense / max(plain, 1):.2f} times as many, without the blurs.",
    ]


def _map_sizes(model: nn.Module, images: Tensor) -> dict[str, str]:
    """Return the size of the map before and after each strided layer, by the layer's name."""
    maps: dict[str, str] = {}

    def note(name: str, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        maps[name] = " -> ".join("x".join(map(str, m.shape[-2:])) for m in (inputs[0], output))

    handles = [
        module.register_forward_hook(partial(note, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
        and pair(module.stride) != (1, 1)
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return maps


def count_multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Count the multiply-adds of a model's convolutions for images [N, C, H, W]."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    flops = counter.get_flop_counts().get("Global", {})
    return int(sum(n for operation, n in flops.items() if "conv" in str(operation))) // 2


@terminal()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of each model."""
    parser = argparse.ArgumentParser(prog="python -m runner.anti_alias", description=__doc__)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a model of conf/model (resnet20), of torchvision (resnet50), of timm (timm/dla34), "
        "or a YAML file like those in conf/model",
    )
    parser.add_argument("--filter-size", type=int, default=4, help="taps per side, 1 to 7 (4)")
    parser.add_argument("--padding-mode", default="reflect", help="zeros, reflect, ... (reflect)")
    parser.add_argument("--first", action="store_true", help="change the first convolution too")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (224)")
    parser.add_argument("--channels", type=int, default=3, help="channels of the images (3)")
    given = parser.parse_args(arguments)
    try:
        trick = AntiAliasing(given.filter_size, given.padding_mode, given.first)
        for name in given.models:
            model = build_model(name, given.channels)
            lines = describe(model, trick, given.channels, given.size)
            say("", f"{name}, {trick}, images of {given.size}x{given.size}", *lines)
    except (UserError, ValueError) as error:
        sys.exit(printable(error))


if __name__ == "__main__":
    main()
