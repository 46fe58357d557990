"""Which layers of a model are meant: those that are named, the first, the classifier; by fx."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from tricks.tracing import Tracer

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
LAYERS = (*CONVOLUTIONS, nn.Linear)


def find_classifier(model: nn.Module) -> tuple[str, ...]:
    """Name the classifier: the layer, or parameters, that no other weight lies behind.

    It is found in the graph of the computation, whatever the order of definition: the last linear
    layer or convolution on the way to the output, or several, where a model has several heads; of
    outputs that are also features, those that lead to no other head do not count.

    Args:
        model: Any module that `torch.fx` can trace; it is left as it is. Of a compiled or wrapped
            one, the module inside.

    Returns:
        Names of modules and parameters; none if the model has no weights.

    Raises:
        ValueError: If it cannot be known: the model cannot be traced, its weights are no
            parameters in the graph, or the output is that of residual blocks, which have no head.

    >>> find_classifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 1)))
    ('2',)
    """
    graph = _Graph(unwrapped(model))
    found = [graph.last_weights(node) for node in graph.outputs]
    heads = {h for each in found if not any(_above(h) & each for h in each) for h in each}
    heads -= {earlier for head in heads for earlier in _above(head)}
    names = [graph.names(head) for head in heads]
    if not all(names) or (any(found) and not names):
        raise ValueError(f"{type(model).__name__} does not end in a linear layer or convolution")
    return tuple(sorted({name for each in names for name in each}))


def find_first(model: nn.Module) -> tuple[str, ...]:
    """Name the first layer: the one, or several, that no other weight lies before.

    It is found as the classifier is: in the graph of the computation.

    Args:
        model: Any module that `torch.fx` can trace; it is left as it is.

    Returns:
        Names of modules and parameters; none if the model begins with an embedding.

    Raises:
        ValueError: If the model cannot be traced.

    >>> find_first(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 1)))
    ('1',)
    """
    graph = _Graph(unwrapped(model))
    behind, first = set[fx.Node](), list[str]()
    for node in graph.nodes:
        has_weight = graph.has_weight(node)
        if has_weight and not behind.intersection(node.all_input_nodes):
            first += graph.names(node)
        if has_weight or behind.intersection(node.all_input_nodes):
            behind.add(node)
    return tuple(sorted({*first}))


def parameters_named(model: nn.Module, names: Sequence[str]) -> Iterator[nn.Parameter]:
    """Run through the parameters that are named, and those of the modules that are.

    Raises:
        ValueError: If a name is that of nothing in the model.
    """
    if isinstance(names, str):
        raise ValueError(f"exclude must be a list of names, got {names!r}. Write ({names!r},).")
    model = unwrapped(model)
    for name in names:
        found = get_part(model, name)
        if isinstance(found, nn.Module):
            yield from found.parameters()
        elif isinstance(found, nn.Parameter):
            yield found
        else:
            parts = listed([part for part, _ in model.named_children()], 8) or "no modules"
            raise ValueError(
                f"exclude must name modules or parameters of {type(model).__name__}, got {name!r}. "
                f"Take the names from its named_parameters(); its parts are {parts}."
            )


def get_part(model: nn.Module, name: str) -> object:
    """Give back what has a name: also in a scripted module, which has no `get_submodule`."""
    found: object = model
    for key in name.split("."):
        found = getattr(found, key, None)
    return found


def unwrapped(model: nn.Module) -> nn.Module:
    """Give back the model inside of a compiled or parallel one, whose names are the user's."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def listed(names: Sequence[str], most: int = 4) -> str:
    """Write names in a sentence."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class _Graph(Tracer):
    """The graph of a model; every layer is one node."""

    leaves = LAYERS

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = dict(model.named_modules())
        self.tensors, self.varying = dict[fx.Node, Tensor](), set[fx.Node]()
        before = [(module, dict(module.__dict__)) for module in self.modules.values()]
        try:
            with torch.random.fork_rng(devices=[]):
                self.nodes = self.trace(model).nodes
            for node in self.nodes:
                if node.op == "get_attr":
                    self.tensors[node] = cast(Tensor, get_part(model, str(node.target)))
                if node.op == "placeholder" or self.varying.intersection(node.all_input_nodes):
                    self.varying.add(node)
        except Exception as error:  # whatever the model's own code raises
            reason = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"{type(model).__name__} cannot be traced by torch.fx, "
                f"{type(error).__name__}: {reason}"
            ) from error
        finally:
            for module, attributes in before:  # its forward may have kept what is no tensor
                module.__dict__.clear()
                module.__dict__.update(attributes)
        self.outputs = next(iter(reversed(self.nodes))).all_input_nodes

    def last_weights(self, output: fx.Node) -> set[fx.Node]:
        """Find the nodes on the way to an output that no other weight lies behind."""
        found, seen, waiting = set[fx.Node](), {output}, [output]
        while waiting:
            node = waiting.pop()
            if self.has_weight(node):
                found.add(node)
                continue
            waiting += (new := set(node.all_input_nodes) - seen)
            seen |= new
        return found

    def has_weight(self, node: fx.Node) -> bool:
        """Whether a node applies a weight to what depends on the model's input."""
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            return isinstance(module, LAYERS) or any(map(is_weight, module.parameters()))
        return node in self.varying and any(map(is_weight, self._tensors_read(node).values()))

    def _tensors_read(self, node: fx.Node) -> dict[str, Tensor]:
        """The model's tensors that a node is computed from, not by way of the model's input."""
        constant = set(node.all_input_nodes) - self.varying
        above = constant.union(*map(_above, constant))
        return {str(each.target): self.tensors[each] for each in above if each in self.tensors}

    def names(self, node: fx.Node) -> list[str]:
        """Name the layer that a node calls, or the parameters that it reads; if they have names."""
        if node.op == "call_module":
            name = str(node.target)
            return [name] if isinstance(self.modules[name], LAYERS) else []
        tensors = self._tensors_read(node)
        return list(tensors) if all(isinstance(t, nn.Parameter) for t in tensors.values()) else []


def is_weight(tensor: Tensor) -> bool:
    """Whether a tensor is trained, and has units of more than one number: no bias, no scale."""
    trained = isinstance(tensor, nn.Parameter) or tensor.requires_grad
    return trained and tensor.ndim > 1 and tensor.numel() > len(tensor)


def _above(node: fx.Node) -> set[fx.Node]:
    """Find all that a node depends on."""
    above, waiting = set[fx.Node](), [node]
    while waiting:
        waiting += (new := set(waiting.pop().all_input_nodes) - above)
        above |= new
    return above
