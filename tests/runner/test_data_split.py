"""From a source to a data set: refusals, the validation split, the pixel statistics."""

from dataclasses import replace

import pytest
import torch

from runner.data import Source, Split, check_source, digits, split_source
from runner.data.split import pixel_statistics
from runner.errors import UserError


def source_of(counts, seed=0, shape=(2, 3, 4)):
    """Return a source with these counts of training images per class, all images distinct."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    images = torch.randint(0, 256, (len(labels), *shape), generator=generator, dtype=torch.uint8)
    test = Split(images[:4].clone(), labels[:4].clone())
    return Source(Split(images, labels), test, tuple(f"class{n}" for n in range(len(counts))))


def rows(split):
    return {tuple(image.flatten().tolist()) for image in split.images}


def test_the_splits_are_disjoint_and_cover_all_training_images():
    source = source_of([30, 20, 50])
    data = split_source(source, 0.2, seed=0)
    assert rows(data.train).isdisjoint(rows(data.validation))
    assert rows(data.train) | rows(data.validation) == rows(source.train)
    assert len(data.train.labels) + len(data.validation.labels) == 100
    assert data.test is source.test
    assert data.classes == source.classes


def test_images_keep_their_labels_through_the_split():
    source = source_of([30, 20, 50])
    known = {
        tuple(image.flatten().tolist()): int(label)
        for image, label in zip(source.train.images, source.train.labels, strict=True)
    }
    data = split_source(source, 0.2, seed=0)
    for split in (data.train, data.validation):
        for image, label in zip(split.images, split.labels, strict=True):
            assert known[tuple(image.flatten().tolist())] == int(label)


@pytest.mark.parametrize(
    ("counts", "share", "taken"),
    [
        ([30, 20, 50], 0.1, [3, 2, 5]),
        ([30, 20, 50], 0.5, [15, 10, 25]),
        ([4, 4, 92], 0.1, [0, 0, 10]),  # 0.4, 0.4 and 9.2
        ([1, 99], 0.9, [0, 90]),  # the only image of its class stays in training
        ([2, 2], 0.5, [1, 1]),
    ],
)
def test_each_class_gives_its_share_and_none_is_taken_whole(counts, share, taken):
    data = split_source(source_of(counts), share, seed=1)
    assert data.validation.labels.bincount(minlength=len(counts)).tolist() == taken


def test_the_total_is_right_even_where_the_share_of_each_class_rounds_to_zero():
    given = split_source(source_of([4] * 25), 0.1, seed=0).validation.labels.bincount(minlength=25)
    assert given.sum() == 10
    assert given.max() == 1
    other = split_source(source_of([4] * 25), 0.1, seed=1).validation.labels.bincount(minlength=25)
    assert given.tolist() != other.tolist()  # drawn at random


def test_the_validation_split_depends_on_the_seed_alone():
    source = source_of([30, 20, 50])
    one, same, other = (rows(split_source(source, 0.2, seed).validation) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_a_split_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    split_source(source_of([30, 20, 50]), 0.2, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_share_of_zero_gives_an_empty_validation_split():
    source = source_of([3, 4])
    data = split_source(source, 0, seed=0)
    assert data.validation.images.shape == (0, 2, 3, 4)
    assert len(data.validation.labels) == 0
    assert torch.equal(data.train.images, source.train.images)


@pytest.mark.parametrize(("share", "count"), [(0.01, 0), (0.9, 9)])
def test_a_share_that_takes_nothing_or_too_much_is_refused(share, count):
    message = (
        rf"data\.validation={share} takes {count} of 10 .* one of each of the 2 classes; 0 means"
    )
    with pytest.raises(UserError, match=message):
        split_source(source_of([5, 5]), share, seed=0)


def test_the_statistics_are_those_of_the_remaining_training_pixels():
    source = source_of([40, 60])
    data = split_source(source, 0.3, seed=0)
    unit = data.train.images.double() / 255
    torch.testing.assert_close(data.mean.double(), unit.mean((0, 2, 3)), rtol=1e-7, atol=0)
    deviation = unit.std((0, 2, 3), correction=0)
    torch.testing.assert_close(data.std.double(), deviation, rtol=1e-7, atol=0)
    assert data.mean.dtype == data.std.dtype == torch.float32


def test_the_statistics_of_more_than_one_chunk_are_exact():
    images = torch.full((5000, 1, 64, 64), 7, dtype=torch.uint8)  # 20 MB
    images[4999] = 250
    mean, std = pixel_statistics(Split(images, torch.zeros(5000).long()))
    share = 1 / 5000
    assert mean.item() == pytest.approx((7 + 243 * share) / 255, rel=1e-7)
    assert std.item() == pytest.approx(243 / 255 * (share * (1 - share)) ** 0.5, rel=1e-7)


def test_a_constant_channel_has_a_deviation_of_one_grey_level():
    images = torch.full((3, 2, 4, 4), 51, dtype=torch.uint8)
    mean, std = pixel_statistics(Split(images, torch.zeros(3).long()))
    torch.testing.assert_close(mean, torch.full((2,), 0.2))
    torch.testing.assert_close(std, torch.full((2,), 1 / 255))


def test_a_data_set_moves_to_a_device_as_a_whole():
    data = split_source(source_of([5, 5]), 0.2, seed=0).to(torch.device("meta"))
    for split in (data.train, data.validation, data.test):
        assert split.images.is_meta
        assert split.labels.is_meta
    assert data.mean.is_meta
    assert data.std.is_meta


def test_splits_that_share_images_read_as_those_that_have_their_own():
    own = source_of([30, 20, 50])
    rows = torch.randperm(110)[:100]
    images = torch.zeros(110, 2, 3, 4, dtype=torch.uint8)
    images[rows] = own.train.images
    shared = replace(own, train=Split(images, own.train.labels, rows))
    check_source(shared, "data")
    one, other = (split_source(source, 0.2, seed=0) for source in (own, shared))
    assert other.train.images.data_ptr() == images.data_ptr()  # not a copy
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.std, other.std)
    for a, b in ((one.train, other.train), (one.validation, other.validation)):
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.images, torch.cat([*b.chunks()]))
        index = torch.tensor([3, 0, 3])
        assert torch.equal(a.images_of(index), b.images_of(index))
        moved = b.to(torch.device("meta"))
        assert moved.rows is None
        assert moved.images.shape == a.images.shape
        assert b.to(torch.device("meta"), whole=False).images.data_ptr() == images.data_ptr()


def test_a_well_formed_source_passes():
    check_source(source_of([5, 5]), "data")
    check_source(digits(), "data")


IMAGES, LABELS = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
SOUND = Split(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a",)}, "classes must be two or more different names, got a. "),
        ({"classes": ("a", "a")}, "classes must be two or more different names, got a, a. "),
        ({"classes": ()}, "classes must be two or more different names, got none. "),
        (
            {"train": Split(IMAGES.float(), LABELS)},
            r"train.images must be uint8 or uint16 \[N, C, H, W\], got float32 \[4, 1, 2, 2\]. ",
        ),
        ({"test": Split(IMAGES[:, 0], LABELS)}, r"test.images must be .*, got uint8 \[4, 2, 2\]. "),
        ({"test": Split(IMAGES.numpy(), LABELS)}, "test.images must be .*, got ndarray. "),
        (
            {"train": Split(IMAGES, LABELS[:3])},
            r"train.labels must be int64 \[4\], .* got int64 \[3\]",
        ),
        ({"train": Split(IMAGES, LABELS.int())}, r"train.labels must be .* got int32 \[4\]"),
        ({"test": Split(IMAGES, LABELS[:, None])}, r"test.labels must be .* got int64 \[4, 1\]"),
        ({"test": Split(IMAGES[:0], LABELS[:0])}, r"test is empty: uint8 \[0, 1, 2, 2\]\. "),
        ({"train": Split(IMAGES, LABELS + 1)}, "train.labels must be from 0 to 1, .* got 2. "),
        ({"test": Split(IMAGES, LABELS - 1)}, "test.labels must be from 0 to 1, .* got -1. "),
        (
            {"test": Split(IMAGES[..., :1], LABELS)},
            r"training images have the shape \(1, 2, 2\), the test images \(1, 2, 1\)\. ",
        ),
        (
            {"classes": tuple("abcdefghi")},
            "no training images of class c, d, e, f, g and 2 more. ",
        ),
    ],
)
def test_a_malformed_source_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=f"^data \\(mine\\).*{message}"):
        check_source(replace(Source(SOUND, SOUND, ("a", "b")), **change), "data (mine)")


def test_anything_but_a_source_is_refused():
    with pytest.raises(UserError, match=r"must return a runner\.data\.Source, got tuple\. "):
        check_source((SOUND, SOUND), "data (mine)")
