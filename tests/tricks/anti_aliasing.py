"""What the tests of anti-aliasing share: models and inputs."""

import torch
from torch import nn

from runner.models import cifar_resnet


def seeded(build, **options):
    torch.manual_seed(0)
    return build(**options)


def small_resnet():
    """A network of our own with running statistics that are not those of its birth."""
    model = seeded(cifar_resnet, depth=8, width=4, channels=3, classes=5).double()
    model(noise(8, 3, 16, 16))
    return model.eval()


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(one, other, tolerance=1e-12):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


class Shared(nn.Module):
    """A residual block that calls one ReLU at two places, or a function."""

    def __init__(self, activation):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 8, 3, 2, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 1)
        self.relu = activation

    def forward(self, x):
        y = self.relu(self.conv1(self.stem(x)))
        return self.relu(self.conv2(y) + self.conv3(y))


def after_stem(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers)
