"""TrivialAugment: torchvision's operations, a draw for each image, and images it does not take."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import TrivialAugmentWide

import tricks.operations
from runner.build import build
from runner.errors import UserError
from tests.conftest import settings
from tests.tricks.operations import (
    UNTOUCHED,
    at_strength_zero,
    check_every_operation,
    every_draw,
    pictures,
)
from tricks import Chain, Time, TrivialAugment, trivial_augment
from tricks.operations import NAMES, apply, draw
from tricks.trivial_augment import WIDE

TIME = Time(0, 1, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("shape", "interpolation", "bins"),
    [((3, 12, 17), "nearest", 31), ((3, 16, 16), "bilinear", 7), ((1, 8, 5), "nearest", 5)],
    ids=str,
)
def test_every_operation_gives_the_pixels_of_torchvision(shape, interpolation, bins):
    check_every_operation(TrivialAugmentWide, WIDE, shape, bins, interpolation)


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(3, 160, 224), (1, 33, 32), (3, 2, 9), (3, 1, 1)], ids=str)
def test_so_it_does_on_images_of_any_size(shape, interpolation):
    check_every_operation(TrivialAugmentWide, WIDE, shape, 31, interpolation)


def test_operations_strengths_and_signs_are_equally_likely_and_independent():
    count = 28_000
    drawn = draw(count, 5, seeded())
    cells = (drawn.operations * 5 + drawn.bins) * 2 + drawn.negative.long()
    found = cells.bincount(minlength=len(NAMES) * 10).double()
    expected = count / (len(NAMES) * 10)
    assert len(found) == len(NAMES) * 10
    assert ((found - expected).abs() < 5 * expected**0.5).all()


def test_each_image_of_a_batch_has_its_own_draw_where_torchvision_has_one_for_all():
    images = pictures(2, 3, 16, 16)[1:].expand(64, -1, -1, -1)
    torch.manual_seed(0)
    theirs = TrivialAugmentWide()(images)
    ours = trivial_augment(images, seeded())
    assert len(theirs.unique(dim=0)) == 1
    assert len(ours.unique(dim=0)) > 30


def test_at_strength_zero_nothing_changes():
    images = pictures(4, 3, 9, 9).clamp(max=254)  # white is at the threshold of solarize
    for name, changed in at_strength_zero(WIDE, images):
        assert name in UNTOUCHED - {"Identity"} or torch.equal(changed, images), name


def test_in_parts_that_fit_into_a_cache_the_pixels_are_the_same(monkeypatch):
    drawn = every_draw(3)
    images = pictures(len(drawn.bins), 3, 8, 8)
    whole = apply(images, drawn, WIDE, 3, "nearest")
    for most in (1, 3 * 8 * 8 * 5):
        monkeypatch.setattr(tricks.operations, "AT_ONCE", most)
        assert torch.equal(apply(images, drawn, WIDE, 3, "nearest"), whole)


def test_the_trick_is_the_plain_form_and_draws_from_its_generator_alone():
    images, state = pictures(9, 3, 8, 8), torch.get_rng_state()
    trick = TrivialAugment(magnitude_bins=11, interpolation="bilinear")
    changed = trick.images(images, torch.arange(9), TIME, seeded(3))
    assert torch.equal(changed, trivial_augment(images, seeded(3), 11, "bilinear"))
    assert not torch.equal(changed, trivial_augment(images, seeded(4), 11, "bilinear"))
    assert torch.equal(torch.get_rng_state(), state)
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    assert len(trivial_augment(images[:0], seeded())) == 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 4, 4), "of uint8, got float32. Call it before"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint16), "of uint8, got uint16. Give 8 bits"),
        (
            torch.zeros(2, 4, 4, 4, dtype=torch.uint8),
            r".* of 1 or 3 channels, got \[2, 4",
        ),
        (
            torch.zeros(3, 4, 4, dtype=torch.uint8),
            r".* of 1 or 3 channels, got \[3, 4",
        ),
    ],
    ids=["floats", "uint16", "4 channels", "no batch"],
)
def test_other_images_are_refused(images, message):
    with pytest.raises(ValueError, match=f"^TrivialAugment takes images {message}"):
        Chain(TrivialAugment()).images(images, torch.arange(len(images)), TIME, seeded())
    with pytest.raises(ValueError, match=f"^trivial_augment takes images {message}"):
        trivial_augment(images, seeded())


def test_a_run_on_images_that_it_does_not_take_is_refused_before_it(tmp_path):

    labels = np.arange(12) % 2
    np.savez(tmp_path / "x.npz", x_train=np.zeros((12, 8, 8, 4), np.uint8), y_train=labels)
    both = {
        "x_train": np.zeros((12, 8, 8, 4), np.uint8),
        "x_test": np.ones((12, 8, 8, 4), np.uint8),
    }
    np.savez(tmp_path / "x.npz", **both, y_train=labels, y_test=labels)
    given = settings("data=npz", f"data.file='{tmp_path / 'x.npz'}'", "tricks=[trivial_augment]")
    with pytest.raises(UserError, match=r"^tricks: TrivialAugment takes images .* 1 or 3 channels"):
        build(given)


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"TrivialAugment.magnitude_bins must be >= 2, got 1"):
        TrivialAugment(magnitude_bins=1)
    with pytest.raises(ValueError, match=r"interpolation must be one of nearest, bilinear"):
        TrivialAugment(interpolation="cubic")
