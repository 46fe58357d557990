"""Repeated augmentation: the order by hand, its length, copies that differ, timm's beside it."""

import pytest
import torch
from timm.data.distributed_sampler import RepeatAugSampler

from runner.data import Augmentation, Batches, Split
from tricks import Chain, RandomErasing, RepeatedAugmentation, repeat_samples


@pytest.mark.parametrize(
    ("count", "repeats", "expected"),
    [
        (6, 2, [5, 5, 4, 4, 3, 3]),
        (7, 3, [6, 6, 6, 5, 5, 5, 4]),
        (8, 3, [7, 7, 7, 6, 6, 6, 5, 5]),
        (5, 5, [4, 4, 4, 4, 4]),
        (4, 9, [3, 3, 3, 3]),
        (3, 1, [2, 1, 0]),
    ],
)
def test_the_first_samples_are_repeated_and_the_epoch_keeps_its_length(count, repeats, expected):
    assert repeat_samples(torch.arange(count).flip(0), repeats).tolist() == expected


def test_timms_sampler_has_the_same_order_but_cuts_the_epoch():
    sampler = RepeatAugSampler(range(1000), num_replicas=1, rank=0, shuffle=False, num_repeats=3)
    theirs, ours = [*sampler], repeat_samples(torch.arange(1000), 3).tolist()
    assert len(theirs) == 768
    assert len(ours) == 1000
    assert ours[:768] == theirs


def batches(count=40, size=12, **given):
    images = torch.randint(256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(count) > count // 5).long()
    split = Split(images.byte(), labels)
    return Batches(split, size, torch.zeros(1), torch.ones(1), shuffle=True, **given)


@pytest.mark.parametrize(
    "given",
    [{"augmentation": Augmentation(cutout=3)}, {"augmentation": Augmentation(crop=3)}, {}],
    ids=str,
)
def test_copies_are_in_one_batch_and_are_augmented_differently(given):
    erasing = RandomErasing(probability=1.0, area=(0.3, 0.4))
    chain = Chain(RepeatedAugmentation(), *([] if given else [erasing]))
    for batch in [*batches(trick=chain, **given).epoch(0)][:3]:
        copies = batch.inputs.view(4, 3, 1, 8, 8)
        assert (batch.targets.view(4, 3) == batch.targets.view(4, 3)[:, :1]).all()
        for same in copies:
            assert len(same.unique(dim=0)) > 1


@pytest.mark.parametrize("balanced", [False, True])
def test_an_epoch_has_as_many_updates_and_a_third_of_the_images_each_time_others(balanced):
    plain, repeated = (
        batches(balanced=balanced, trick=chain)
        for chain in (Chain(), Chain(RepeatedAugmentation()))
    )
    seen = set()
    for epoch in range(12):
        order, before = repeated.order(epoch), plain.order(epoch)
        assert torch.equal(order, before[:14].repeat_interleave(3)[:40])
        assert len([*repeated.epoch(epoch)]) == len(repeated) == len(plain)
        seen |= set(order.tolist())
    assert len(seen) > 35
    third = [*repeated.epoch(2)][2]
    assert torch.equal(next(repeated.epoch(2, start=2)).inputs, third.inputs)


def test_what_an_epoch_is_is_said():
    said = RepeatedAugmentation(repeats=4).caveats(100, 10)
    assert said == ["an epoch sees 1/4 of the images, 4 times each"]


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"RepeatedAugmentation.repeats must be >= 2, got 1"):
        RepeatedAugmentation(repeats=1)
    with pytest.raises(
        ValueError, match="repeats must be at most 3, the images of an epoch, got 4"
    ):
        RepeatedAugmentation(repeats=4).order(torch.arange(3))
    with pytest.raises(ValueError, match="repeats must be >= 1, got 0"):
        repeat_samples(torch.arange(3), 0)
