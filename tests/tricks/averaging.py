"""What the tests of averages share: a tiny network in training, and other kinds of it."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from tricks import Time

INPUTS = torch.randn(4, 8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
"""Batches of training inputs."""


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def steps(model, count, lr=0.1, first=0):
    """Make updates, and yield the number of each, from 1."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for update in range(first, first + count):
        optimizer.zero_grad()
        targets = torch.arange(8).add(update) % 3
        F.cross_entropy(model(INPUTS[update % 4]), targets).backward()
        optimizer.step()
        yield update + 1


def train(trick, model, count, per_epoch=4, first=0, updates=None):
    """Make updates under a trick; give back the states after each, the first ones before any."""
    states = [snapshot(model)]
    for update in steps(model, count, first=first):
        trick.weights(model, Time(update, per_epoch, updates or first + count))
        states.append(snapshot(model))
    return states


def begin(trick, model):
    """Begin a training under a trick."""
    trick.model(model)
    trick.optimizer(torch.optim.SGD(model.parameters(), 0.1), model)
    return model


def snapshot(model):
    return copy.deepcopy(model.state_dict())


def evaluated(trick, model, inputs=INPUTS):
    """Give back what a trick evaluates with."""
    with trick.evaluation(model, inputs):
        return snapshot(model)


def close(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance
        )


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
