"""What the tests of clipping share: parameters with gradients, and their norm."""

import torch
from torch import nn
from torch.nn.utils import get_total_norm

EVERY_WAY = ["norm", "value", "parameter", "unit", "quantile"]


def weights(*gradients, dtype=torch.float64):
    """Parameters of ones that have these gradients."""
    made = []
    for gradient in gradients:
        gradient = torch.as_tensor(gradient, dtype=dtype)
        made.append(torch.ones_like(gradient, requires_grad=True))
        made[-1].grad = gradient.clone()
    return made


def clip(trick, parameters, model=None):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    trick.gradients(nn.Identity() if model is None else model, optimizer, torch.tensor(1.0))
    return trick.report()


def total(parameters):
    return get_total_norm([p.grad for p in parameters]).item()
