"""What a config may name as a `_target_`: the allow-list, owned by the code.

A config file, also one from somebody else, can name only what is here. The list is widened by
`BISCUITS_ALLOW=package.Class,package.function` in the environment, and by nothing in a config.
"""

import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from runner.errors import UserError, did_you_mean

USERS = frozenset(
    item.strip() for item in os.environ.get("BISCUITS_ALLOW", "").split(",") if item.strip()
)
"""What the user trusts beside ours; read when the process starts, so before a config can say so."""

FUNCTIONS = {
    "data": ("runner.data", "digits", "torchvision_set", "image_folder", "image_table", "npz"),
    "model": (
        "runner.models",
        "cifar_resnet",
        "resnet18_cifar",
        "airbench",
        "torchvision_model",
        "timm_model",
    ),
    "loss": ("runner.losses", "cross_entropy"),
    "transform": (
        "torchvision.transforms.v2",
        *("RandomResizedCrop", "RandomCrop", "RandomHorizontalFlip", "RandomVerticalFlip"),
        *("RandomRotation", "RandomAffine", "RandomPerspective", "ElasticTransform"),
        *("ColorJitter", "RandomGrayscale", "RandomInvert", "RandomPosterize", "RandomSolarize"),
        *("RandomAutocontrast", "RandomEqualize", "RandomPhotometricDistort"),
        *("RandomChannelPermutation", "RandomAdjustSharpness", "GaussianBlur", "GaussianNoise"),
        *("RandomErasing", "AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix"),
        *("RandomApply", "RandomChoice", "RandomOrder"),
    ),
}
"""What these groups may name of a module, by name; the others name all classes of a kind."""


def locate(target: object, where: str, group: str) -> Any:  # noqa: ANN401
    """Give back the class or function that a config names; import nothing that is not allowed.

    Raises:
        UserError: If it is not on the list, or does not exist.
    """
    if not isinstance(target, str) or "." not in target:
        raise UserError(f"{_key(where, group)} must name a class, as package.Class, got {target}.")
    refuse_foreign({where: (target, group)})
    module, _, name = target.rpartition(".")
    if target in USERS:
        return _import(module, name, where, group)
    offered = _offered(group)
    if name not in offered[module]:
        raise UserError(
            f"{_key(where, group)} names {name}, which {module} does not offer."
            f"{did_you_mean(name, offered[module])} There are: {', '.join(offered[module])}."
        )
    return offered[module][name]


def refuse_foreign(targets: Mapping[str, tuple[object, str]]) -> None:
    """Refuse what is neither ours nor trusted by the user, all of it at once.

    Args:
        targets: For each place in the config what it names, and its group.
    """
    foreign = {
        where: (target, group)
        for where, (target, group) in targets.items()
        if isinstance(target, str) and "." in target and target not in USERS
        if target.rpartition(".")[0] not in _offered(group)
    }
    if not foreign:
        return
    where, (target, group) = next(iter(foreign.items()))
    offered = f"of {' or '.join(_offered(group))}" if group != "metric" else "built in"
    new = [*dict.fromkeys(str(target) for target, _ in foreign.values())]
    also = f" (and {', '.join(new[1:])} likewise)" if len(new) > 1 else ""
    what = "them" if len(new) > 1 else "it"
    how = f"add {what}: " if USERS else "set "
    odd = [name for name in sorted(USERS) if not re.fullmatch(r"\w+(\.\w+)+", name)]
    rule = f" {odd[0]} names nothing: each name is whole, as package.Class." if odd else ""
    whole = ",".join([*sorted(USERS - {*odd}), *new])
    raise UserError(
        f"{_key(where, group)} must be {offered}, got {target}{also}. "
        f"If you trust {what}, {how}BISCUITS_ALLOW={whole} in the environment.{rule}"
    )


def _key(where: str, group: str) -> str:
    """Write the key of a name; metrics and transforms are lists of names."""
    return where if group in ("metric", "transform") else f"{where}._target_"


def _import(module: str, name: str, where: str, group: str) -> Any:  # noqa: ANN401
    """Import what the user trusts; a scheduler and a trick have to be of their kind."""
    if not {"", os.getcwd()} & {*sys.path}:
        sys.path.append(os.getcwd())  # the command finds what `python -m runner` finds
    try:
        thing = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        found = isinstance(error, AttributeError)
        remedy = "Correct the name" if found else "Put its folder on PYTHONPATH"
        raise UserError(
            f"{_key(where, group)} must be importable, got {module}.{name}: {error}. {remedy}."
        ) from None
    bases = tuple(_kinds(group).values()) if group in ("scheduler", "tricks") else ()
    if not (isinstance(thing, type) and issubclass(thing, bases) if bases else callable(thing)):
        kind = " or ".join(base.__name__ for base in bases)
        raise UserError(
            f"{_key(where, group)} must be {f'a subclass of {kind}' if kind else 'callable'}, "
            f"got {module}.{name}."
        )
    return thing


@cache
def _offered(group: str) -> dict[str, dict[str, Any]]:
    """For each module that a group may name, what it may name of it."""
    if group == "metric":  # ours are not named by their modules
        return {}
    if group in FUNCTIONS:
        module, *names = FUNCTIONS[group]
        return {module: {name: getattr(import_module(module), name) for name in names}}
    return {
        module: {
            name: thing
            for name, thing in vars(import_module(module)).items()
            if isinstance(thing, type) and issubclass(thing, kind) and thing is not kind
            if not name.startswith("_") and name != "Chain"  # the runner makes the chain
        }
        for module, kind in _kinds(group).items()
    }


def _kinds(group: str) -> dict[str, type]:
    """For each module that a group may name, the base of its classes."""
    # torch takes a second to import, and `USERS` is read without it
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from runner.schedulers import Scheduler
    from tricks import Trick

    kinds: dict[str, dict[str, type]] = {
        "optimizer": {"torch.optim": Optimizer},
        "scheduler": {"runner.schedulers": Scheduler, "torch.optim.lr_scheduler": LRScheduler},
        "tricks": {"tricks": Trick},
    }
    return kinds[group]
