"""Progressive resizing: the sizes by hand, how an image gets there, networks that refuse one."""

import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional

from runner.build import build
from runner.data import Batches, Split
from runner.errors import UserError
from runner.fit import Fit, inputs_of_each_size
from tests.conftest import settings
from tricks import Chain, ProgressiveResizing, Time, resize_progressively


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, dtype=torch.uint8, white=256):
    return torch.randint(white, shape, generator=seeded()).to(dtype)


def sides(progress, height=32, width=48, **given):
    return tuple(resize_progressively(noise(1, 1, height, width), progress, **given).shape[2:])


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.0, (16, 24)),
        (0.5, (16, 24)),
        (0.5625, (20, 28)),  # 19.2 and 28.8, to a multiple of 4
        (0.6, (20, 32)),  # 21.33 and 32
        (0.65, (24, 36)),  # half way
        (0.74, (28, 44)),  # 28.8 and 43.2
        (0.79, (32, 48)),  # 31.47 and 47.2
        (0.8, (32, 48)),
        (1.0, (32, 48)),
    ],
)
def test_the_sides_grow_in_a_line_to_multiples_of_a_step(progress, expected):
    assert sides(progress) == expected


def test_start_since_until_and_step_are_what_they_say():
    assert sides(0.0, start=0.25, since=0, until=1, step=1) == (8, 12)
    assert sides(0.5, start=0.25, since=0, until=1, step=1) == (20, 30)  # .625
    assert sides(0.999, start=0.25, since=0, until=1, step=16) == (32, 48)
    assert sides(0.3, start=0.75, since=0.3, until=0.4, step=1) == (24, 36)
    assert sides(0.35, start=0.75, since=0.3, until=0.4, step=1) == (28, 42)
    assert sides(0.0, 33, 31, start=0.9, step=4) == (28, 28)
    assert sides(0.8, 33, 31) == (33, 31)  # whole, though no multiple
    assert sides(0.0, 6, 7, start=0.01, step=4) == (4, 4)  # at least a step
    assert sides(0.0, 3, 40, start=0.01, step=4) == (3, 4)  # and at most the side


def test_whole_images_are_given_back_as_they_are():
    images = noise(2, 3, 32, 32)
    assert resize_progressively(images, 0.8) is images
    assert resize_progressively(images, 0.99, by="crop") is images


@pytest.mark.parametrize("size", [(32, 32), (30, 50)], ids=str)
def test_resized_bytes_are_torchvisions_to_rounding(size):
    images = noise(4, 3, *size)
    small = resize_progressively(images, 0.0)
    expected = functional.resize(images, [*small.shape[2:]], antialias=True)
    assert small.dtype == torch.uint8
    assert (small.int() - expected.int()).abs().max() <= 1
    exact = functional.resize(images.double(), [*small.shape[2:]], antialias=True)
    assert (small - exact).abs().max() < 0.501


@pytest.mark.parametrize("by", ["resize", "crop"])
@pytest.mark.parametrize(
    ("dtype", "white"), [(torch.uint8, 255), (torch.uint16, 65535), (torch.float64, 1)]
)
def test_white_stays_white_in_every_type(dtype, white, by):
    images = torch.full((2, 3, 20, 20), white).to(dtype)
    small = resize_progressively(images, 0.0, by=by, generator=seeded())
    assert small.shape == (2, 3, 12, 12)
    assert small.dtype == dtype
    assert (small.double() - white).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_a_crop_is_a_part_of_each_image_all_equally_likely(dtype):
    place = torch.arange(36).view(1, 1, 6, 6)
    images = (place + torch.tensor([0, 100]).view(1, 2, 1, 1)).expand(4000, -1, -1, -1).to(dtype)
    parts = resize_progressively(images, 0.0, start=2 / 3, by="crop", generator=seeded())
    assert parts.dtype == dtype
    corners = parts[:, 0, 0, 0].long()
    rows, columns = torch.arange(4).view(-1, 1) * 6, torch.arange(4)
    assert torch.equal(parts[:, 0].long(), corners.view(-1, 1, 1) + rows + columns)
    assert torch.equal(parts[:, 1].long(), parts[:, 0].long() + 100)
    found = corners.bincount(minlength=36).view(6, 6)
    expected = torch.zeros(6, 6)
    expected[:3, :3] = 4000 / 9
    assert ((found - expected).abs() <= 5 * expected.sqrt()).all()


def test_the_trick_takes_its_progress_from_the_time():
    images, trick = noise(2, 3, 32, 32), ProgressiveResizing(since=0.0, until=0.5, by="crop")
    for update in range(20):
        changed = trick.images(images, torch.arange(2), Time(update, 4, 20), seeded(1))
        given = {"since": 0.0, "until": 0.5, "by": "crop", "generator": seeded(1)}
        assert torch.equal(changed, resize_progressively(images, update / 20, **given))
    assert ProgressiveResizing().caveats(100, 10) == [
        "images are resized to 0.5 of each side up to epoch 5, then growing, and whole from epoch "
        "8 on; they are evaluated whole"
    ]


def batches(*tricks, updates=100, side=32, count=24):
    split = Split(noise(count, 3, side, side), torch.arange(count) % 2)
    begin = Time(0, 10, updates)
    return Batches(split, 8, torch.zeros(3), torch.ones(3), trick=Chain(*tricks), begin=begin)


@pytest.mark.parametrize("updates", [1, 2, 7, 100, 1234])
def test_every_size_that_comes_is_tried_before_a_run(updates):
    trick = ProgressiveResizing(start=0.3, since=0.4, until=0.6, step=3)
    given = batches(trick, updates=updates)
    image, expected = given.split.images[:2], set()
    for update in range(updates):
        time = Time(update, 10, updates)
        expected.add(trick.images(image, torch.arange(2), time, seeded()).shape)
    assert {inputs.shape for inputs in inputs_of_each_size(given)} == expected


def fit_of(model):
    return Fit(model, "Net", 2, torch.no_grad)


def test_a_network_that_does_not_take_a_size_on_the_way_is_refused():
    pooled = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    by_fours = nn.Sequential(
        nn.PixelUnshuffle(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 2)
    )
    given = batches(ProgressiveResizing())
    sizes = inputs_of_each_size(given)
    fit_of(pooled).check_sizes(sizes, given, None)
    with pytest.raises(
        UserError, match=r"^tricks: they make images of 3 x 20 x 20, which Net does"
    ):
        fit_of(by_fours).check_sizes(sizes, given, None)
    eights = batches(ProgressiveResizing(step=8))
    fit_of(by_fours).check_sizes(inputs_of_each_size(eights), eights, None)


@pytest.mark.slow  # a network is built
def test_in_a_run_only_training_is_on_small_images():
    bench = build(settings("tricks=[progressive_resizing]", "model.width=2", "batch_size=700"))
    assert next(bench.batches.epoch(0)).inputs.shape[2:] == (4, 4)
    assert next(bench.batches.epoch(bench.training.begin.updates)).inputs.shape[2:] == (8, 8)
    for split in (bench.validation, bench.test):
        assert next(split.epoch(0)).inputs.shape[2:] == (8, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start": 0}, "ProgressiveResizing.start must be > 0 and < 1, got 0"),
        ({"start": 1.0}, "ProgressiveResizing.start must be > 0 and < 1, got 1.0"),
        ({"since": 0.8}, "0 <= since < until <= 1, shares of the training, got since=0.8"),
        ({"since": -0.1}, "0 <= since < until <= 1, shares of the training, got since=-0.1"),
        ({"until": 1.2}, "0 <= since < until <= 1, shares of the training, got since=0.5, until"),
        ({"step": 0}, "ProgressiveResizing.step must be >= 1 pixel, got 0"),
        ({"by": "pad"}, "ProgressiveResizing.by must be one of resize, crop, got 'pad'"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveResizing(**given)


def test_a_start_that_reduces_nothing_is_refused():
    trick, time = ProgressiveResizing(start=0.95), Time(5, 10, 10)
    with pytest.raises(ValueError, match=r"changes nothing: start=0.95 of 32 x 32"):
        trick.images(noise(2, 3, 32, 32), torch.arange(2), time, seeded())
