"""The sums of a model that are residual blocks, read with `torch.fx`; `residual` has the blocks."""

from collections import defaultdict
from typing import Any, NamedTuple

from torch import fx, nn

from tricks.layers import LAYERS, is_weight
from tricks.shapes import SAMPLES, follow_shapes
from tricks.tracing import Tracer, trace

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
DROPS = {"droppath", "droppath2d", "stochasticdepth"}
"""The classes that drop branches, in lower case."""

ADDITIONS = {"add", "iadd"}
SCALING = {  # f(m x) = m f(x) for a factor m of each sample
    "clone", "contiguous", "div", "droppath", "droppath2d", "dropout", "dropout2d", "identity",
    "mul", "neg", "permute", "stochasticdepth", "to", "transpose", "truediv",
}  # fmt: skip
RESIZING = {
    "adaptiveavgpool2d", "avgpool2d", "cat", "getitem", "maxpool2d", "newzeros", "pad", "zeros",
    "zeropad2d", "zeroslike",
}  # fmt: skip
FILTERS = {"batchnorm", "conv2d", "linear"}
ABOUT = {"assert", "dim", "eq", "getattr", "ndimension", "numel", "size"}  # what a tensor is
UPSAMPLING = {
    "convtranspose2d", "interpolate", "maxunpool2d", "pixelshuffle", "upsample",
    "upsamplingbilinear2d", "upsamplingnearest2d",
}  # fmt: skip


class _Tracer(Tracer):
    """Also stops at norms, and remembers what every module gave back."""

    leaves = (*Tracer.leaves, *NORMS)

    def __init__(self) -> None:
        super().__init__()
        self.calls = defaultdict[str, list[fx.Node]](list)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        drops = type(m).__name__.lower() in DROPS
        return drops or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, *call: Any) -> Any:  # noqa: ANN401
        result = super().call_module(m, forward, *call)
        if isinstance(result, fx.Proxy):
            self.calls[self.path_of_module(m)].append(result.node)
        return result


class Sum(NamedTuple):
    """The parts of a block: nodes of the graph."""

    node: fx.Node
    branch: fx.Node
    start: fx.Node
    """The block's input: the last map that both sides are computed from."""


class Sums:
    """The graph of a model, and the sums in it that are residual blocks."""

    def __init__(self, model: nn.Module, call: str) -> None:
        self.model, self.modules = model, dict(model.named_modules())
        tracer = _Tracer()
        graph = trace(model, call, tracer)
        self.shapes, self.problem = follow_shapes(graph, tracer.root, model)
        """The shape of each tensor, and what kept some from being known."""
        self.nodes, self.calls = list(graph.nodes), tracer.calls
        self.callers = defaultdict[fx.Node, list[str]](list)
        for name, results in self.calls.items():
            for result in results:
                self.callers[result].append(name)
        self.bit = {node: 1 << place for place, node in enumerate(self.nodes)}
        self.above = dict[fx.Node, int]()
        """What a node is computed from, itself included, as bits; 0 if not from the input."""
        for node in self.nodes:
            reached = 0
            for each in node.all_input_nodes:
                reached |= self.above[each]
            varies = reached or node.op == "placeholder"
            self.above[node] = reached | self.bit[node] if varies else 0
        self.maps = sum(self.bit[node] for node in self.shapes if self.above[node])

    def find(self) -> list[Sum]:
        """Find the sums that are blocks."""
        additions = {node for node in self.nodes if self._is_addition(node)}
        longer = {
            each
            for node in additions
            if len(users := self.users(node)) == 1 and users[0] in additions
            for each in (node, users[0])
        }
        found = list[Sum]()
        for node in self.nodes:
            if node not in additions or node in longer or not (new := self._sum(node)):
                continue
            inner = [each for each in found if self._is_between(each.node, new.start, new.branch)]
            if len(inner) == 1:
                found.remove(inner[0])
            if len(inner) < 2:
                found.append(new)
        return found

    def _is_addition(self, node: fx.Node) -> bool:
        operands = node.all_input_nodes
        shapes = {self.shapes.get(each) for each in (node, *operands)}
        shape = shapes.pop()
        return (
            self.operation(node) in ADDITIONS
            and node.op != "call_module"
            and len(operands) == 2
            and all(self.above[each] for each in operands)
            and not shapes
            and shape is not None
            and len(shape) > 2
            and shape[0] == SAMPLES
        )

    def _sum(self, node: fx.Node) -> Sum | None:
        """Find out which operand is the shortcut, if one is."""
        one, other = node.all_input_nodes
        if not (common := self.above[one] & self.above[other] & self.maps):
            return None
        start = self.nodes[common.bit_length() - 1]
        for shortcut, branch in ((one, other), (other, one)):
            way = self.between(start, branch)
            few, many = self._layers(self.between(start, shortcut)), self._layers(way)
            fewer = few[0] < many[0] if few[0] else few < many
            if any(self.operation(each) in UPSAMPLING for each in way):
                continue
            if few[0] < 3 and fewer and self._is_shortcut(shortcut, start):
                return Sum(node, branch, start)
        return None

    def _is_shortcut(self, node: fx.Node, start: fx.Node) -> bool:
        """Whether a map is another but for a projection, norms, pools, padding and slices."""
        if node is start:
            return True
        operation = self.operation(node)
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        known = isinstance(module, (*LAYERS, *NORMS)) or operation in SCALING | RESIZING | FILTERS
        if operation == "getitem" and not isinstance(node.args[1], tuple):
            known = False  # a part of a map that was split: another part may be the branch's
        inputs = [each for each in self.inputs(node) if self.above[each] & self.bit[start]]
        alone = len(inputs) < 2 or operation == "cat"
        return known and alone and all(self._is_shortcut(each, start) for each in inputs)

    def between(self, start: fx.Node, end: fx.Node) -> list[fx.Node]:
        """List the nodes from one, which does not count, to another, which does."""
        return [node for node in self.nodes if self._is_between(node, start, end)]

    def _is_between(self, node: fx.Node, start: fx.Node, end: fx.Node) -> bool:
        down = self.above[node] & self.bit[start] and node is not start
        return bool(down and self.above[end] & self.bit[node])

    def _layers(self, nodes: list[fx.Node]) -> tuple[int, int]:
        """Count the layers with a matrix or filters, and the norms."""
        weights, norms = 0, 0
        for node in nodes:
            if node.op == "call_module":
                module = self.modules[str(node.target)]
                weights += isinstance(module, LAYERS) or any(map(is_weight, module.parameters()))
                norms += isinstance(module, NORMS)
            else:  # a function of a parameter
                read = [self._parameter(each) for each in node.all_input_nodes]
                weights += any(is_weight(each) for each in read if each is not None)
        return weights, norms

    def _parameter(self, node: fx.Node) -> nn.Parameter | None:
        if node.op != "get_attr":
            return None
        *owner, name = str(node.target).split(".")
        found = getattr(self.modules.get(".".join(owner)), name, None)
        return found if isinstance(found, nn.Parameter) else None

    def operation(self, node: fx.Node) -> str:
        """Name what a node does, alike for a module, a function and a method: `leakyrelu`."""
        target = node.target
        does = type(self.modules[str(target)]) if node.op == "call_module" else target
        return str(getattr(does, "__name__", does)).replace("_", "").lower()

    def users(self, node: fx.Node) -> list[fx.Node]:
        """List the nodes that use a map: not those that ask for its shape."""
        return [user for user in node.users if self.operation(user) not in ABOUT]

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """List the maps that a node uses."""
        return [each for each in node.all_input_nodes if self.maps & self.bit[each]]

    def name(self, node: fx.Node) -> str:
        """Name a node for a message."""
        if node.op == "call_module":
            return f"{node.target}, a {type(self.modules[str(node.target)]).__name__}"
        return "the output" if node.op == "output" else f"the function {self.operation(node)}"
