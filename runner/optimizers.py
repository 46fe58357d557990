"""The parameter groups of an optimizer: which parameters decay."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""The normalisation layers; `_NormBase` covers every batch and instance norm."""


def parameter_groups(model: nn.Module, decay_norms_and_biases: bool) -> list[dict[str, Any]]:
    """Split a model's parameters into those with the optimizer's weight decay and those without.

    Without decay are the parameters of normalisation layers and every bias, by the type of their
    module and by their name: He et al., "Bag of Tricks for Image Classification with Convolutional
    Neural Networks", CVPR 2019, section 3.1, https://arxiv.org/abs/1812.01187. The usual test, one
    dimension or less, would mistake a layer scale for a bias.

    Args:
        model: The model; a parameter that modules share comes once.
        decay_norms_and_biases: Whether to keep all parameters in one group, as
            `model.parameters()` returns them.

    Returns:
        Groups for any torch optimizer, each in the order of the model.

    >>> groups = parameter_groups(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), False)
    >>> [(len(group["params"]), group.get("weight_decay")) for group in groups]
    [(1, None), (3, 0.0)]
    """
    parameters = list(model.parameters())
    if decay_norms_and_biases:
        return [{"params": parameters}]
    exempt = {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or "bias" in name.split("_")  # in_proj_bias, bias_ih_l0
    }
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p not in exempt]},
        {"params": [p for p in parameters if p in exempt], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
