"""Binary cross-entropy: timm's numbers without its smoothing, thresholds, and what is ignored."""

import math

import pytest
import torch
from torch.nn import functional as F

from tricks import BinaryCrossEntropy, Chain, Flooding, binary_cross_entropy, smooth_labels


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


LOGITS, IDS = torch.randn(6, 5, generator=seeded()), torch.tensor([0, 4, 2, 2, 1, 3])
SOFT = torch.rand(6, 5, generator=seeded(1)).softmax(1)


def test_the_formula_by_hand():
    log = math.log
    logits, on, off = torch.tensor([[0.0, log(3)]]), torch.tensor([[0.25, 0.5]]), torch.tensor([1])
    by_soft = log(2) + (-0.5 * log(0.75) - 0.5 * log(0.25))
    assert binary_cross_entropy(logits, on, "sum").item() == pytest.approx(by_soft)
    by_id = log(2) - log(0.75)
    assert binary_cross_entropy(logits, off, "sum").item() == pytest.approx(by_id)
    assert binary_cross_entropy(logits, off).item() == pytest.approx(by_id / 2)


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("targets", [IDS, SOFT], ids=["ids", "probabilities"])
def test_timms_loss_is_the_mean_of_ours_but_for_the_smoothing_that_it_does_unasked(
    targets, threshold
):
    from timm.loss import BinaryCrossEntropy as Timms  # slow to import

    for reduction, summed in (("mean", False), ("sum", True)):
        options = {"target_threshold": threshold, "sum_classes": summed}
        ours = binary_cross_entropy(LOGITS, targets, reduction, threshold).mean()
        torch.testing.assert_close(ours, Timms(smoothing=0.0, **options)(LOGITS, targets))
        its = Timms(**options)(LOGITS, targets)
        smoothed = targets is IDS and threshold is None
        assert torch.isclose(ours, its) != smoothed


def test_ids_and_their_probabilities_give_the_same_and_of_two_classes_the_sum_is_twice_a_sigmoids():
    soft = smooth_labels(IDS, 0.0, 5)
    assert torch.equal(binary_cross_entropy(LOGITS, IDS), binary_cross_entropy(LOGITS, soft))
    logits = torch.tensor([[-0.7, 0.7]])
    expected = 2 * F.binary_cross_entropy_with_logits(torch.tensor(0.7), torch.tensor(1.0))
    torch.testing.assert_close(
        binary_cross_entropy(logits, torch.tensor([1]), "sum"), expected.view(1)
    )


def test_the_gradient_of_a_class_does_not_depend_on_the_logits_of_others():
    gradients = []
    for other in (0.0, 9.0):
        logits = torch.tensor([[0.5, other]], requires_grad=True)
        binary_cross_entropy(logits, torch.tensor([0]), "sum").sum().backward()
        gradients.append(logits.grad[0, 0])
    assert gradients[0] == gradients[1] == torch.tensor(0.5).sigmoid() - 1


def test_the_paper_takes_both_classes_of_a_mixture_as_there():
    mixed = torch.tensor([[0.7, 0.3, 0.0], [0.9, 0.1, 0.0]])
    both = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    logits = torch.randn(2, 3, generator=seeded())
    expected = F.binary_cross_entropy_with_logits(logits, both, reduction="none").mean(1)
    torch.testing.assert_close(binary_cross_entropy(logits, mixed, threshold=0.2), expected)
    plain = binary_cross_entropy(LOGITS, IDS)
    assert torch.equal(binary_cross_entropy(LOGITS, IDS, threshold=0.0), plain)
    none = binary_cross_entropy(logits, torch.full((2, 3), 1 / 3), threshold=0.5)
    torch.testing.assert_close(none, F.softplus(logits).mean(1))  # no class at all, yet a target


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_what_is_ignored_has_no_loss_and_no_gradient(threshold):
    ids = torch.tensor([0, -100, 2, -100, 1, 3])
    for targets in (ids, smooth_labels(ids, 0.1, 5)):
        logits = LOGITS.clone().requires_grad_()
        losses = binary_cross_entropy(logits, targets, threshold=threshold)
        losses.sum().backward()
        left = ids == -100
        assert (losses[left] == 0).all()
        assert (losses[~left] > 0).all()
        assert (logits.grad[left] == 0).all()


def test_the_trick_puts_its_losses_in_place_of_the_given_and_flooding_works_on_them():
    given = torch.full((6,), 7.0)
    trick = BinaryCrossEntropy("sum", 0.1)
    expected = binary_cross_entropy(LOGITS, SOFT, "sum", 0.1)
    assert torch.equal(trick.loss(given, LOGITS, SOFT), expected)
    flooded = Chain(trick, Flooding(9.0, per_sample=True)).loss(given, LOGITS, SOFT)
    torch.testing.assert_close(flooded, (expected - 9).abs() + 9)
    with pytest.raises(ValueError, match="Write BinaryCrossEntropy -> Flooding"):
        Chain(Flooding(per_sample=True), trick)
    with pytest.raises(ValueError, match="each bring their own loss"):
        Chain(trick, BinaryCrossEntropy())


def test_large_logits_of_half_precision_stay_finite():
    logits = torch.tensor([[200.0, -200.0]], dtype=torch.float16)
    assert binary_cross_entropy(logits, torch.tensor([0])).item() == 0
    assert binary_cross_entropy(logits, torch.tensor([1])).item() == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"reduction": "max"},
            r"BinaryCrossEntropy\.reduction must be one of mean, sum, got 'max'",
        ),
        ({"threshold": 1.0}, r"BinaryCrossEntropy\.threshold must be >= 0 and < 1, .*got 1\.0"),
        ({"threshold": math.nan}, r"BinaryCrossEntropy\.threshold must be >= 0"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BinaryCrossEntropy(**options)


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (
            torch.zeros(2, 3, 4, 4),
            torch.zeros(2, 4, 4).long(),
            r"one for each class, got \[2, 3, 4, 4\]",
        ),
        (torch.zeros(2), torch.zeros(2).long(), r"outputs must be logits \[N, K\]"),
        (torch.zeros(2, 3), torch.full((2, 4), 0.25), r"for outputs \[2, 3\], got \[2, 4\]"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"class ids from 0 to 2.*got 3"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), r"class ids .* or class probabilities"),
    ],
)
def test_outputs_and_targets_that_do_not_fit_are_refused(outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        BinaryCrossEntropy().loss(torch.zeros(2), outputs, targets)
