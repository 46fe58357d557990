"""Where a model downsamples, and where the blur of each place belongs; read with `torch.fx`."""

import copy
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn.modules import activation

from tricks.blur_pool import pair

Strided = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d
UPSAMPLING = (nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d, nn.Fold)
Kind = Literal[
    "convolution", "pointwise", "linear", "max-pool", "average-pool", "other average-pool"
]
Rounding = Literal["up", "down", "ceil_mode"]

ACTIVATIONS = {name.lower() for name in activation.__all__} | {"clamp"}
POINTWISE = {  # what may stand between a convolution and its activation
    "add", "alphadropout", "batchnorm", "batchnorm2d", "dropout", "dropout2d", "groupnorm",
    "identity", "instancenorm", "instancenorm2d", "layernorm", "localresponsenorm", "mul",
    "stochasticdepth", "sub", "syncbatchnorm", "truediv",
}  # fmt: skip
FLATTENING = {"flatten", "getattr", "mean", "reshape", "size", "squeeze", "view"}
STRIDE_ARGUMENT = {"avgpool2d": 2, "conv2d": 3, "lppool2d": 3, "maxpool2d": 2}  # its position


@dataclass(frozen=True)
class Place:
    """A strided layer of a model, and where its blur goes."""

    layer: str
    """The layer's name in the model."""
    kind: Kind
    """`convolution` if an activation follows; else `pointwise` (1x1) or `linear`; or a pool.

    Of average-pools, `other` are those that no blur stands for: their windows lie neither side by
    side nor about the pixels that the blur keeps, or have another divisor.
    """
    stride: tuple[int, int]
    """The layer's own stride, in pixels down and across."""
    side: Literal["before", "after"]
    """On which side of the modules `at` the blur stands."""
    at: tuple[str, ...]
    """The names of the modules whose input or output is blurred."""
    rounding: Rounding = "up"
    """How many rows the smaller map has: ceil(H / stride) or floor(H / stride), of a dense map of H
    rows, or one more than the first where the layer's own ceil_mode has it so."""


def find_places(model: nn.Module, first: bool = False) -> list[Place]:
    """List the places where `anti_alias` would change a model, in the order of the computation.

    Args:
        model: Any module that `torch.fx` can trace; it is read in evaluation mode, and left alone.
        first: Whether the model's first convolution counts.

    Raises:
        ValueError: If the model cannot be traced, or a place cannot be reached.

    >>> find_places(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)))
    [Place(layer='2', kind='max-pool', stride=(2, 2), side='after', at=('2',),
    rounding='up')]
    """
    return _Plan(model, first).places


class _Plan:
    """The graph of a model, and the places in it."""

    def __init__(self, model: nn.Module, first: bool) -> None:
        self.owner = type(model).__name__
        self.modules = dict(model.named_modules())
        graph = _trace(model)
        self.varying = set[fx.Node]()
        self.calls = defaultdict[str, list[fx.Node]](list)
        for node in graph.nodes:
            if node.op == "placeholder" or self.varying.intersection(node.all_input_nodes):
                self.varying.add(node)
            if node.op == "call_module":
                self.calls[str(node.target)].append(node)
            else:
                self._refuse_unless_dense(node)
        kept = set() if first else self._first_convolutions()
        self.places = [
            place
            for name in self.calls
            if name not in kept and self._is_strided(name) and (place := self._place(name))
        ]

    def _first_convolutions(self) -> set[str]:
        """Name the first convolution, and those beside it that read the same map."""
        convolutions = [n for n in self.calls if isinstance(self.modules[n], nn.Conv2d)]
        inputs = {name: self.calls[name][0].all_input_nodes for name in convolutions}
        return {name for name in convolutions if inputs[name] == inputs[convolutions[0]]}

    def _operation(self, node: fx.Node) -> str:
        """Name what a node does, alike for a module, a function and a method: `leakyrelu`."""
        target = node.target
        does = type(self.modules[str(target)]) if node.op == "call_module" else target
        return str(getattr(does, "__name__", does)).replace("_", "").lower()

    def _is_strided(self, name: str) -> bool:
        module = self.modules[name]
        upsamples = getattr(module, "transposed", False) or isinstance(module, UPSAMPLING)
        return not upsamples and any(side != 1 for side in pair(getattr(module, "stride", 1)))

    def _place(self, name: str) -> Place | None:
        """Give back the place of a strided layer, if it has one, or refuse the layer."""
        layer, where = self.modules[name], f"{self.owner}.{name}"
        if not isinstance(layer, Strided):
            raise ValueError(
                f"{where} must be a Conv2d, MaxPool2d or AvgPool2d, got a {type(layer).__name__} "
                "with a stride. Replace it by one of these."
            )
        if isinstance(layer, nn.MaxPool2d) and layer.return_indices:
            raise ValueError(f"{where}.return_indices must be False, got True. Set it to False.")
        stride = pair(layer.stride)
        if isinstance(layer, nn.Conv2d):
            return self._convolution(name, layer, stride)
        if isinstance(layer, nn.AvgPool2d) and all(map(self._is_flattened, self.calls[name])):
            return None
        kind: Kind = "max-pool"
        rounding: Rounding = "ceil_mode" if layer.ceil_mode else "up"
        if isinstance(layer, nn.AvgPool2d):
            kind = "other average-pool"
            if reduced := _rounding_of_blur(layer):
                kind, rounding = "average-pool", reduced
        return Place(name, kind, stride, "after", (name,), rounding)

    def _convolution(self, name: str, layer: nn.Conv2d, stride: tuple[int, int]) -> Place:
        activations = [self._activation_after(call) for call in self.calls[name]]
        found = [node for node in activations if node is not None]
        if len(found) < len(activations):
            pointwise = pair(layer.kernel_size) == (1, 1) and pair(layer.padding) == (0, 0)
            return Place(name, "pointwise" if pointwise else "linear", stride, "before", (name,))
        if all(node.op == "call_module" for node in found) and self._are_all_calls(found):
            return Place(name, "convolution", stride, "after", _names(found))
        consumers = [user for node in found for user in _users(node)]
        odd = [u for u in consumers if u.op != "call_module" or u.kwargs or len(u.args) != 1]
        if odd or not self._are_all_calls(consumers):
            raise ValueError(
                f"No hook reaches the activation after {self.owner}.{name}, which feeds "
                f"{(odd or consumers)[0].name}. It must be a module that is called once, or feed "
                "modules of torch.nn that are called once. Give the place an activation module of "
                "its own, such as nn.ReLU()."
            )
        return Place(name, "convolution", stride, "before", _names(consumers))

    def _activation_after(self, node: fx.Node) -> fx.Node | None:
        """Follow a result, while one operation alone takes it, to the activation."""
        while len(users := _users(node)) == 1:
            (node,) = users
            if self._operation(node) in ACTIVATIONS:
                return node
            inputs = self.varying.intersection(node.all_input_nodes)
            if self._operation(node) not in POINTWISE or len(inputs) != 1:
                return None
        return None

    def _are_all_calls(self, nodes: list[fx.Node]) -> bool:
        """Whether the modules called at these nodes are called nowhere else: hooks fit them."""
        return all(set(self.calls[name]) <= set(nodes) for name in _names(nodes))

    def _is_flattened(self, node: fx.Node) -> bool:
        return all(self._operation(user) in FLATTENING for user in node.users)

    def _refuse_unless_dense(self, node: fx.Node) -> None:
        """Refuse a function that downsamples, since no hook reaches it."""
        operation = self._operation(node)
        if operation == "avgpool2d" and self._is_flattened(node):
            return
        if operation == "getitem" and _has_step(node.args[1]):
            got = "a slice with a step"
        elif operation in STRIDE_ARGUMENT and _function_stride(node, operation) != (1, 1):
            got = f"the function {operation}"
        else:
            return
        inside = [self.owner, *list(node.meta.get("nn_module_stack", {}))[-1:]]
        raise ValueError(
            f"{'.'.join(inside)} must downsample by modules, got {got} (node {node.name}). "
            "Write it as nn.MaxPool2d, nn.AvgPool2d or nn.Conv2d."
        )


class _Tracer(fx.Tracer):
    """Stops at a subclass that computes as its base does, too."""

    failed = ""
    """The name of the module within which the tracing failed."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Give back whether a module's call is one node of the graph."""
        bases = (nn.Conv2d.forward, nn.MaxPool2d.forward, nn.AvgPool2d.forward)
        return super().is_leaf_module(m, module_qualified_name) or type(m).forward in bases

    def call_module(self, m: nn.Module, *call: Any, **options: Any) -> Any:  # noqa: ANN401
        """Trace a module's call, and remember the innermost one that fails."""
        try:
            return super().call_module(m, *call, **options)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def _trace(model: nn.Module) -> fx.Graph:
    """Read the graph from a copy: what tracing runs may change buffers and draw numbers."""
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            "A compiled model cannot be anti-aliased. Write torch.compile(anti_alias(model))."
        )
    try:
        copied = copy.deepcopy(model).eval()
    except Exception as error:  # whatever its parts raise
        raise ValueError(
            f"{type(model).__name__} cannot be copied by copy.deepcopy, to read the graph of the "
            f"copy: {type(error).__name__}: {error}. If it uses the old weight_norm, use "
            "torch.nn.utils.parametrizations.weight_norm."
        ) from error
    tracer = _Tracer()
    try:
        with torch.random.fork_rng(devices=[]):
            return tracer.trace(copied)
    except Exception as error:  # whatever the model's own code raises
        inside = ".".join(filter(None, (type(model).__name__, tracer.failed)))
        raise ValueError(
            f"{inside} cannot be traced by torch.fx: {type(error).__name__}: {error}. "
            "Move control flow that depends on the input out of its forward."
        ) from error


def _users(node: fx.Node) -> list[fx.Node]:
    """List the nodes that use a result; one that only asks for its type, as a check, does not."""
    facts = ("ndim", "dtype", "device")
    return [u for u in node.users if not (u.target is getattr and u.args[1] in facts)]


def _names(nodes: Iterable[fx.Node]) -> tuple[str, ...]:
    """List the modules that nodes call, once each, in the order given."""
    return tuple(dict.fromkeys(str(node.target) for node in nodes))


def _has_step(index: object) -> bool:
    """Whether an index leaves out rows or columns of a map [..., H, W]."""
    if not isinstance(index, tuple):
        return False
    sides = index[-2:] if Ellipsis in index[:1] else index[2:]
    return any(isinstance(side, slice) and side.step not in (None, 1) for side in sides)


def _function_stride(node: fx.Node, operation: str) -> tuple[Any, Any]:
    """Give back the stride of a functional convolution or pool: a pool's default is its kernel."""
    position, args = STRIDE_ARGUMENT[operation], dict(enumerate(node.args))
    stride = node.kwargs.get("stride", args.get(position))
    if stride is None and operation != "conv2d":
        stride = node.kwargs.get("kernel_size", args.get(position - 1))
    return pair(1 if stride is None else stride)


def _rounding_of_blur(pool: nn.AvgPool2d) -> Rounding | None:
    """How many rows an average-pool has whose windows a blur can stand for; None for others."""
    kernel, padding = pair(pool.kernel_size), pair(pool.padding)
    if pool.divisor_override:
        return None
    if kernel == (2 * padding[0] + 1, 2 * padding[1] + 1) and not pool.ceil_mode:
        return "up"
    if kernel == pair(pool.stride) and padding == (0, 0):
        return "up" if pool.ceil_mode else "down"
    return None
