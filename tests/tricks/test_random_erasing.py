"""Random erasing: rectangles of any shape and place, what fills them, and timm's beside it."""

import random

import pytest
import torch
from timm.data.random_erasing import RandomErasing as TheirRandomErasing

from tricks import Batch, RandomErasing, Time, random_erase

TIME, PLACES = Time(0, 1, 1), torch.arange(50)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def erased(count, height, width, seed=0, **given):
    """Which pixels are erased, bool [count, height, width]."""
    ones = torch.ones(count, 1, height, width)
    return random_erase(ones, seeded(seed), fill="mean", **given)[:, 0] == 0


def by_timm(count, height, width, area=(0.02, 0.4), ratio=0.3, probability=0.5):
    random.seed(0)
    erase = TheirRandomErasing(probability, *area, ratio, device="cpu")
    return erase(torch.ones(count, 1, height, width))[:, 0] == 0


def sides(mask):
    """The height and the width of each rectangle, [n] each; it must be one."""
    rows, columns = mask.any(2), mask.any(1)
    assert torch.equal(mask, rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):  # in one piece
        assert (line.int().diff(dim=1).abs().sum(1) <= 2).all()
    return rows.sum(1), columns.sum(1)


def test_of_one_area_and_ratio_the_rectangle_is_known_and_its_places_are_equally_likely():
    mask = erased(9000, 8, 8, probability=1, area=(0.25, 0.25), ratio=1)
    height, width = sides(mask)
    assert (height == 4).all()
    assert (width == 4).all()
    corners = mask.flatten(1).int().argmax(1)
    found = corners.bincount(minlength=64).view(8, 8)
    assert (found[5:] == 0).all()
    assert (found[:, 5:] == 0).all()
    assert ((found[:5, :5] - 360).abs() < 5 * 360**0.5).all()


@pytest.mark.parametrize("size", [(24, 32), (32, 24), (40, 40)], ids=str)
def test_areas_ratios_and_places_are_distributed_as_timms(size):
    ours, theirs = erased(2500, *size), by_timm(2500, *size)
    numbers = []
    for mask in (ours, theirs):
        height, width = sides(mask[mask.any((1, 2))])
        area, ratio = height * width / (size[0] * size[1]), (height / width).log()
        numbers.append([mask.any((1, 2)).float().mean(), area.mean(), area.std()])
        numbers[-1] += [ratio.mean() / 3, ratio.std() / 3, mask.float().mean((0, 2))[:4].mean()]
        assert area.max() < 0.45
        assert area.min() > 0.01
    for one, other in zip(*numbers, strict=True):
        assert abs(one - other) < 0.05  # five standard errors


def test_the_probability_holds_where_most_rectangles_do_not_fit():
    """timm draws ten and gives up."""
    ours, theirs = (erase(1000, 6, 150, probability=1) for erase in (erased, by_timm))
    assert ours.any((1, 2)).float().mean() > 0.99
    assert theirs.any((1, 2)).float().mean() < 0.9


def test_a_rectangle_is_at_least_a_pixel_and_never_the_whole_of_a_side():
    height, width = sides(erased(200, 3, 3, probability=1, area=(0.001, 0.9)))
    assert set(height.tolist()) == set(width.tolist()) == {1, 2}
    assert not erased(20, 1, 9, probability=1).any()  # nothing fits


@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
def test_so_many_images_are_erased(probability):
    found = erased(4000, 6, 6, probability=probability).any((1, 2)).sum().item()
    assert abs(found - 4000 * probability) <= 5 * (4000 * probability * (1 - probability)) ** 0.5


@pytest.mark.parametrize(("dtype", "white"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_noise_of_integers_is_uniform_and_black_is_zero(dtype, white):
    images = torch.full((400, 3, 16, 16), 7).to(dtype)
    noise = random_erase(images, seeded(), probability=1)
    assert noise.dtype == dtype
    inside = noise.int()[(noise.int() != 7).any(1, keepdim=True).expand_as(noise)].float() / white
    assert inside.max() > 0.999
    assert inside.min() < 0.001
    assert abs(inside.mean() - 0.5) < 0.01
    assert abs(inside.std() - 12**-0.5) < 0.01
    black = random_erase(images, seeded(), probability=1, fill="black")
    assert black.dtype == dtype
    assert set(black.int().unique().tolist()) == {0, 7}
    assert torch.equal((black.int() == 0).any(1), (noise.int() != 7).any(1))  # the same places
    assert (images.int() == 7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_noise_of_floats_is_normal_for_each_channel(dtype):
    images = torch.full((400, 3, 16, 16), 7.0, dtype=dtype)
    noise = random_erase(images, seeded(), probability=1)
    assert noise.dtype == dtype
    inside = noise[noise != 7].double()
    assert abs(inside.mean()) < 0.02
    assert abs(inside.std() - 1) < 0.02
    changed = (noise != 7)[:, :, None].any((3, 4))
    assert torch.equal(changed[:, 0], changed[:, 2])
    assert not torch.equal(noise[:, 0], noise[:, 1])


def test_the_trick_erases_integers_but_with_the_mean_what_is_normalised():
    images = torch.randint(256, (50, 3, 9, 9), generator=seeded(9)).byte()
    inputs, state = (images.float() - 120) / 60, torch.get_rng_state()
    batch = Batch(inputs, torch.arange(50), 50)
    for fill in ("noise", "black", "mean"):
        trick = RandomErasing(probability=0.7, area=(0.1, 0.2), ratio=0.5, fill=fill)
        given = {"probability": 0.7, "area": (0.1, 0.2), "ratio": 0.5, "fill": fill}
        changed = trick.images(images, PLACES, TIME, seeded(1))
        passed = trick.batch(batch, seeded(1))
        assert torch.equal(passed.targets, batch.targets)
        if fill == "mean":
            assert changed is images
            assert torch.equal(passed.inputs, random_erase(inputs, seeded(1), **given))
        else:
            assert passed is batch
            assert torch.equal(changed, random_erase(images, seeded(1), **given))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"probability": 0}, "RandomErasing.probability must be > 0 and <= 1, got 0"),
        ({"probability": 1.1}, "RandomErasing.probability must be > 0 and <= 1, got 1.1"),
        ({"area": (0.0, 0.4)}, r"RandomErasing.area must be two shares .* got \[0.0, 0.4\]"),
        ({"area": (0.5, 0.4)}, r"RandomErasing.area must be two shares .* got \[0.5, 0.4\]"),
        ({"area": (0.5,)}, r"RandomErasing.area must be two shares .* got \[0.5\]"),
        ({"area": (0.5, 1.0)}, r"RandomErasing.area must be two shares .* got \[0.5, 1.0\]"),
        ({"ratio": 0}, "RandomErasing.ratio must be > 0 and <= 1, got 0"),
        ({"ratio": 3.3}, "RandomErasing.ratio must be > 0 and <= 1, got 3.3"),
        ({"fill": "white"}, "RandomErasing.fill must be one of noise, black, mean, got 'white'"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        RandomErasing(**given)


@pytest.mark.parametrize(
    ("dtype", "fill", "message"),
    [
        (torch.float32, "black", "fill=black needs images as integers, got float32"),
        (torch.uint8, "mean", "fill=mean needs normalised images, whose mean is 0, got uint8"),
        (torch.int64, "noise", "must be uint8, uint16 or normalised floats, got int64"),
    ],
    ids=str,
)
def test_what_images_of_a_type_cannot_be_filled_with_is_refused(dtype, fill, message):
    with pytest.raises(ValueError, match=message):
        random_erase(torch.zeros(2, 3, 4, 4, dtype=dtype), seeded(), fill=fill)


@pytest.mark.parametrize(("height", "width", "area"), [(1, 8, 0.02), (8, 8, 0.97)])
def test_the_trick_refuses_images_in_which_no_rectangle_fits(height, width, area):
    images = torch.zeros(50, 1, height, width, dtype=torch.uint8)
    trick = RandomErasing(area=(area, 0.99))
    with pytest.raises(ValueError, match=f"no room in images of {height} x {width} .* Lower area"):
        trick.images(images, PLACES, TIME, seeded())
