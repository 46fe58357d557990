"""What a config may name as a `_target_`: the allow-list, owned by the code.

A config file, also one from somebody else, can name only what is here. The list is widened by
`BISCUITS_ALLOW=package.Class,package.function` in the environment, and by nothing in a config.
"""

import os
from importlib import import_module
from typing import Any

from runner.errors import UserError, did_you_mean

USERS = frozenset(
    item.strip() for item in os.environ.get("BISCUITS_ALLOW", "").split(",") if item.strip()
)
"""What the user trusts beside ours; read when the process starts, so before a config can say so."""

MODULES = {
    "data": ("runner.data",),
    "model": ("runner.models",),
    "optimizer": ("torch.optim",),
    "scheduler": ("runner.schedulers", "torch.optim.lr_scheduler"),
    "tricks": ("tricks",),
}
"""For each group the modules of which it may name the classes of its kind, or these functions:"""

FUNCTIONS = {
    "runner.data": ("digits", "torchvision_set", "image_folder", "npz"),
    "runner.models": ("cifar_resnet", "resnet18_cifar", "torchvision_model", "timm_model"),
}


def locate(target: object, where: str, group: str) -> Any:  # noqa: ANN401
    """Give back the class or function that a config names; import nothing that is not allowed.

    Raises:
        UserError: If it is not on the list, or does not exist.
    """
    if not isinstance(target, str) or "." not in target:
        raise UserError(f"{where}._target_ must be package.name, got {target}. Name a class.")
    module_name, _, name = target.rpartition(".")
    if target in USERS:
        return _import(module_name, name, where, group)
    if module_name not in MODULES[group]:
        raise UserError(
            f"{where}._target_ must be of {' or '.join(MODULES[group])}, got {target}. "
            f"If you trust it, set BISCUITS_ALLOW={target} in the environment."
        )
    public = _public(module_name, group)
    if name not in public:
        raise UserError(
            f"{where}._target_ names {name}, which {module_name} does not offer."
            f"{did_you_mean(name, public)} There are: {', '.join(sorted(public))}."
        )
    return public[name]


def _import(module_name: str, name: str, where: str, group: str) -> Any:  # noqa: ANN401
    try:
        thing = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{where}._target_ must be importable, got {module_name}.{name}: {error}. "
            "Put its folder on PYTHONPATH."
        ) from None
    kinds = {"scheduler": ("torch.", ""), "tricks": ("",)}.get(group, ())
    bases = tuple(_base(group, kind) for kind in kinds)
    if not (isinstance(thing, type) and issubclass(thing, bases) if bases else callable(thing)):
        kind = " or ".join(base.__name__ for base in bases)
        raise UserError(
            f"{where}._target_ must be {f'a subclass of {kind}' if kind else 'callable'}, "
            f"got {module_name}.{name}. Name another."
        )
    return thing


def _public(module_name: str, group: str) -> dict[str, Any]:
    """The functions listed for a module, or the classes that it offers of the group's kind."""
    from tricks import Chain  # imports torch; the runner makes the chain, a config no chain

    module = import_module(module_name)
    if module_name in FUNCTIONS:
        return {name: getattr(module, name) for name in FUNCTIONS[module_name]}
    base = _base(group, module_name)
    things = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return {
        name: thing
        for name, thing in things.items()
        if isinstance(thing, type) and issubclass(thing, base) and thing not in (base, Chain)
    }


def _base(group: str, module_name: str) -> type:
    # torch takes a second to import, and `USERS` is read without it
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from runner.schedulers import Scheduler
    from tricks import Trick

    if group == "scheduler":
        return LRScheduler if module_name.startswith("torch.") else Scheduler
    return {"optimizer": Optimizer, "tricks": Trick}[group]
