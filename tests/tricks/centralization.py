"""What the tests of centralization share: a model and its gradients."""

import torch
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Tanh(), nn.ConvTranspose2d(6, 4, 3, groups=2), nn.Flatten(),
        nn.Linear(4 * 6 * 6, 5),
    ).double()  # fmt: skip


def backward(model, step, scale=1.0):
    model.zero_grad()
    inputs = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step)).double()
    (model(inputs).square().mean() * scale).backward()
