"""Label smoothing: torch's own loss, and soft targets."""

import pytest
import torch
from torch.nn import functional as F

from tricks import Batch, LabelSmoothing, smooth_labels

IDS = torch.tensor([0, 2, 1])
INPUTS = torch.zeros(3, 1)


def smoothed(trick, targets, classes=None):
    return trick.batch(Batch(INPUTS, targets, classes), torch.Generator())


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


def test_class_ids_of_unknown_number_are_refused():
    with pytest.raises(ValueError, match=r"needs the number of classes .* Batch\(inp"):
        smoothed(LabelSmoothing(), IDS)
    with pytest.raises(ValueError, match="need num_classes"):
        smooth_labels(IDS)


@pytest.mark.parametrize("smoothing", [-0.1, 0.0, 1.0, float("nan")])
def test_a_share_out_of_its_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=rf"smoothing must be > 0 and < 1, got {smoothing}"):
        LabelSmoothing(smoothing)


SHAPES = [(), (6,), (2, 3), (2, 3, 4), (2, 2, 2, 2)]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_loss_of_any_ids_is_that_of_torch(shape, dtype):
    """Also where the maps have as many rows and columns as there are classes."""
    generator = torch.Generator().manual_seed(0)
    classes = 3
    logits = torch.randn(*shape[:1], classes, *shape[1:], generator=generator)
    ids = torch.randint(classes, shape, generator=generator)
    smooth = smooth_labels(ids.to(dtype), 0.3, classes)
    assert smooth.shape == logits.shape
    for reduction in ("none", "sum", "mean"):
        expected = F.cross_entropy(logits, ids, label_smoothing=0.3, reduction=reduction)
        torch.testing.assert_close(F.cross_entropy(logits, smooth, reduction=reduction), expected)
    assert torch.equal(smoothed(LabelSmoothing(0.3), ids, classes).targets, smooth)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (3, 3, 3, 3)], ids=str)
def test_the_loss_of_any_probabilities_is_that_of_torch(shape):
    generator = torch.Generator().manual_seed(0)
    logits, soft = torch.randn(2, *shape, generator=generator)
    soft = soft.softmax(1)
    expected = F.cross_entropy(logits, soft, label_smoothing=0.3, reduction="none")
    ours = F.cross_entropy(logits, smooth_labels(soft, 0.3), reduction="none")
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (3, 4, 4)], ids=str)
def test_what_torch_ignores_has_no_loss_and_no_gradient(shape):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, shape, generator=generator)
    ids[torch.rand(shape, generator=generator) < 0.4] = -100
    results = []
    for targets, options in ((ids, {"label_smoothing": 0.2}), (smooth_labels(ids, 0.2, 5), {})):
        logits = torch.randn(shape[0], 5, *shape[1:], generator=torch.Generator().manual_seed(1))
        logits.requires_grad_()
        losses = F.cross_entropy(logits, targets, reduction="none", **options)
        losses.sum().backward()
        results.append((losses.detach(), logits.grad))
    for ours, its in zip(*results, strict=True):
        torch.testing.assert_close(ours, its)
    assert (results[0][0][ids == -100] == 0).all()


@pytest.mark.parametrize("number", [255, -1, 5])
def test_an_id_out_of_range_is_refused_and_the_way_to_ignore_it_named(number):
    ids = torch.tensor([[0, number], [4, 1]])
    remedy = rf"targets\.long\(\)\.masked_fill\(targets == {number}, -100\)"
    with pytest.raises(ValueError, match=rf"from 0 to 4, or -100 .*, got {number}\. .*{remedy}"):
        smooth_labels(ids, 0.1, 5)
    void = ids.long().masked_fill(ids == number, -100)
    assert smooth_labels(void, 0.1, 5)[0, :, 1].abs().sum() == 0


@pytest.mark.parametrize(
    ("targets", "kind"),
    [
        (torch.tensor([[1.0], [0.0]]), r"float32 of shape \[2, 1\]"),
        (torch.tensor([1.0, 0.0]), r"float32 of shape \[2\]"),
        (torch.tensor(1.0), r"float32 of shape \[\]"),
        (torch.tensor([True, False]), r"bool of shape \[2\]"),
        ([{"labels": IDS}], "a list"),
        (None, "a NoneType"),
    ],
    ids=str,
)
def test_targets_of_no_classes_are_refused_by_name(targets, kind):
    message = rf"must be a tensor of class ids .* or class probabilities .*, got {kind}"
    with pytest.raises(ValueError, match=message):
        smooth_labels(targets, 0.1, 2)
    for classes in (None, 2):
        with pytest.raises(ValueError, match=message):
            smoothed(LabelSmoothing(), targets, classes)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan")])
def test_the_plain_form_refuses_a_share_out_of_its_range(smoothing):
    with pytest.raises(ValueError, match=rf"smoothing must be from 0 to 1, got {smoothing}"):
        smooth_labels(IDS, smoothing, 3)
