"""The parameter groups of an optimizer: which parameters decay."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""The normalisations; `_NormBase` stands for every batch and instance norm."""


def parameter_groups(model: nn.Module, decay_norms_and_biases: bool) -> list[dict[str, Any]]:
    """Split a model's parameters into those that take the optimizer's weight decay and the rest.

    Without decay go the parameters of the normalisations and every bias, found by the type of
    their module and by their name: He et al., "Bag of Tricks for Image Classification with
    Convolutional Neural Networks", CVPR 2019, section 3.1, https://arxiv.org/abs/1812.01187. The
    number of dimensions alone would also take a class token for a bias, or a layer scale.

    Args:
        model: The model; a parameter that it shares between modules comes once.
        decay_norms_and_biases: Keep all parameters in one group, as `model.parameters()` gives
            them.

    Returns:
        Groups for any optimizer of torch's, each in the order of the model.

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
