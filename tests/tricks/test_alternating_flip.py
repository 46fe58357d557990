"""Alternating flip: both ways in any two epochs, as a function of seed, image and epoch."""

import pytest
import torch

from runner.data import Batches, Split
from runner.errors import UserError
from tests.conftest import settings
from tricks import AlternatingFlip, Chain, Time, flip_alternately

MANY = torch.arange(20_000)
ARROWS = torch.tensor([0, 1]).view(1, 1, 1, 2).expand(len(MANY), -1, -1, -1)


def mirrored(epoch, samples=MANY, seed=0):
    return flip_alternately(ARROWS[: len(samples)], samples, epoch, seed)[:, 0, 0, 0] == 1


def test_an_image_is_mirrored_in_every_other_epoch():
    first = mirrored(0)
    for epoch in range(1, 6):
        assert torch.equal(mirrored(epoch), first if epoch % 2 == 0 else ~first)


def test_two_epochs_show_every_image_both_ways_where_random_flips_show_half_of_them():
    both = mirrored(4) ^ mirrored(5)
    assert both.all()
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(2, len(MANY), generator=generator) < 0.5
    assert abs((random[0] ^ random[1]).double().mean() - 0.5) < 0.02


@pytest.mark.parametrize("samples", [MANY, 2 * MANY, 1024 * MANY, MANY + 2**40], ids=len)
def test_which_are_mirrored_first_is_a_fair_coin_for_each_image_and_each_seed(samples):
    deviation = 0.5 / len(MANY) ** 0.5
    of_seeds = [mirrored(0, samples, seed) for seed in (0, 1, 2)]
    for one in of_seeds:
        assert abs(one.double().mean() - 0.5) < 5 * deviation
        for step in (1, 2, 3, 64):  # neighbours
            assert abs((one[step:] ^ one[:-step]).double().mean() - 0.5) < 5 * deviation
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs((of_seeds[one] ^ of_seeds[other]).double().mean() - 0.5) < 5 * deviation


def test_it_does_not_depend_on_the_batch_that_an_image_is_in():
    order = torch.randperm(len(MANY), generator=torch.Generator().manual_seed(0))
    whole = mirrored(3)
    assert torch.equal(mirrored(3, order), whole[order])
    assert torch.equal(torch.cat([mirrored(3, part) for part in MANY.split(77)]), whole)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, torch.bool])
def test_images_of_any_type_are_mirrored_left_and_right(dtype):
    images = torch.randint(2, (64, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    changed = flip_alternately(images, MANY[:64], 0)
    assert changed.dtype == dtype
    for image, after, is_mirrored in zip(images, changed, mirrored(0)[:64], strict=True):
        expected = [row[::-1] if is_mirrored else row for row in image.flatten(0, 1).tolist()]
        assert after.flatten(0, 1).tolist() == expected


def test_the_trick_takes_epoch_and_seed_from_the_time_and_draws_nothing():
    images = torch.rand(8, 1, 3, 3)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    for update in range(12):
        time = Time(update, updates_per_epoch=5, updates=12, seed=7)
        changed = AlternatingFlip().images(images, MANY[:8], time, generator)
        assert torch.equal(changed, flip_alternately(images, MANY[:8], update // 5, seed=7))
    assert torch.equal(generator.get_state(), state)


def test_in_a_shuffled_training_each_image_is_seen_both_ways_in_two_epochs():
    images = torch.randint(256, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    split, length = Split(images, torch.arange(50)), 5
    given = {"trick": Chain(AlternatingFlip()), "begin": Time(0, length, 2 * length, 3)}
    batches = Batches(split, 11, torch.zeros(1), torch.ones(1) / 255, shuffle=True, **given)
    assert len(batches) == length
    seen = []
    for epoch in (0, 1):
        parts = [*batches.epoch(epoch)]
        order = torch.cat([part.targets for part in parts]).argsort()
        seen.append(torch.cat([part.inputs for part in parts])[order].round().byte())
        resumed = [*batches.epoch(epoch, start=3)]
        assert torch.equal(resumed[0].inputs, parts[3].inputs)
    assert torch.equal(seen[0], seen[1].flip(3))
    assert not torch.equal(seen[0], images)


@pytest.mark.parametrize("samples", [torch.arange(3), torch.zeros(4, 1).long(), torch.zeros(4)])
def test_samples_that_are_none_are_refused(samples):
    with pytest.raises(ValueError, match="samples must be integers"):
        flip_alternately(torch.zeros(4, 1, 2, 2), samples, 0)


def test_flips_of_another_kind_beside_it_are_refused():
    with pytest.raises(UserError, match=r"data.augment.flip=true would change nothing"):
        settings("tricks=[alternating_flip]", "data.augment.flip=true")
    with pytest.raises(
        ValueError, match="AlternatingFlip and AlternatingFlip each bring their own flips"
    ):
        Chain(AlternatingFlip(), AlternatingFlip())
