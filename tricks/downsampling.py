"""Where a model downsamples, and where the blur of each place belongs; read with `torch.fx`."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from torch import fx, nn
from torch.nn.modules import activation

from tricks.blur_pool import pair
from tricks.tracing import STRIDE_ARGUMENT, function_stride, leaves_out, takes_its_stride, trace

Strided = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d
UPSAMPLING = (nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d, nn.Fold)
OF_LINES = (nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d, nn.LPPool1d)  # no map: [N, C, L], as of tokens
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
ABOUT = {"dim", "getattr", "ndimension", "numel", "size"}  # what a tensor is, not what is in it


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
    rows; under `ceil_mode` the dense map first grows by the windows that hang over its far side."""


def find_places(model: nn.Module, first: bool = False) -> list[Place]:
    """List the places where `anti_alias` would change a model, in the order of the computation.

    Args:
        model: Any module that `torch.fx` can trace; it is read in evaluation mode, and not changed.
        first: Whether the model's first convolution counts.

    Raises:
        ValueError: If the model cannot be traced, or a place cannot be reached.

    >>> find_places(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)))
    [Place(layer='2', kind='max-pool', stride=(2, 2), side='after', at=('2',),
    rounding='up')]
    """
    try:
        return _Plan(model, first).places
    except ValueError as error:
        if not (parts := list(islice(_parts(model, first), 6))):
            raise
        raise ValueError(f"{error} Or change only what can be: {'; '.join(parts)}.") from error


def _parts(model: nn.Module, first: bool, name: str = "model") -> Iterator[str]:
    """Give the calls of `anti_alias` that change the largest parts of a model that can be.

    A part that does not begin the network has no first convolution to leave alone.
    """
    begins = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    for key, child in model.named_children():
        part = f"{name}[{key}]" if key.isdecimal() else f"{name}.{key}"
        own = first or begins not in list(child.modules())
        if not any(isinstance(module, Strided) for module in child.modules()):
            continue
        try:
            found = _Plan(child, own).places
        except ValueError:
            yield from _parts(child, own, part)
        else:
            if found:
                yield f"anti_alias({part}{', first=True' * own})"


class _Plan:
    """The graph of a model, and the places in it."""

    def __init__(self, model: nn.Module, first: bool) -> None:
        self.owner = type(model).__name__
        self.modules = dict(model.named_modules())
        graph = trace(model)
        self.varying, self.filled = set[fx.Node](), set[fx.Node]()
        """The nodes that depend on the input, and of them those that depend on its pixels."""
        self.calls = defaultdict[str, list[fx.Node]](list)
        for node in graph.nodes:
            begins, inputs = node.op == "placeholder", node.all_input_nodes
            if begins or self.varying.intersection(inputs):
                self.varying.add(node)
            reads = self.filled.intersection(inputs) and self._operation(node) not in ABOUT
            if begins or reads:
                self.filled.add(node)
            if node.op == "call_module":
                self.calls[str(node.target)].append(node)
        kept = set[fx.Node]() if first else self._first_convolutions(graph)
        for node in graph.nodes:
            if node.op in ("call_function", "call_method") and node not in kept:
                self._refuse_unless_dense(node)
        self.places = [
            place
            for name, calls in self.calls.items()
            if calls[0] not in kept and self._is_strided(name) and (place := self._place(name))
        ]

    def _first_convolutions(self, graph: fx.Graph) -> set[fx.Node]:
        """List the calls of the first convolution, and of those beside it that read the same map.

        A function counts if it strides: one that does not may be a fixed filter.
        """
        convolutions = [
            node
            for node in graph.nodes
            if isinstance(self.modules.get(str(node.target)), nn.Conv2d)
            or (self._operation(node) == "conv2d" and function_stride(node, "conv2d") != (1, 1))
        ]
        sources = [node.all_input_nodes[:1] for node in convolutions]
        return {n for n, source in zip(convolutions, sources, strict=True) if source == sources[0]}

    def _operation(self, node: fx.Node) -> str:
        """Name what a node does, alike for a module, a function and a method: `leakyrelu`."""
        target = node.target
        does = type(self.modules[str(target)]) if node.op == "call_module" else target
        return str(getattr(does, "__name__", does)).replace("_", "").lower()

    def _is_strided(self, name: str) -> bool:
        module = self.modules[name]
        upsamples = getattr(module, "transposed", False) or isinstance(module, UPSAMPLING)
        if upsamples or isinstance(module, OF_LINES) or _keeps_each_pixel(module):
            return False
        return any(side != 1 for side in pair(getattr(module, "stride", 1)))

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
        if isinstance(layer, nn.AvgPool2d) and all(map(self._is_flattened, self.calls[name])):
            return None
        if not takes_its_stride(layer):
            raise ValueError(
                f"{where} is a {type(layer).__name__} with a forward of its own, which may need "
                "its stride. Replace it by a plain nn.Conv2d, nn.MaxPool2d or nn.AvgPool2d."
            )
        stride = pair(layer.stride)
        if isinstance(layer, nn.Conv2d):
            return self._convolution(name, layer, stride)
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
            if any(not call.args for call in self.calls[name]):
                raise ValueError(
                    f"{self.owner}.{name} must be called with its input as a positional argument, "
                    f"which a hook sees. Write {name}(x)."
                )
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
        if operation == "getitem" and node in self.filled and leaves_out(node):
            got = "a slice with a step"
        elif operation in STRIDE_ARGUMENT and function_stride(node, operation) != (1, 1):
            got = f"the function {operation}"
        else:
            return
        stack = node.meta.get("nn_module_stack", {})
        where = ".".join([self.owner, *list(stack)[-1:]])
        blurs = [kind for _, kind in stack.values() if "blur" in str(kind).lower()]
        raise ValueError(
            f"{where} blurs already: it is a {blurs[-1].__name__}. Use a model without it."
            if blurs
            else f"{where} must downsample by modules, got {got} (node {node.name}). "
            "Write it as nn.MaxPool2d, nn.AvgPool2d or nn.Conv2d."
        )


def _users(node: fx.Node) -> list[fx.Node]:
    """List the nodes that use a result; one that only asks for its type, as a check, does not."""
    facts = ("ndim", "dtype", "device")
    return [u for u in node.users if not (u.target is getattr and u.args[1] in facts)]


def _names(nodes: Iterable[fx.Node]) -> tuple[str, ...]:
    """List the modules that nodes call, once each, in the order given."""
    return tuple(dict.fromkeys(str(node.target) for node in nodes))


def _keeps_each_pixel(module: nn.Module) -> bool:
    """Whether a layer only rearranges pixels: its windows leave out none."""
    if not isinstance(module, nn.Unfold) or pair(module.dilation) != (1, 1):
        return False
    sides = zip(pair(module.kernel_size), pair(module.stride), strict=True)
    return all(kernel >= stride for kernel, stride in sides)


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
