"""Label smoothing: torch's own loss, soft targets, and how many classes there are."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from tricks import Batch, LabelSmoothing, smooth_labels

IDS = torch.tensor([0, 2, 1])
INPUTS = torch.zeros(3, 1)


def smoothed(trick, targets):
    return trick.batch(Batch(INPUTS, targets), torch.Generator())


def test_the_formula_by_hand():
    expected = torch.tensor([[0.925, 0.025, 0.025, 0.025]])
    torch.testing.assert_close(smooth_labels(torch.tensor([0]), 0.1, 4), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_the_loss_is_that_of_torch(smoothing):
    logits = torch.randn(3, 5)
    expected = F.cross_entropy(logits, IDS, label_smoothing=smoothing)
    torch.testing.assert_close(F.cross_entropy(logits, smooth_labels(IDS, smoothing, 5)), expected)


def test_no_smoothing_is_neutral():
    soft = torch.tensor([[0.3, 0.7], [1.0, 0.0]])
    assert torch.equal(smooth_labels(soft, 0.0), soft)


def test_soft_targets_are_smoothed_linearly():
    one, other = (smooth_labels(torch.tensor([i]), 0.2, 3) for i in (0, 2))
    mixed = torch.tensor([[0.25, 0.0, 0.75]])
    torch.testing.assert_close(smooth_labels(mixed, 0.2), 0.25 * one + 0.75 * other)
    torch.testing.assert_close(
        smoothed(LabelSmoothing(0.2), mixed).targets, smooth_labels(mixed, 0.2)
    )


@pytest.mark.parametrize(
    "model",
    [
        torchvision.models.resnet18(num_classes=7),
        torchvision.models.squeezenet1_1(num_classes=7),
        nn.Sequential(nn.Conv1d(1, 4, 1), nn.Flatten(), nn.Linear(4, 7), nn.Softmax(1)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_the_number_of_classes_is_read_off_the_classifier(model):
    trick = LabelSmoothing()
    assert trick.model(model) is model
    batch = smoothed(trick, IDS)
    assert batch.inputs is INPUTS
    torch.testing.assert_close(batch.targets, smooth_labels(IDS, 0.1, 7))


def test_a_second_model_counts_and_the_first_no_more():
    trick = LabelSmoothing()
    for model, classes in ((nn.Linear(1, 7), 7), (nn.Linear(1, 4), 4)):
        trick.model(model)
        torch.testing.assert_close(smoothed(trick, IDS).targets, smooth_labels(IDS, 0.1, classes))
    trick.model(nn.ReLU())
    with pytest.raises(ValueError, match="has seen no model"):
        smoothed(trick, IDS)


def test_class_ids_without_a_classifier_are_refused():
    trick = LabelSmoothing()
    with pytest.raises(ValueError, match=r"has seen no model .* Call its `model`"):
        smoothed(trick, IDS)
    trick.model(nn.ReLU())
    with pytest.raises(ValueError, match="has seen no model"):
        smoothed(trick, IDS)
    with pytest.raises(ValueError, match="need num_classes"):
        smooth_labels(IDS)


@pytest.mark.parametrize("smoothing", [-0.1, 0.0, 1.0, float("nan")])
def test_a_share_out_of_its_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=rf"smoothing must be > 0 and < 1, got {smoothing}"):
        LabelSmoothing(smoothing)
