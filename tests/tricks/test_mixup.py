"""Mixup: a coefficient and a partner for each sample, the beta distribution, no smoothing."""

import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from tricks import Batch, Chain, Cutmix, LabelSmoothing, Mixup, mixup, smooth_labels
from tricks.mixing import draw_beta


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_inputs_and_targets_are_mixed_by_one_coefficient_with_one_partner():
    """Samples that are unit vectors of their own class show what they are made of."""
    samples = 64
    mixed, soft = mixup(
        torch.eye(samples), torch.arange(samples), 1.0, num_classes=samples, generator=seeded()
    )
    assert torch.equal(mixed, soft)
    own = soft.diagonal()
    others = soft - own.diag()
    torch.testing.assert_close(soft.sum(1), torch.ones(samples))
    assert ((others > 0).sum(1) == 1).all()  # one other sample
    assert ((others > 0).sum(0) == 1).all()  # that of one alone
    assert len(own.unique()) == samples  # a coefficient of its own


def test_the_formula_by_hand():
    images, ids = torch.randn(8, 3, 5, 4, generator=seeded(1)), torch.arange(8)
    mixed, soft = mixup(images, ids, 1.0, num_classes=8, generator=seeded())
    for i in range(8):
        share = soft[i, i]
        (partner,) = (j for j in range(8) if j != i and soft[i, j] > 0)
        expected = share * images[i] + (1 - share) * images[partner]
        torch.testing.assert_close(mixed[i], expected)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 8.0])
def test_the_coefficients_are_of_the_beta_distribution(alpha):
    drawn = draw_beta(alpha, torch.rand(2, 20_000, generator=seeded(), dtype=torch.float64))
    assert stats.kstest(drawn.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("alpha", [1e-30, 1e-4, 0.01, 100.0, 1e6])
def test_an_extreme_alpha_has_the_right_spread_also_in_float32(alpha):
    drawn = draw_beta(alpha, torch.rand(2, 20_000, generator=seeded()))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    spread = math.sqrt(1 / (4 * (2 * alpha + 1)))
    assert drawn.std().item() == pytest.approx(spread, rel=0.02)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert draw_beta(alpha, torch.tensor([[0.0, 0.0], [0.0, 0.5]])).tolist() == [1.0, 0.0]


def test_timm_smooths_the_targets_unasked_and_has_one_coefficient_for_a_batch():
    from timm.data import Mixup as Timms  # slow to import

    ids = torch.arange(10)
    _, its = Timms(num_classes=10)(torch.randn(10, 3, 4, 4), ids)
    _, ours = mixup(torch.randn(10, 3, 4, 4), ids, 1.0, num_classes=10, generator=seeded())
    assert (its > 0).all()
    assert ((ours > 0).sum(1) <= 2).all()
    _, its = Timms(num_classes=10, label_smoothing=0.0)(torch.randn(10, 3, 4, 4), ids)
    assert len(its.diagonal().unique()) == 1
    assert len(ours.diagonal().unique()) > 5


def test_a_sample_that_is_not_drawn_stays_to_the_bit():
    images, ids = torch.randn(1000, 2, generator=seeded(1)), torch.arange(1000)
    mixed, soft = mixup(images, ids, 8.0, probability=0.3, num_classes=1000, generator=seeded())
    untouched = (mixed == images).all(1)
    assert untouched.float().mean().item() == pytest.approx(0.7, abs=0.05)
    assert torch.equal(soft[untouched], torch.eye(1000)[untouched])
    assert soft.diagonal()[~untouched].mean().item() == pytest.approx(0.5, abs=0.02)
    neutral, hard = mixup(images, ids, probability=1e-9, num_classes=1000, generator=seeded())
    assert torch.equal(neutral, images)
    assert torch.equal(hard, torch.eye(1000))


def test_ids_and_their_probabilities_are_mixed_alike_and_what_is_ignored_is_zeros():
    images, ids = torch.randn(6, 2), torch.tensor([0, 1, 2, -100, 1, 0])
    by_ids = mixup(images, ids, 1.0, num_classes=3, generator=seeded())
    soft = smooth_labels(ids, 0.0, 3)
    by_soft = mixup(images, soft, 1.0, generator=seeded())
    assert all(map(torch.equal, by_ids, by_soft))
    assert (by_soft[1].sum(1) < 0.999).sum() == 2  # itself, and the one whose partner it is


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_type_and_memory_format_stay_and_the_given_tensors_do(dtype):
    images = torch.randn(4, 3, 6, 5, generator=seeded(1)).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    ids, before = torch.arange(4), images.clone()
    mixed, soft = mixup(images, ids, 1.0, num_classes=4, generator=seeded())
    assert mixed.dtype is dtype
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
    ones, _ = mixup(torch.eye(4, dtype=dtype), ids, 1.0, num_classes=4, generator=seeded())
    torch.testing.assert_close(ones.float(), soft, rtol=0, atol=torch.finfo(dtype).eps)


def test_maps_of_targets_are_mixed_pixel_by_pixel():
    images, ids = torch.randn(3, 1, 2, 2), torch.randint(4, (3, 2, 2))
    _, soft = mixup(images, ids, 1.0, num_classes=4, generator=seeded())
    assert soft.shape == (3, 4, 2, 2)
    torch.testing.assert_close(soft.sum(1), torch.ones(3, 2, 2))


def test_the_trick_draws_from_its_generator_alone_and_smoothing_comes_after():
    batch = Batch(torch.randn(6, 3, 4, 4), torch.arange(6), 10)
    before = torch.get_rng_state()
    mixed, again, other = (Mixup(1.0).batch(batch, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(mixed.inputs, again.inputs)
    assert not torch.equal(mixed.inputs, other.inputs)
    chain = Chain(Mixup(1.0), LabelSmoothing(0.1))
    soft = chain.batch(batch, seeded()).targets
    assert (soft >= 0.01 - 1e-8).all()
    for early in (LabelSmoothing(), Cutmix()):
        with pytest.raises(ValueError, match=r"Write Mixup -> "):
            Chain(early, Mixup())


def test_the_paper_finds_that_wrong_labels_are_memorised_less():
    inputs, ids = (
        torch.randn(40, 8, generator=seeded(1)),
        torch.randint(2, (40,), generator=seeded(2)),
    )
    losses = []
    for chain in (Chain(), Chain(Mixup(4.0))):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for update in range(150):
            batch = chain.batch(Batch(inputs, ids, 2), seeded(update))
            optimizer.zero_grad()
            F.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
        losses.append(F.cross_entropy(model(inputs), ids).item())
    assert losses[1] > 4 * losses[0]


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_an_alpha_out_of_its_range_is_refused(value):
    with pytest.raises(ValueError, match=rf"Mixup\.alpha must be > 0 and finite, got {value}"):
        Mixup(alpha=value)
    with pytest.raises(ValueError, match=r"^alpha must be"):
        mixup(torch.zeros(1, 1), torch.zeros(1, 2), value)


@pytest.mark.parametrize("value", [0.0, 1.1, math.nan])
def test_a_probability_out_of_its_range_is_refused(value):
    with pytest.raises(
        ValueError, match=r"Mixup\.probability must be > 0 and <= 1.*switch the trick"
    ):
        Mixup(probability=value)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
            torch.tensor([0, 1]),
            r"Mixup mixes images after their normalisation.*got uint8 \[2, 3, 4, 4\]",
        ),
        (
            torch.zeros(2, 3),
            torch.tensor([0, 1]),
            r"Mixup .* must know the number of classes.*Batch\(inputs, targets, classes\)",
        ),
        (
            torch.zeros(2, 3),
            torch.tensor([0.5, 1.0]),
            r"class ids .* or class probabilities .* got float32 of shape \[2\]",
        ),
        (
            torch.zeros(2, 3),
            torch.tensor([True, False]),
            r"class ids .* or class probabilities .* got bool",
        ),
        (torch.zeros(2, 3), [{"boxes": 1}], r"class ids .* or class probabilities .* got a list"),
    ],
)
def test_what_cannot_be_mixed_is_refused_by_name(inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        Mixup().batch(Batch(inputs, targets), seeded())
