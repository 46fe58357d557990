"""What one run of a process would leave to the next: torch's flags, generators, hooks, variables.

A sweep does many runs in a process, and each has to give the bits that it gives alone.
"""

import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as modules

Flag = tuple[Callable[[], Any], Callable[[Any], object]]
"""What reads it, and what sets it."""

_ATTRIBUTES = (
    *("fp32_precision", "cuda.matmul.fp32_precision"),
    *("cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision"),
    *("mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision"),
    *("cudnn.enabled", "cudnn.benchmark", "cudnn.deterministic"),
    *("mkldnn.enabled", "mkldnn.deterministic"),
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "cuda.matmul.allow_fp16_accumulation",
)


def _attribute(path: str) -> Flag:
    owner, _, name = f"backends.{path}".rpartition(".")
    holder = attrgetter(owner)(torch)
    return partial(getattr, holder, name), partial(setattr, holder, name)


def _flushes() -> bool:
    """Whether numbers near zero are taken for zero, which torch has no function for."""
    tiny = torch.full((), 1e-40, dtype=torch.float32, device="cpu")
    return tiny.mul(1.0).item() == 0.0


BY_DEVICE = "by device"


def _matmul_precision() -> str:
    """Torch's older flag, which it refuses to read where the newer ones of devices differ."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return BY_DEVICE


def _set_matmul_precision(precision: str) -> None:
    """Set the older flag, and with it the newer ones, which are put back after it."""
    torch.set_float32_matmul_precision("highest" if precision == BY_DEVICE else precision)


FLAGS: dict[str, Flag] = {
    "default_dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "float32_matmul_precision": (_matmul_precision, _set_matmul_precision),
    **{name: _attribute(name) for name in _ATTRIBUTES},
    "deterministic_algorithms": (
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
    "flush_denormal": (_flushes, torch.set_flush_denormal),
}
"""Torch's flags for the whole process that the bits of a run depend on."""


def read_flags() -> dict[str, str]:
    """Give back torch's flags."""
    return {name: str(get()) for name, (get, _) in FLAGS.items()}


_USUAL = read_flags()


def unusual_flags() -> str:
    """Write the flags that are not as torch has them."""
    return " ".join(f"{k}={v}" for k, v in read_flags().items() if _USUAL[k] != v)


@contextmanager
def isolated() -> Iterator[None]:
    """Give to the next run the process as it was, whatever a model, trick or data set changes."""
    kept = [(get, put, get()) for get, put in (*FLAGS.values(), *_OTHERS)]
    try:
        yield
    finally:
        for get, put, before in kept:
            if get() != before:
                put(before)


def _put_variables(before: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(before)


def _hooks() -> dict[str, dict[Any, Any]]:
    """The hooks of all modules, which torch keeps in private dictionaries."""
    return {k: dict(v) for k, v in vars(modules).items() if k.startswith("_global") and v}


def _put_hooks(before: dict[str, dict[Any, Any]]) -> None:
    for name, hooks in vars(modules).items():
        if name.startswith("_global") and isinstance(hooks, dict):
            hooks.clear()
            hooks.update(before.get(name, {}))


def _put_filters(before: tuple[Any, ...]) -> None:
    warnings.resetwarnings()
    warnings.filters[:] = before  # type: ignore[index]


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return (kind, tuple(keys), *rest)  # arrays do not compare


_OTHERS: tuple[Flag, ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    (lambda: torch.get_default_device().type, lambda _: torch.set_default_device(None)),
    (lambda: tuple(warnings.filters), _put_filters),
    (random.getstate, random.setstate),
    (_numpy_state, np.random.set_state),
    (_hooks, _put_hooks),
    (lambda: dict(os.environ), _put_variables),
)
