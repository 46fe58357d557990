"""Weight standardization: convolve with weights of mean 0 and variance 1 of each output channel.

Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization",
https://arxiv.org/abs/1903.10520; the authors' code is
https://github.com/joe-siyuan-qiao/WeightStandardization.

Where we differ: only convolutions that a normalisation follows are standardized, as the authors
advise, and found in the graph of the model; the parameters, their keys and the class's name stay.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from tricks.derived import Derived, derive_
from tricks.downsampling import ABOUT
from tricks.layers import _Graph, unwrapped
from tricks.trick import Trick

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PRODUCTS = {"mul", "matmul", "bmm", "einsum", "truediv", "div", "pow"}
SATURATING = {
    "sigmoid", "hardsigmoid", "tanh", "hardtanh", "relu6", "clamp", "softmax", "softsign", "exp",
}  # fmt: skip
NORMS = ("batchnorm", "groupnorm", "layernorm", "instancenorm", "rmsnorm")


def standardize(weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Give back (w - mean) / sqrt(var + eps), over the numbers of each output channel.

    The variance is that of the paper, divided by the numbers I of a channel, not by I - 1.

    Args:
        weight: [out, in / groups, ...].
        eps: What keeps a constant weight finite, > 0.

    >>> import torch
    >>> standardize(torch.tensor([[[1.0, 3.0]]]))
    tensor([[[-1.0000,  1.0000]]])
    """
    rows = weight.flatten(1)
    return F.layer_norm(rows, rows.shape[1:], eps=eps).view_as(weight)


def standardize_weights(model: nn.Module, eps: float = 1e-6) -> nn.Module:
    """Let the convolutions of a model standardize their weights, and give it back.

    What is trained is the weight as it was; each forward convolves with `standardize(weight, eps)`.
    It has the scale sqrt(in / groups * kh * kw) that a normalisation must take off again. So only
    convolutions (1d, 2d and 3d, grouped too) are changed from which every path meets a batch,
    group, layer, instance or RMS norm before another weight, a product with another map, an
    activation that saturates, or the output: not those of squeeze-excite, nor a classifier. Left
    alone are also depthwise convolutions and others of one input channel in several groups, units
    of one weight, transposed convolutions, and a convolution that `whiten_` has whitened.

    The layers are changed in place, before the model is compiled or wrapped; parameters, hooks and
    `state_dict` keys stay what they are. The keys do not say that the weights of a checkpoint were
    trained so: change the model before it is loaded.

    Args:
        model: Any module that `torch.fx` can trace.
        eps: Added to each variance, > 0.

    Raises:
        ValueError: If `eps` is out of its range, or the model cannot be traced, has no such
            convolution, or one that computes with its weight in its own way: standardized already,
            parametrized, pruned, lazy, or padding by itself. The model is unchanged then.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1))
    >>> standardize_weights(net)[0]
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), standardized)
    >>> net[2]
    Conv2d(8, 2, kernel_size=(1, 1), stride=(1, 1))
    """
    _check_eps("eps", eps)
    name = type(model).__name__
    layers = _normalised(unwrapped(model))
    for key, layer in layers.items():
        if isinstance(layer, _Standardized):
            raise ValueError(f"{name}.{key} is standardized already. Change a model only once.")
        if not is_plain(layer):
            raise ValueError(
                f"{name}.{key} is a {type(layer).__name__} whose forward or weight is computed in "
                "its own way: standardized already, parametrized, pruned, lazy, or padding by "
                "itself. Make it a plain convolution of torch.nn, or drop weight_standardization."
            )
    if not layers:
        raise ValueError(
            f"WeightStandardization found no convolution in {name} that a normalisation follows, "
            "which would take off the scale of the weights. Use a model with batch or group norms, "
            "or drop the trick."
        )
    for layer in layers.values():
        derive_(layer, _Standardized, standardization_eps=eps)
    return model


@final
@dataclass(frozen=True)
class WeightStandardization(Trick):
    """Standardize the weights of convolutions (`model`), by `standardize_weights`.

    Attributes:
        eps: Added to the variance of each output channel's weights, > 0.

    Raises:
        ValueError: If `eps` is out of its range; in `model`, where `standardize_weights` refuses
            it.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))
    >>> WeightStandardization(eps=1e-5).model(net)[0].standardization_eps
    1e-05
    """

    after: ClassVar[tuple[str, ...]] = ("Whitening",)

    eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_eps("WeightStandardization.eps", self.eps)

    def model(self, model: nn.Module) -> nn.Module:
        """Give back the same model, its convolutions standardizing their weights."""
        return standardize_weights(model, self.eps)


class _Standardized(Derived):
    """A convolution with standardized weights."""

    standardization_eps: float

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = standardize(weight, self.standardization_eps)
        return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return, misc]

    def extra_repr(self) -> str:
        """Say so too."""
        return f"{super().extra_repr()}, standardized"


def is_plain(layer: nn.Module) -> bool:
    """Whether a convolution is computed as torch's, from a weight that is its own parameter."""
    kind, weight = type(layer), layer._parameters.get("weight")
    return (
        weight is not None
        and not is_lazy(weight)
        and any(
            kind.forward is own.forward and kind._conv_forward is own._conv_forward  # type: ignore[attr-defined]
            for own in CONVOLUTIONS
            if isinstance(layer, own)
        )
    )


def _normalised(model: nn.Module) -> dict[str, nn.Module]:
    """Find the convolutions to standardize, by name."""
    try:
        graph = _Graph(model)
    except ValueError as error:
        raise ValueError(
            f"{error}. Write standardize_weights for the parts that can be, or drop "
            "weight_standardization."
        ) from error
    calls = defaultdict[str, list[fx.Node]](list)
    for node in graph.nodes:
        if node.op == "call_module" and _is_to_change(graph.modules[str(node.target)]):
            calls[str(node.target)].append(node)
    return {
        name: graph.modules[name]
        for name, nodes in calls.items()
        if all(_meets_a_norm(graph, node) for node in nodes)
    }


def _is_to_change(layer: nn.Module) -> bool:
    if not isinstance(layer, CONVOLUTIONS) or getattr(layer, "is_whitened", False):
        return False
    inputs = layer.in_channels // layer.groups
    is_by_channel = layer.groups > 1 and inputs == 1
    return not is_by_channel and inputs * math.prod(layer.kernel_size) != 1


def _meets_a_norm(graph: _Graph, node: fx.Node) -> bool:
    """Whether every path from a layer meets a norm before its scale matters."""
    seen, waiting, met = set[fx.Node](), [node], False
    while waiting:
        for user in waiting.pop().users:
            operation = _operation(graph, user)
            if operation in ABOUT or user in seen:
                continue
            seen.add(user)
            if any(norm in operation for norm in NORMS):
                met = True
                continue
            varying = graph.varying.intersection(user.all_input_nodes)
            is_product = operation in PRODUCTS and len(varying) > 1
            if user.op == "output" or graph.has_weight(user):
                return False
            if is_product or operation in SATURATING:
                return False
            waiting.append(user)
    return met


def _operation(graph: _Graph, node: fx.Node) -> str:
    """Name what a node does, alike for a module, a function and a method: `leakyrelu`."""
    target = node.target
    does = type(graph.modules[str(target)]) if node.op == "call_module" else target
    return str(getattr(does, "__name__", does)).replace("_", "").lower()


def _check_eps(where: str, eps: float) -> None:
    if not 0 < eps < math.inf:
        raise ValueError(f"{where} must be > 0 and finite, got {eps}. timm takes 1e-6.")
