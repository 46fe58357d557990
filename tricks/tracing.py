"""The graph of a model, read with `torch.fx` from a copy: no hook runs, and nothing is changed."""

import copy
from collections import OrderedDict
from itertools import product
from typing import Any

import torch
from torch import fx, nn

from tricks.blur_pool import pair

LAYERS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
WRAPPERS = {
    "DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule",
    "ScriptModule",
}  # fmt: skip
STRIDE_ARGUMENT = {"avgpool2d": 2, "conv2d": 3, "lppool2d": 3, "maxpool2d": 2}  # its position
HOOKS = [name for name in vars(nn.Module()) if "hooks" in name]


class Tracer(fx.Tracer):
    """Stops at some layers, whatever their forward, and runs no hook: it would get no tensors."""

    leaves: tuple[type[nn.Module], ...] = LAYERS
    failed = ""
    """The name of the module within which the tracing failed."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Give back whether a module's call is one node of the graph."""
        return super().is_leaf_module(m, module_qualified_name) or isinstance(m, self.leaves)

    def call_module(self, m: nn.Module, forward: Any, *call: Any) -> Any:  # noqa: ANN401, ARG002
        """Trace a module's forward without its hooks; remember the innermost that fails."""
        try:
            return super().call_module(m, m.forward, *call)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile has made a module, or its `compile` was called."""
    return hasattr(module, "_orig_mod") or bool(getattr(module, "_compiled_call_impl", None))


def trace(model: nn.Module, call: str = "anti_alias", tracer: Tracer | None = None) -> fx.Graph:
    """Read the graph of a model in evaluation mode.

    Tracing may change buffers and draw numbers, so a copy is read, which has no hooks.

    Args:
        model: The model.
        call: The function that changes it, for the messages.
        tracer: What reads it, whose `root` is then the copy.

    Raises:
        ValueError: If the model is wrapped, cannot be copied or cannot be traced.
    """
    name = type(model).__name__
    for inner, module in model.named_modules():
        where = ".".join(filter(None, (name, inner)))
        if is_compiled(module):
            raise ValueError(
                f"A compiled model cannot be changed. Write torch.compile({call}(model))."
            )
        if kinds := [kind.__name__ for kind in type(module).__mro__ if kind.__name__ in WRAPPERS]:
            raise ValueError(
                f"{where} is a {kinds[-1]}. Call {call} before the model is wrapped or scripted."
            )
    no_hooks = {
        id(hooks): OrderedDict[Any, Any]()
        for module in model.modules()
        for hooks in map(vars(module).get, HOOKS)
    }
    try:
        copied = copy.deepcopy(model, no_hooks).eval()
    except Exception as error:  # whatever its parts raise
        raise ValueError(
            f"{name} cannot be copied by copy.deepcopy, to read the graph of the "
            f"copy: {type(error).__name__}: {error}. If it uses the old weight_norm, use "
            "torch.nn.utils.parametrizations.weight_norm."
        ) from error
    tracer = tracer or Tracer()
    try:
        with torch.random.fork_rng(devices=[]):
            return tracer.trace(copied)
    except Exception as error:  # whatever the model's own code raises
        inside = ".".join(filter(None, (name, tracer.failed)))
        raise ValueError(
            f"{inside} cannot be traced by torch.fx: {type(error).__name__}: {error}. "
            "Move control flow that depends on the input out of its forward."
        ) from error


def takes_its_stride(layer: nn.Module) -> bool:
    """Whether a convolution or a pool with stride 1 gives its map without leaving out a pixel.

    Torch's own do. So does a subclass whose forward is one convolution of its input, by its own
    stride and padding, with any weight: one that is standardized first.
    """
    if type(layer).forward in [kind.forward for kind in LAYERS]:
        return True
    if not isinstance(layer, nn.Conv2d):
        return False
    try:
        graph = fx.Tracer().trace(copy.deepcopy(layer))
    except Exception:  # whatever its own code raises
        return False
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    *_, last, output = graph.nodes
    if list(inputs[0].users) != [last] or output.args != (last,) or last.target is not torch.conv2d:
        return False
    names = "input", "weight", "bias", "stride", "padding"
    given = {**dict(zip(names, last.args, strict=False)), **last.kwargs}
    own = {"input": inputs[0], "stride": layer.stride, "padding": layer.padding}
    return all(given.get(name) == value for name, value in own.items())


def function_stride(node: fx.Node, operation: str) -> tuple[Any, Any]:
    """Give back the stride of a functional convolution or pool: a pool's default is its kernel."""
    position, args = STRIDE_ARGUMENT[operation], dict(enumerate(node.args))
    stride = node.kwargs.get("stride", args.get(position))
    if stride is None and operation != "conv2d":
        stride = node.kwargs.get("kernel_size", args.get(position - 1))
    return pair(1 if stride is None else stride)


def leaves_out(node: fx.Node) -> bool:
    """Whether a slice leaves out pixels of a map that no slice beside it, of another offset, takes.

    So the four slices that lay each 2x2 pixels out as channels leave out none, and neither do
    those that take even and odd channels apart.
    """
    _, steps, rest = _offsets(node.args[1])
    beside = [
        _offsets(user.args[1])
        for user in node.all_input_nodes[0].users
        if user.target is node.target and user.users
    ]
    taken = {other for other, *same in beside if same == [steps, rest]}
    return not taken >= set(product(*map(range, steps)))


def _offsets(index: Any) -> tuple[tuple[Any, ...], list[Any], list[Any]]:  # noqa: ANN401
    """Split an index of a map [..., H, W]: starts and steps of rows and columns, and the rest."""
    sides = list(index) if isinstance(index, tuple) else []
    starts, steps = [], []
    for number in range(len(sides) - 2 if Ellipsis in sides[:1] else 2, len(sides)):
        side = sides[number]
        if isinstance(side, slice) and side.step not in (None, 1):
            starts.append(side.start or 0)
            steps.append(side.step)
            sides[number] = slice(side.stop)
    return tuple(starts), steps, sides
