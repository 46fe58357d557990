"""Optimizers without the compiler: torch imports `torch._dynamo` for the first one it makes.

That takes as long as the rest of torch, and nothing is compiled: the compiler is only told to leave
these functions alone. So they are called without asking it, until anything imports it, as
`compile=true` or a user's own `torch.compile` does; from then on they are as torch has them. Where
torch's own code is not as expected, nothing is changed.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch.optim import Optimizer

COMPILER = "torch._dynamo"
CACHE = "__dynamo_disable"

GUARDED = {"getattr", COMPILER, "_dynamo", "disable", CACHE}, ("fn", "recursive")
"""The names in what `torch._compile._disable_dynamo` makes of a function, global and free: it asks
the compiler once, and keeps the answer as an attribute of the function."""

STEP = (
    {COMPILER, "cast", "Optimizer", "is_grad_enabled", "set_grad_enabled", "defaults", "_dynamo"}
    | {"graph_break"},
    ("func",),
)
"""The same of `torch.optim.optimizer._use_grad_for_differentiable`; it asks at each step."""


def do_without_compiler() -> None:
    """Have optimizers make steps without importing the compiler, if nothing has imported it."""
    if COMPILER in sys.modules or any(isinstance(f, _Restorer) for f in sys.meta_path):
        return
    guarded = [function.__wrapped__ for function in _guarded()]
    for function in guarded:
        setattr(function, CACHE, function)
    sys.meta_path.insert(0, _Restorer(guarded))
    kinds: list[Any] = [kind for kind in vars(torch.optim).values() if isinstance(kind, type)]
    for kind in kinds:
        step = vars(kind).get("step")
        if _is_as_known(step, *STEP):
            kind.step = _without_compiler(step)


class _Restorer(MetaPathFinder):
    """Finds no module; takes back what was changed when the compiler is imported."""

    def __init__(self, guarded: Sequence[Any]) -> None:
        self.guarded = guarded

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname == COMPILER:
            sys.meta_path.remove(self)
            for function in self.guarded:
                vars(function).pop(CACHE, None)
        return None


def _guarded() -> Iterator[Any]:
    """Find the methods of every optimizer that the compiler leaves alone."""
    for function in vars(Optimizer).values():
        if _is_as_known(function, *GUARDED) and not hasattr(function.__wrapped__, CACHE):
            yield function


def _is_as_known(function: Any, names: set[str], free: tuple[str, ...]) -> bool:  # noqa: ANN401
    code = function.__code__ if isinstance(function, FunctionType) else None
    wraps = isinstance(getattr(function, "__wrapped__", None), FunctionType)
    return code is not None and wraps and {*code.co_names} == names and code.co_freevars == free


def _without_compiler(step: Any) -> Callable[..., Any]:  # noqa: ANN401
    """Make a step that records gradients as torch's does, and tells the compiler nothing."""

    @functools.wraps(step)
    def alone(self: Optimizer, *args: Any, **named: Any) -> Any:  # noqa: ANN401
        if COMPILER in sys.modules:
            return step(self, *args, **named)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step.__wrapped__(self, *args, **named)

    return alone
