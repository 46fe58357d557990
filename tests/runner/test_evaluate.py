"""Accuracy, loss and shift consistency, against values computed by hand."""

import math

import pytest
import torch
from torch import nn

from runner.data import Batches, Split
from runner.evaluate import evaluate, shift_consistency


def batches(images, labels, size=7):
    return Batches(Split(images, labels), size, torch.zeros(1), torch.full((1,), 1 / 255))


def pictures(count=50, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 1, side, side), generator=generator).to(torch.uint8)


class FirstPixel(nn.Module):
    """Predicts from the first pixel alone, so that any shift may change the prediction."""

    def forward(self, inputs):
        bright = inputs[:, 0, 0, 0] > 127
        return torch.stack([~bright, bright], 1).float()


class Mean(nn.Module):
    """Predicts from the mean of the pixels, which a circular shift does not change."""

    def forward(self, inputs):
        mean = inputs.mean((1, 2, 3))
        return torch.stack([127.5 - mean, mean - 127.5], 1)


def test_accuracy_and_loss_by_hand():
    images = pictures()
    right = (images[:, 0, 0, 0] > 127).long()
    labels = right.clone()
    labels[:10] = 1 - labels[:10]
    found = evaluate(FirstPixel(), batches(images, labels))
    assert found.accuracy == 0.8
    assert found.correct.tolist() == [False] * 10 + [True] * 40
    # softmax of (1, 0): the right class has e / (1 + e)
    confident = math.log(1 + math.exp(-1))
    assert found.loss == pytest.approx(0.8 * confident + 0.2 * (confident + 1), rel=1e-6)


def test_evaluation_changes_neither_batch_norm_nor_the_mode():
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evaluate(model, batches(pictures(), torch.zeros(50, dtype=torch.long)))
    shift_consistency(model, batches(pictures(), torch.zeros(50, dtype=torch.long)), seed=0)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training


def test_a_shift_invariant_model_is_consistent_and_one_that_sees_one_pixel_is_not():
    images, labels = pictures(2000), torch.zeros(2000, dtype=torch.long)
    assert shift_consistency(Mean(), batches(images, labels), seed=0) == 1.0
    # two pixels of noise agree half of the time, except the 1 in 9 that are the same pixel
    expected = 1 / 9 + 8 / 9 / 2
    found = shift_consistency(FirstPixel(), batches(images, labels), seed=0)
    assert found == pytest.approx(expected, abs=0.04)
    assert found == shift_consistency(FirstPixel(), batches(images, labels), seed=0)
    assert found != shift_consistency(FirstPixel(), batches(images, labels), seed=1)


def test_shifts_are_up_to_an_eighth_of_the_side_in_each_direction():
    from runner.evaluate import _shift

    image = torch.arange(32 * 32.0).view(1, 1, 32, 32).expand(3000, -1, -1, -1)
    shifted = _shift(image, torch.Generator().manual_seed(0))
    corner = shifted[:, 0, 0, 0].long()
    rows, columns = corner // 32, corner % 32
    allowed = {(offset % 32) for offset in range(-4, 5)}
    assert {*rows.tolist()} == allowed == {*columns.tolist()}
    assert not torch.equal(rows, columns)
    for number in (0, 1, 2):
        rolled = image[number].roll((-int(rows[number]), -int(columns[number])), (1, 2))
        assert torch.equal(shifted[number], rolled)
