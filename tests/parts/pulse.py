"""A trick that changes nothing and tells of every update, and a model that draws random numbers."""

import os
from dataclasses import dataclass
from typing import final

from torch import nn

from tricks import Trick


@final
@dataclass(frozen=True)
class Pulse(Trick):
    """Write the number of each update, as it begins, into the file that $PULSE names."""

    def schedule(self, factor, time):
        """Give back the factor as it is."""
        with open(os.environ["PULSE"], "a") as file:
            file.write(f"{os.getpid()} {time.update}\n")
        return factor


def dropping(*, channels: int, classes: int) -> nn.Module:
    """Build a small network with dropout, which draws from the global generator."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, classes),
    )
