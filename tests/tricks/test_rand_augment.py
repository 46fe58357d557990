"""RandAugment: torchvision's operations of one strength, several for each image."""

import pytest
import torch
from torchvision.transforms.v2 import RandAugment as TheirRandAugment

from tests.tricks.operations import check_every_operation, pictures, theirs
from tricks import RandAugment, Time, rand_augment
from tricks.operations import draw
from tricks.rand_augment import RANGE

TIME = Time(0, 1, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("shape", "interpolation", "bins"),
    [((3, 12, 17), "nearest", 31), ((1, 16, 16), "bilinear", 5)],
    ids=str,
)
def test_every_operation_gives_the_pixels_of_torchvision(shape, interpolation, bins):
    check_every_operation(TheirRandAugment, RANGE, shape, bins, interpolation)


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(3, 160, 224), (1, 33, 32), (3, 2, 9)], ids=str)
def test_so_it_does_on_images_of_any_size(shape, interpolation):
    check_every_operation(TheirRandAugment, RANGE, shape, 31, interpolation)


def test_operations_follow_each_other_at_one_strength():
    images, generator = pictures(24, 3, 10, 10), seeded(5)
    expected = images
    for _ in range(3):
        drawn = draw(24, 31, generator)
        drawn = drawn._replace(bins=torch.full((24,), 20))
        expected = torch.stack(
            [theirs(TheirRandAugment, e, drawn, i, 31, "nearest") for i, e in enumerate(expected)]
        )
    assert torch.equal(rand_augment(images, seeded(5), operations=3, magnitude=20), expected)


def test_each_image_of_a_batch_has_its_own_draws_where_torchvision_has_one_for_all():
    images = pictures(2, 3, 16, 16)[1:].expand(64, -1, -1, -1)
    torch.manual_seed(0)
    assert len(TheirRandAugment()(images).unique(dim=0)) == 1
    assert len(rand_augment(images, seeded()).unique(dim=0)) > 30


def test_a_higher_strength_changes_more():
    images = pictures(400, 3, 12, 12)
    changes = [
        (rand_augment(images, seeded(), magnitude=m).float() - images).abs().mean()
        for m in (0, 9, 30)
    ]
    assert changes == sorted(changes)


def test_the_trick_is_the_plain_form_and_draws_from_its_generator_alone():
    images, state = pictures(9, 1, 8, 8), torch.get_rng_state()
    trick = RandAugment(operations=1, magnitude=4, magnitude_bins=7, interpolation="bilinear")
    changed = trick.images(images, torch.arange(9), TIME, seeded(3))
    assert torch.equal(changed, rand_augment(images, seeded(3), 1, 4, 7, "bilinear"))
    assert not torch.equal(changed, rand_augment(images, seeded(4), 1, 4, 7, "bilinear"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"operations": 0}, "RandAugment.operations must be >= 1, got 0"),
        ({"magnitude": -1}, "RandAugment.magnitude must be from 0 to 30, magnitude_bins - 1"),
        ({"magnitude": 31}, "RandAugment.magnitude must be from 0 to 30, magnitude_bins - 1"),
        ({"magnitude_bins": 1, "magnitude": 0}, "RandAugment.magnitude_bins must be >= 2, got 1"),
        ({"interpolation": "cubic"}, "RandAugment.interpolation must be one of nearest, bilinear"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        RandAugment(**given)


def test_other_images_are_refused():
    for images in (torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 4, 4, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="RandAugment takes images"):
            RandAugment().images(images, torch.arange(2), TIME, seeded())
        with pytest.raises(ValueError, match="rand_augment takes images"):
            rand_augment(images, seeded())
