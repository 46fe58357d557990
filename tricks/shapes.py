"""The shapes of a model's maps, from its graph: every operation is run on the meta device."""

import copy
import warnings
from collections import OrderedDict
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx, nn

SIZES = (224, 32, 64, 96, 128, 256, 299, 384, 28, 16, 8)  # of images, tried in this order
SAMPLES = 5
HOOKS = "_forward_hooks", "_forward_pre_hooks"


def follow_shapes(
    graph: fx.Graph, copied: nn.Module, model: nn.Module
) -> tuple[dict[fx.Node, torch.Size], str]:
    """Give back the shape of every node that is a tensor, for 5 images of a size that fits.

    Where none of those that are tried does, the nodes before the error are followed.

    Args:
        graph: The graph of `copied`.
        copied: A copy of the model, without hooks; it is moved to the meta device.
        model: The model, whose hooks of tricks count: a blur subsamples.

    Returns:
        The shapes, and what went wrong: empty if nothing did.
    """
    modules = dict(copied.named_modules())
    for name, module in model.named_modules():
        for kind in HOOKS if name in modules else ():
            own = [h for h in getattr(module, kind).values() if _resizes(h)]
            if own:  # of copies, which may note what they like
                setattr(modules[name], kind, OrderedDict(enumerate(map(copy.copy, own))))
    best: dict[fx.Node, torch.Size] = {}
    error = "its forward takes no images"
    placeholders = [n for n in graph.nodes if n.op == "placeholder" and not n.args]
    if len(placeholders) != 1:
        return best, error
    try:
        runner = _Shapes(fx.GraphModule(copied.to("meta"), graph))
    except Exception as problem:  # whatever its parts raise
        return best, _said(problem)
    first = [m.in_channels for m in _called(graph, modules) if isinstance(m, nn.Conv2d)][:1]
    dtype = next((p.dtype for p in copied.parameters() if p.is_floating_point()), None)
    for channels, size in product(dict.fromkeys([*first, 3, 1]), SIZES):
        runner.shapes = {}
        images = torch.zeros(SAMPLES, channels, size, size, device="meta", dtype=dtype)
        try:
            with torch.no_grad(), torch.device("meta"), warnings.catch_warnings(action="ignore"):
                runner.run(images)
            failed = ""
        except Exception as problem:  # a size that it does not take, among others
            failed = _said(problem)
        if len(runner.shapes) > len(best):
            best, error = runner.shapes, failed
        if not failed:
            break
    return best, error


def _resizes(hook: object) -> bool:
    """Whether a hook is of a trick that may change the size of a map, not only its numbers."""
    ours = type(hook).__module__.split(".")[0] == __name__.split(".")[0]
    return ours and not hasattr(hook, "module")


def _called(graph: fx.Graph, modules: dict[str, nn.Module]) -> list[nn.Module]:
    return [modules[str(node.target)] for node in graph.nodes if node.op == "call_module"]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class _Shapes(fx.Interpreter):
    """Runs a graph, and notes the shape of each tensor."""

    shapes: dict[fx.Node, torch.Size]

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401
        """Run one node."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        return result
