"""A layer that computes otherwise, in place: its class becomes one derived from its own.

The layer stays the same object, with its parameters, buffers, hooks and `state_dict` keys. The
class keeps the name and module of the layer's own, by which `torch.fx` and others know it. Unlike a
module that `torch.nn.utils.parametrize` has changed, it can be pickled, and its checkpoints are
those of the plain layer.
"""

from typing import Any

from torch import nn


class Derived(nn.Module):
    """What a layer's class is derived from, beside the layer's own class."""

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        """Copies and pickles derive the class anew: no name leads to it."""
        change, own = type(self).__bases__
        return _blank, (change, own), self.__getstate__()  # type: ignore[no-untyped-call]


def derive_(layer: nn.Module, change: type[Derived], **settings: float) -> None:
    """Change the class of a layer, in place, to one whose methods are first those of `change`.

    Args:
        layer: Any module.
        change: Methods that override the layer's, which they reach by `super()`.
        settings: What they need, as attributes of the layer.
    """
    layer.__class__ = _derived(change, type(layer))
    vars(layer).update(settings)


_classes = dict[tuple[type, type], type]()


def _derived(change: type[Derived], own: type[nn.Module]) -> type[nn.Module]:
    if (change, own) not in _classes:
        names = {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}
        _classes[change, own] = type(own.__name__, (change, own), names)
    return _classes[change, own]


def _blank(change: type[Derived], own: type[nn.Module]) -> nn.Module:
    kind = _derived(change, own)
    return kind.__new__(kind)
