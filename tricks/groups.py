"""The parameter groups of an optimizer: to take parameters out of them, and to split them."""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

Group = dict[str, Any]


def take_out(group: Group, chosen: AbstractSet[Tensor]) -> Group:
    """Take chosen parameters out of a group; give back a group of them, with its options."""
    names = group["param_names" if "param_names" in group else "params"]
    pairs = list(zip(group["params"], names, strict=True))
    taken, left = dict(group), Group()
    for wanted, target in ((True, taken), (False, left)):
        target["params"] = [p for p, _ in pairs if (p in chosen) is wanted]
        if "param_names" in group:
            target["param_names"] = [name for p, name in pairs if (p in chosen) is wanted]
    group.update(left)
    return taken


def split_groups_(
    optimizer: Optimizer,
    chosen: AbstractSet[Tensor],
    change: Callable[[Group], Group],
    groups: Iterable[Group] | None = None,
) -> None:
    """Give chosen parameters other options: in groups of their own, behind those that are there.

    A group with nothing but chosen parameters is changed as it is.

    Args:
        optimizer: Any optimizer; its states stay.
        chosen: Parameters; those that are in no group do not count.
        change: Options of a group to its new ones.
        groups: Which groups to split; None for all.
    """
    for group in list(optimizer.param_groups if groups is None else groups):
        new = change(group)
        if chosen >= set(group["params"]):
            group.update(new)
        elif not chosen.isdisjoint(group["params"]):
            optimizer.add_param_group({**take_out(group, chosen), **new})


def require_of_model(optimizer: Optimizer, model: nn.Module, trick: str) -> None:
    """Refuse an optimizer with parameters that are none of the model's: nobody knows what they are.

    Raises:
        ValueError: If there are such.
    """
    own = set(model.parameters())
    groups = optimizer.param_groups
    if foreign := [p for group in groups for p in group["params"] if p not in own]:
        shapes = ", ".join(str(list(p.shape)) for p in foreign[:3])
        raise ValueError(
            f"{trick} must know the module of each parameter, got {len(foreign)} in the optimizer "
            f"that are none of {type(model).__name__}'s, of shape {shapes}. Build the optimizer "
            "from the parameters of the model that is given, after the hook `model`."
        )
