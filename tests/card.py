"""A stand-in for a card, on a CPU: tensors that claim to be on a device, and what waits for it.

Real CPU tensors are wrapped in ones of the device `meta`: code takes the way for whatever is no
CPU. Noted is what makes the processor wait for a card: reading a number, copies from and to it, and
results whose size depends on numbers. A number put into one place waits too, though none put into
several: `x[0] = 1.0`, not `x[:1] = 1.0`.
"""

import traceback

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("meta")
WAITING = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive", "histc", "linalg_eigh", "_linalg_eigh"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class OnCard(torch.Tensor):
    """A tensor on the card."""

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        kind = {"dtype": inner.dtype, "device": CARD, "requires_grad": inner.requires_grad}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **layout, **kind)
        made.inner = inner.detach()
        return made

    def __repr__(self):
        return f"OnCard({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function, _, arguments=(), options=None):
        return _compute(function, arguments, options or {}, [])


class Generator(torch.Generator):
    """A generator; it has the device that it was made for."""

    device = None

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.device = torch.device(device)
        return made


class Waits(TorchDispatchMode):
    """Within it there is a card; `found` is what has waited for it, and where."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, _, arguments=(), options=None):
        return _compute(function, arguments, options or {}, self.found)


def put(value):
    """Put a tensor, all tensors of a collection, or a module, on the card."""
    if isinstance(value, nn.Module):
        for module in value.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(
                        OnCard(parameter.data), parameter.requires_grad
                    )
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = OnCard(buffer)
        return value
    return tree_map(lambda x: OnCard(x) if isinstance(x, torch.Tensor) else x, value)


def fetch(value):
    """Fetch tensors of a collection from the card, without noting it."""
    return tree_map(lambda x: x.inner if isinstance(x, OnCard) else x, value)


def _compute(function, arguments, options, found):
    name = function.overloadpacket.__name__
    given = [x for x in tree_leaves((arguments, options)) if isinstance(x, torch.Tensor)]
    there = [x for x in given if isinstance(x, OnCard)]
    here = [x for x in given if not isinstance(x, OnCard)]
    if any(x.device == CARD for x in here):
        _note(found, f"{name} of a tensor made by torch.tensor")
        raise AssertionError(f"torch.tensor copies its numbers to the card: {found[-1]}")
    device = options.get("device")
    result_is_there = bool(there) if device is None else torch.device(device) == CARD
    crosses = name in ("_to_copy", "copy_") and (
        {isinstance(x, OnCard) for x in given} | {result_is_there} == {True, False}
    )
    to_card = isinstance(arguments[0], OnCard) if name == "copy_" else result_is_there
    if crosses and not (to_card and is_non_blocking(arguments, options)):
        _note(found, f"a copy {'to' if to_card else 'from'} the card ({name})")
    elif name == "copy_" and getattr(arguments[1], "is_a_number", False):
        _note(found, "x[0] = 1.0 of one place, whose number torch keeps on the CPU")
    elif there and name in WAITING:
        _note(found, name)
    elif there and name in INDEXING:
        indices = [x for x in arguments[1] if x is not None]
        if any(not isinstance(x, OnCard) for x in indices):
            _note(found, f"{name} by indices on the CPU")
        fills = name != "index" and arguments[2].ndim == 0  # x[mask] = 1.0 is a masked_fill_
        if any(x.dtype in (torch.bool, torch.uint8) for x in indices) and not fills:
            _note(found, f"{name} by a mask")
    elif there and not crosses and any(x.ndim for x in here):
        raise AssertionError(f"{name} of tensors on the card and on the CPU")
    if name == "repeat_interleave" and there and options.get("output_size") is None:
        _note(found, name)
    if "device" in options:
        options = {**options, "device": torch.device("cpu")}
    inner = function(*fetch(arguments), **fetch(options))
    if not result_is_there:
        return inner
    result = put(inner)
    if name == "scalar_tensor":
        result.is_a_number = True
    return return_and_correct_aliasing(function, arguments, options, result)


def is_non_blocking(arguments, options):
    return bool(options.get("non_blocking")) or (len(arguments) > 2 and arguments[2] is True)


def _note(found, what):
    frames = [
        f for f in traceback.extract_stack() if "/tricks/" in f.filename or "/runner/" in f.filename
    ]
    found.append(f"{what}, {frames[-1].filename}:{frames[-1].lineno}" if frames else what)
