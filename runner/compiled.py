"""Compiled networks: made once for all runs of a process with the same network and shapes.

Torch keeps the graphs that it made with the code of a network, each with guards: the conditions
under which it may be used again. By default two of these conditions are left out, and the network
of another variant would get the graph of the first. With them every run computes the same bits as
in a process of its own, where torch finds the machine code in its cache on disk.
"""

import warnings
from typing import Any

import torch
from torch import nn

from runner.errors import Unfit

NETWORKS = 32
"""Different networks whose graphs are kept; then all are dropped, which bounds the memory."""
GRAPHS = 2**12
"""Graphs that torch may keep; beyond its limit it would train uncompiled."""
SKIPPED = ("skip_nnmodule_hook_guards", "skip_no_tensor_aliasing_guards_on_parameters")
"""The guards that torch leaves out: of hooks, in which tricks live, and of shared weights."""

_networks: set[str] = set()


def compile_model(model: nn.Module, cuda_graphs: bool = False) -> None:
    """Compile a model in place, so that the keys of its state stay.

    Each shape gets a graph of its own: one for all shapes would be made when the second shape
    comes, so a resumed run would make it elsewhere.

    Args:
        model: The model, on its device.
        cuda_graphs: Whether to record what the card does, and to repeat it as a whole.
    """
    import torch._dynamo.config as limits  # takes a second to import

    # on a card the compiler recommends less exact products, as a warning
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
    # and torch about a part of a network without kernels, of which there is nothing to record
    warnings.filterwarnings("ignore", "The CUDA Graph is empty")
    limits.recompile_limit, limits.accumulated_recompile_limit = GRAPHS, 2**16
    limits.fail_on_recompile_limit_hit = True
    is_guarded = all(hasattr(limits, name) for name in SKIPPED)
    for name in SKIPPED if is_guarded else ():
        setattr(limits, name, False)
    is_full = len(_networks) >= NETWORKS and str(model) not in _networks
    # what is recorded of a card holds the addresses of one run's weights
    if cuda_graphs or not is_guarded or is_full:
        forget()
    _networks.add(str(model))
    model.compile(dynamic=False, options=_options(model, cuda_graphs))


def forget() -> None:
    """Drop the compiled networks of this process; the machine code stays on disk."""
    torch.compiler.reset()
    _networks.clear()


def _options(model: nn.Module, cuda_graphs: bool) -> dict[str, Any]:
    """What the compiler is told, beside the network."""
    if not any(parameter.is_cuda for parameter in model.parameters()):
        # the machine code is for a number of threads, which older versions of torch do not look at
        return {"cpp.threads": torch.get_num_threads()}
    options = {"triton.cudagraphs": cuda_graphs}
    if "deterministic" in torch._inductor.list_options():
        # else kernels that add up are chosen by their time, and give other bits in the next run
        options["deterministic"] = True
    return options


def refuse_cuda_graphs(device: torch.device) -> None:
    """Refuse CUDA graphs where there is no card."""
    if device.type != "cuda":
        raise Unfit(
            f"compile=cuda_graphs needs a CUDA card, and the device is {device}. Use compile=true."
        )
