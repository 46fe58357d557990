"""What the tests of tricks of residual blocks share: models and inputs."""

import torch
from torch import nn

from runner.models import cifar_resnet


def small(classes=5):
    torch.manual_seed(0)
    return cifar_resnet(depth=8, width=4, channels=3, classes=classes)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """Any branch beside any shortcut."""

    def __init__(self, branch, shortcut=None, add=torch.add):
        super().__init__()
        self.branch, self.shortcut, self.add = branch, shortcut, add

    def forward(self, x):
        return self.add(self.branch(x), x if self.shortcut is None else self.shortcut(x))


def conv(channels=4, bias=False):
    return nn.Conv2d(channels, channels, 3, padding=1, bias=bias)


def branch(*end):
    return nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(), *end)


def network(*blocks):
    """A stem, blocks of four channels, a classifier."""
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *blocks, *head)


class Weighed(nn.Module):
    """A branch that ends in an attention of its own, written as functions."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.gate = conv(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return x + y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
