"""Which parameters are weights of layers, as matrices, and which are those of norms, and biases."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm

from tricks.layers import LAYERS, TRANSPOSED

KINDS = (*LAYERS, nn.MultiheadAttention)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NAMES = {"weight", "weight_v", "weight_orig", "weight_v_orig"}  # weight norm, pruning, both
_NAMES |= {"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"}  # of attention


class Matrix(NamedTuple):
    """A parameter as matrices [units, inputs of each], one for each group of a convolution."""

    parameter: nn.Parameter
    groups: int
    transposed: bool
    """Whether it is that of a transposed convolution, [in, out / groups, ...]."""

    def cut(self, tensor: Tensor) -> Tensor:
        """Cut a tensor of the parameter's shape into matrices, [groups, rows, columns].

        A convolution [out, in / groups, kh, kw] gives [groups, out / groups, in / groups * kh *
        kw], and a linear layer [1, out, in].
        """
        if not self.transposed:
            return tensor.reshape(self.groups, len(tensor) // self.groups, -1)
        inputs, units = len(tensor) // self.groups, tensor.shape[1]
        by_input = tensor.reshape(self.groups, inputs, units, -1)
        return by_input.transpose(1, 2).reshape(self.groups, units, -1)

    def join(self, matrices: Tensor) -> Tensor:
        """Join matrices to a tensor of the parameter's shape: `cut` backwards."""
        shape = self.parameter.shape
        if not self.transposed:
            return matrices.reshape(shape)
        by_unit = matrices.reshape(self.groups, shape[1], shape[0] // self.groups, -1)
        return by_unit.transpose(1, 2).reshape(shape)


def find_matrices(model: nn.Module) -> Iterator[Matrix]:
    """Run through the weights that are matrices: of convolutions, linear layers and attention.

    A weight that modules share comes once, and not at all where an embedding shares it. Of a
    weight that is computed, what it is computed from counts. A matrix of one number is a scale,
    and no matrix. Query, key and value of `nn.MultiheadAttention` are three, where it holds them
    together.
    """
    passed = {p for m in model.modules() if isinstance(m, EMBEDDINGS) for p in m.parameters()}
    for module in model.modules():
        if not issubclass(kind := kind_of(module), KINDS):
            continue
        groups, transposed = getattr(module, "groups", 1), issubclass(kind, TRANSPOSED)
        for name, parameter in trained_weights(module):
            if parameter in passed or parameter.ndim < 2:
                continue
            passed.add(parameter)
            matrix = Matrix(parameter, 3 if name == "in_proj_weight" else groups, transposed)
            whole = len(parameter) % matrix.groups == 0 and parameter.is_floating_point()
            if whole and parameter.numel() > matrix.groups:
                yield matrix


def kind_of(module: nn.Module) -> type:
    """Give back the class of a module; of a scripted one, that of torch's whose name it had."""
    if not isinstance(module, torch.jit.ScriptModule):
        return type(module)
    kind = getattr(nn, str(module.original_name), nn.Module)
    readable = not issubclass(kind, TRANSPOSED) or hasattr(module, "groups")  # if not traced
    return kind if readable else nn.Module


def trained_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Run through the parameters that are trained for a module's weight, by their own names."""
    if not parametrize.is_parametrized(module, "weight"):
        return ((n, p) for n, p in module.named_parameters(recurse=False) if n in _NAMES)
    parametrizations = module.get_submodule("parametrizations.weight")
    originals = parametrizations.named_parameters(recurse=False)
    if isinstance(parametrizations.get_submodule("0"), _WeightNorm):
        next(originals)  # the magnitudes
    return originals


def owned_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Run through the parameters, each with the module that it is one of, and its name there.

    Of a parametrized one these are the module and the name that it had before. A parameter that
    modules share comes with each.
    """
    originals = set[nn.Module]()
    for module in model.modules():
        if parametrize.is_parametrized(module):
            lists = module.get_submodule("parametrizations")
            originals.update(lists.modules())
            for name, each in lists.named_children():
                yield from ((module, name, p) for p in each.parameters(recurse=False))
        if module not in originals:
            yield from ((module, n, p) for n, p in module.named_parameters(recurse=False))


_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # the first: batch and instance norms
_NAMED_NORMS = re.compile(r"Norm(Act|Tlu)?(\dd)?(Fp32|[BS]\da?)?$")  # RmsNormAct2d, EvoNorm2dB0


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer: one of torch's, or one that is named so.

    >>> is_norm(nn.BatchNorm2d(3)), is_norm(nn.Linear(3, 3))
    (True, False)
    """
    return isinstance(module, _NORMS) or bool(_NAMED_NORMS.search(type(module).__name__))


def is_bias(name: str) -> bool:
    """Whether a parameter of this name in its module is a bias.

    >>> is_bias("in_proj_bias"), is_bias("bias_ih_l0"), is_bias("weight")
    (True, True, False)
    """
    return "bias" in name.split("_")
