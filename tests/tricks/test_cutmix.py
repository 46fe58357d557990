"""CutMix: boxes and their areas, on images of any size; beside mixup; no smoothing."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tricks import Batch, Chain, Cutmix, LabelSmoothing, Mixup, Time, cutmix

SIZES = [(8, 8), (32, 32), (5, 9), (9, 5), (1, 1), (1, 7), (2, 3)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(samples, height, width):
    """Images that are made of their own number, and their ids."""
    ids = torch.arange(samples)
    return ids.float().view(-1, 1, 1, 1).expand(samples, 2, height, width), ids


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_each_image_has_a_box_of_one_other_and_its_share_of_the_target(size):
    samples = 40
    images, ids = numbered(samples, *size)
    cut, soft = cutmix(images, ids, num_classes=samples, generator=seeded())
    assert torch.equal(cut[:, 0], cut[:, 1])  # all channels alike
    shares = torch.stack([(cut[:, 0] == i).float().mean((1, 2)) for i in ids], 1)
    torch.testing.assert_close(soft, shares)
    assert ((soft > 0).sum(1) <= 2).all()
    for i in range(samples):
        other = cut[i, 0] != i
        rows, columns = other.any(1), other.any(0)
        assert torch.equal(other, rows[:, None] & columns)  # a box
        for line in (rows, columns):
            assert line.int().diff().abs().sum() <= 2  # without a gap
    others = soft - soft.diagonal().diag()
    assert ((others > 0).sum(0) <= 1).all()  # nobody is the partner of two


def clipped(side):

    return side - side**2 / 4


@pytest.mark.parametrize("size", [(8, 8), (4, 7)], ids=str)
def test_the_mean_area_is_that_of_the_formula_where_the_authors_cut_to_even_pixels(size):
    """With alpha = 1 the side is the root of a uniform number: in all, 77 / 240 of the image."""
    images, ids = numbered(2, *size)
    many, ids = images.repeat(8000, 1, 1, 1), ids.repeat(8000)
    cut, soft = cutmix(many, ids, num_classes=2, generator=seeded())
    other = soft.gather(1, 1 - ids[:, None]).mean().item()  # half of the partners are of a class
    assert 2 * other == pytest.approx(77 / 240, rel=0.03)
    pasted = (cut != many).double().mean((0, 1))
    torch.testing.assert_close(pasted, pasted.flip(0, 1), rtol=0.1, atol=0)  # at each border alike


def authors_box(height, width, own, generator):
    """A box as the authors and torchvision draw it: two halves, each cut to whole pixels."""
    half = 0.5 * math.sqrt(1 - own)
    spans = []
    for pixels in (height, width):
        centre = torch.randint(pixels, (), generator=generator).item()
        reach = int(half * pixels)
        spans.append(min(pixels, centre + reach) - max(0, centre - reach))
    return spans[0] * spans[1] / (height * width)


def test_of_small_images_the_authors_box_is_smaller_than_the_formula_has_it():
    generator = seeded()
    drawn = [
        authors_box(8, 8, torch.rand((), generator=generator).item(), generator)
        for _ in range(4000)
    ]
    assert sum(drawn) / len(drawn) < 0.85 * 77 / 240


def test_torchvisions_form_agrees_on_the_target_of_a_box():
    from torchvision.transforms import v2

    torch.manual_seed(0)
    images, ids = numbered(6, 12, 8)
    its, soft = v2.CutMix(num_classes=6)(images, ids)
    shares = torch.stack([(its[:, 0] == i).float().mean((1, 2)) for i in ids], 1)
    torch.testing.assert_close(soft, shares)
    assert len(soft.diagonal().unique()) == 1  # one box for a batch
    _, ours = cutmix(images, ids, num_classes=6, generator=seeded())
    assert len(ours.diagonal().unique()) > 3


def test_a_sample_that_is_not_drawn_stays_to_the_bit():
    images, ids = torch.randn(600, 1, 8, 8, generator=seeded(1)), torch.arange(600) % 7
    cut, soft = cutmix(images, ids, 1.0, 0.3, num_classes=7, generator=seeded())
    untouched = (cut == images).flatten(1).all(1)
    assert untouched.float().mean().item() == pytest.approx(0.72, abs=0.05)  # .02 are of no pixel
    assert torch.equal(soft[untouched], F.one_hot(ids, 7).float()[untouched])
    neutral, _ = cutmix(images, ids, probability=1e-9, num_classes=7, generator=seeded())
    assert torch.equal(neutral, images)


def test_with_mixup_each_sample_is_mixed_up_or_cut_into():
    """Every pixel of images of one colour says whether it was mixed or pasted."""
    samples = 400
    images, ids = numbered(samples, 8, 8)
    chain = Chain(Mixup(8.0, probability=0.5), Cutmix())
    batch = chain.batch(Batch(images, ids, samples), seeded())
    mixed = (batch.inputs != batch.inputs.round()).flatten(1).any(1)
    cut = batch.inputs.flatten(1).std(1) > 0
    assert not (mixed & cut).any()
    assert torch.equal(batch.mixed, mixed | cut)
    assert mixed.float().mean().item() == pytest.approx(0.5, abs=0.07)
    assert cut.float().mean().item() > 0.4
    assert ((batch.targets > 0).sum(1) <= 2).all()  # nobody's partner was mixed up
    one_class = chain.batch(Batch(images, torch.zeros_like(ids), 2), seeded())
    assert torch.equal(one_class.inputs, batch.inputs)  # the targets say nothing of what is mixed
    colours = batch.targets @ ids.float()
    torch.testing.assert_close(batch.inputs.mean((1, 2, 3)), colours, rtol=1e-3, atol=1e-3)


def test_where_every_sample_is_mixed_already_it_is_refused_and_the_remedy_named():
    chain = Chain(Mixup(), cut := Cutmix())
    batch = Batch(torch.randn(300, 1, 2, 2), torch.arange(300) % 2, 2)  # half are of one class
    for seed in range(3):
        chain.batch(batch, seeded(seed))
    with pytest.raises(ValueError, match=r"first 1200 were\. Set Mixup\.probability to 0\.5"):
        chain.batch(batch, seeded(3))
    cut.model(nn.Identity())
    for seed in range(10):
        Chain(Mixup(8.0, probability=0.9), cut).batch(batch, seeded(seed))


def test_the_share_that_was_cut_into_is_that_of_the_last_update():
    trick = Cutmix(probability=0.5)
    batch = Batch(torch.randn(200, 1, 32, 32), torch.zeros(200, dtype=torch.long), 2)
    assert trick.report() == {}
    trick.batch(batch, seeded(7))
    trick.load_state_dict(trick.state_dict())  # of an update that was left out
    for seed in range(2):
        trick.batch(batch, seeded(seed))
    trick.weights(nn.Identity(), Time(1, 1, 1))
    assert trick.report()["cut_share"] == pytest.approx(0.5, abs=0.08)
    trick.batch(batch._replace(mixed=torch.ones(200, dtype=torch.bool)), seeded())
    trick.weights(nn.Identity(), Time(2, 1, 1))
    assert trick.report() == {"cut_share": 0.0}


def test_a_sample_without_another_is_not_counted_as_mixed():
    alone = Batch(torch.randn(1, 1, 8, 8), torch.tensor([0]), 2)
    trick = Cutmix()
    for before in (alone, Mixup().batch(alone, seeded())):
        after = trick.batch(before, seeded())
        assert not before.mixed
        assert not after.mixed
        assert torch.equal(after.inputs, alone.inputs)
    trick.weights(nn.Identity(), Time(1, 1, 1))
    assert trick.report() == {"cut_share": 0.0}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_type_memory_format_and_the_given_images_stay(dtype):
    images = torch.randn(4, 3, 6, 5).to(dtype).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    cut, soft = cutmix(images, torch.arange(4), num_classes=4, generator=seeded())
    assert cut.dtype is dtype
    assert cut.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
    torch.testing.assert_close(soft.sum(1), torch.ones(4))


def test_the_trick_draws_from_its_generator_alone_and_smooths_nothing():
    batch = Batch(torch.randn(6, 3, 8, 8), torch.arange(6), 10)
    before = torch.get_rng_state()
    one, again, other = (Cutmix().batch(batch, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.inputs, again.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert ((one.targets > 0).sum(1) <= 2).all()
    with pytest.raises(ValueError, match=r"Write Cutmix -> LabelSmoothing"):
        Chain(LabelSmoothing(), Cutmix())


def test_the_paper_finds_a_loss_that_is_shared_by_both_images():
    """The cross-entropy with the target is the mean of both, weighted by the areas."""
    images, ids = numbered(6, 8, 8)
    _, soft = cutmix(images, ids, num_classes=6, generator=seeded())
    logits = torch.randn(6, 6, generator=seeded(1))
    expected = [
        sum(soft[i, j] * F.cross_entropy(logits[i], ids[j]) for j in range(6)) for i in range(6)
    ]
    torch.testing.assert_close(
        F.cross_entropy(logits, soft, reduction="none"), torch.stack(expected)
    )


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_an_alpha_or_probability_out_of_its_range_is_refused(value):
    with pytest.raises(ValueError, match=rf"Cutmix\.alpha must be > 0 and finite, got {value}"):
        Cutmix(alpha=value)
    with pytest.raises(ValueError, match=r"Cutmix\.probability must be > 0 and <= 1"):
        Cutmix(probability=value)


IDS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
            IDS,
            r"Cutmix mixes images after their normalisation.*got uint8",
        ),
        (torch.zeros(2, 3, 4, 4), IDS, r"Cutmix .* must know the number of classes"),
        (torch.zeros(2, 3), torch.eye(2), r"images \[N, C, H, W\].*got \[2, 3\]"),
        (torch.zeros(2, 3, 4, 4), torch.rand(2, 5, 4, 4), r"one target each.*\[2, 5, 4, 4\]"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0.5, 1.0]), r"got float32 of shape \[2\]"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        Cutmix().batch(Batch(inputs, targets), seeded())
