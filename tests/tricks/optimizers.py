"""What tests of optimizers share: a small problem in float64, and gradients of random numbers."""

import torch
from torch import nn


def seeded(make):
    """Make a module, by random numbers that are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def filled(model, seed=0):
    """Give a model gradients of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


class Quadratic(nn.Linear):
    def loss(self):
        """Give back the squared error of a linear fit."""
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(20, 3, generator=generator, dtype=torch.float64)
        return (self(inputs) - inputs[:, :2].sin()).square().mean()


def quadratic():
    return seeded(lambda: Quadratic(3, 2).double())
