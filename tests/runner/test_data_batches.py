"""Batches: crops, flips and cutouts by hand; a batch depends on seed, epoch and index alone."""

import pytest
import torch

from runner.data import Augmentation, Batches, Split
from runner.data.augmentation import crop_and_flip, cut_out_
from runner.data.batches import normalized
from tricks import Batch, Chain, ProgressiveResizing, RandomErasing, TrivialAugment

PLAIN = (torch.zeros(3), torch.full((3,), 1 / 255))  # under these, the inputs are the pixels


def split_of(count, channels=3, height=6, width=5):
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(
        0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8
    )
    return Split(images, torch.arange(count))


def pixels(batches, epoch=0):
    return torch.cat([batch.inputs for batch in batches.epoch(epoch)]).round().to(torch.uint8)


def black_padded(image, by):
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * by, width + 2 * by, dtype=image.dtype)
    padded[:, by : by + height, by : by + width] = image
    return padded


@pytest.mark.parametrize("padding", [0, 1, 2, 7])
def test_a_crop_is_the_slice_at_its_offset_and_a_flip_mirrors_left_and_right(padding):
    images = split_of(1).images
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            offsets = torch.tensor([[top, top], [left, left]])
            both = crop_and_flip(
                images.expand(2, -1, -1, -1), padding, offsets, torch.tensor([False, True])
            )
            slice_ = black_padded(images[0], padding)[:, top : top + 6, left : left + 5]
            assert torch.equal(both[0], slice_)
            assert torch.equal(both[1], slice_.flip(2))


def test_each_sample_is_cropped_and_flipped_by_its_own_draw():
    images = split_of(3).images
    offsets, flips = torch.tensor([[0, 2, 1], [2, 0, 1]]), torch.tensor([True, False, False])
    got = crop_and_flip(images, 1, offsets, flips)
    assert torch.equal(got[0], black_padded(images[0], 1)[:, 0:6, 2:7].flip(2))
    assert torch.equal(got[1], black_padded(images[1], 1)[:, 2:8, 0:5])
    assert torch.equal(got[2], images[2])


def test_a_crop_of_16_bits_moves_them_as_they_are_and_gathers_none_as_uint16(monkeypatch):
    real = torch.Tensor.gather

    def gather(tensor, *given):
        assert tensor.dtype != torch.uint16  # which torch does not do on a card
        return real(tensor, *given)

    monkeypatch.setattr(torch.Tensor, "gather", gather)
    images = torch.tensor([[1, 65535], [32768, 4]]).view(1, 1, 2, 2)
    draw = torch.tensor([[0], [1]]), torch.tensor([True])
    got = crop_and_flip(images.to(torch.uint16), 1, *draw)
    assert got.dtype == torch.uint16
    assert torch.equal(got.long(), crop_and_flip(images, 1, *draw))


def test_every_offset_is_drawn_about_equally_often():
    draw = Augmentation(crop=1).draw(9000, (6, 5), torch.Generator().manual_seed(0))
    times = (3 * draw.offsets[0] + draw.offsets[1]).bincount(minlength=9)
    assert len(times) == 9
    assert ((times - 1000).abs() < 150).all()  # five standard deviations of 30


def test_half_of_the_images_are_flipped_in_a_run_of_batches():
    split = split_of(1)
    split = Split(split.images.expand(4000, -1, -1, -1), torch.zeros(4000, dtype=torch.int64))
    got = pixels(Batches(split, 500, *PLAIN, Augmentation(flip=True)))
    same = (got == split.images[0]).flatten(1).all(1)
    mirrored = (got == split.images[0].flip(2)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 2000) < 160  # five standard deviations of 32


def test_a_crop_in_a_batch_pads_with_black_and_not_with_the_mean():
    split = Split(torch.full((200, 3, 4, 4), 200, dtype=torch.uint8), torch.zeros(200).long())
    batches = Batches(split, 200, torch.full((3,), 0.5), torch.ones(3), Augmentation(crop=2))
    (batch,) = batches.epoch(0)
    torch.testing.assert_close(batch.inputs.unique(), torch.tensor([-0.5, 200 / 255 - 0.5]))


@pytest.mark.parametrize(
    ("side", "centre", "rows", "columns"),
    [
        (2, (0, 0), (0, 1), (0, 1)),  # rows -1 and 0: one is left
        (2, (5, 4), (4, 6), (3, 5)),
        (3, (0, 4), (0, 2), (3, 5)),
        (3, (3, 2), (2, 5), (1, 4)),
        (4, (3, 2), (1, 5), (0, 4)),
        (1, (5, 0), (5, 6), (0, 1)),
    ],
)
def test_a_cutout_is_the_square_around_its_centre_clipped_at_the_border(
    side, centre, rows, columns
):
    inputs = torch.rand(2, 3, 6, 5) + 1
    wanted = inputs.clone()
    wanted[1, :, rows[0] : rows[1], columns[0] : columns[1]] = 0
    top = 2 - side // 2
    wanted[0, :, top : top + side, top : top + side] = 0  # the first has its own, around (2, 2)
    cut_out_(inputs, side, torch.tensor([[2, centre[0]], [2, centre[1]]]))
    assert torch.equal(inputs, wanted)


def test_a_cutout_may_be_at_any_pixel_and_has_the_value_of_the_mean():
    split = Split(torch.full((600, 3, 3, 4), 255, dtype=torch.uint8), torch.zeros(600).long())
    batches = Batches(split, 600, torch.full((3,), 0.2), torch.ones(3), Augmentation(cutout=1))
    (batch,) = batches.epoch(0)
    cut = batch.inputs == 0
    assert (cut.sum((2, 3)) == 1).all()
    times = cut[:, 0].flatten(1).int().argmax(1).bincount(minlength=12)
    assert ((times - 50).abs() < 35).all()  # five standard deviations of 7


def test_each_sample_and_each_batch_has_its_own_draws():
    split = split_of(1)
    split = Split(split.images.expand(64, -1, -1, -1), torch.zeros(64, dtype=torch.int64))
    batches = Batches(split, 32, *PLAIN, Augmentation(crop=2))
    one, other = (batch.inputs for batch in batches.epoch(0))
    assert len(one.unique(dim=0)) > 10
    assert not torch.equal(one, other)
    assert not torch.equal(one, next(batches.epoch(1)).inputs)
    seeded = Batches(split, 32, *PLAIN, Augmentation(crop=2), seed=1)
    assert not torch.equal(one, next(seeded.epoch(0)).inputs)


def test_switching_one_augmentation_on_does_not_change_the_draws_of_another():
    def draw(**fields):
        return Augmentation(**fields).draw(50, (6, 5), torch.Generator().manual_seed(3))

    everything, crop, flip = draw(crop=2, flip=True, cutout=2), draw(crop=2), draw(flip=True)
    assert torch.equal(everything.offsets, crop.offsets)
    assert torch.equal(everything.flips, flip.flips)
    assert torch.equal(everything.centres, draw(cutout=2).centres)
    assert not crop.flips.any()
    assert not flip.offsets.any()


def test_pixels_are_normalised_as_written():
    split = split_of(40)
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 1 / 255])
    (batch,) = Batches(split, 40, mean, std).epoch(0)
    each = (1, 3, 1, 1)
    wanted = (split.images.double() / 255 - mean.view(each).double()) / std.view(each).double()
    assert batch.inputs.dtype == torch.float32
    torch.testing.assert_close(batch.inputs.double(), wanted, rtol=1e-5, atol=1e-5)


def test_without_shuffling_the_batches_are_the_split_in_order_with_a_ragged_last_one():
    split = split_of(10)
    batches = Batches(split, 4, *PLAIN)
    got = list(batches.epoch(5))
    assert len(batches) == len(got) == 3
    assert all(isinstance(batch, Batch) for batch in got)
    assert [len(batch.targets) for batch in got] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.targets for batch in got]), torch.arange(10))
    assert torch.equal(pixels(batches), split.images)


def test_an_empty_split_has_no_batches():
    batches = Batches(split_of(0), 4, *PLAIN)
    assert len(batches) == 0
    assert list(batches.epoch(0)) == []


def test_an_epoch_is_a_permutation_that_differs_between_epochs_and_seeds():
    split = split_of(100)

    def order(seed, epoch):
        batches = Batches(split, 30, *PLAIN, seed=seed, shuffle=True)
        return torch.cat([batch.targets for batch in batches.epoch(epoch)])

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for one in orders:
        assert torch.equal(one.sort().values, torch.arange(100))
    assert len({tuple(one.tolist()) for one in orders}) == 4
    assert torch.equal(orders[0], order(0, 0))


@pytest.mark.parametrize("size", [1, 3, 4, 11, 12, 13])
def test_the_last_batch_is_left_out_if_it_is_smaller(size):
    whole = list(Batches(split_of(12), size, *PLAIN, shuffle=True).epoch(1))
    kept = Batches(split_of(12), size, *PLAIN, shuffle=True, drop_last=True)
    got = list(kept.epoch(1))
    assert len(kept) == len(got) == 12 // size
    assert all(len(batch.targets) == size for batch in got)
    for one, other in zip(got, whole, strict=False):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def unequal(sizes):
    """A split of classes of these sizes, not in order, in which the pixels tell the sample."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return Split(images, labels)


def test_balanced_each_class_is_drawn_equally_often_and_each_sample_of_it_too():
    sizes, epochs = (100, 10, 0, 2), 200
    split = unequal(sizes)
    batches = Batches(split, 16, *PLAIN, shuffle=True, balanced=True)
    orders = [batches.order(epoch) for epoch in range(epochs)]
    assert all(len(order) == 112 for order in orders)
    times = torch.cat(orders).bincount(minlength=112).double()
    for label, size in enumerate(sizes):
        found = times[split.labels == label]
        expected = 112 * epochs / 3 / max(1, size)  # of the three classes that there are
        assert ((found - expected).abs() < 5 * expected**0.5).all()
    assert len({tuple(order.tolist()) for order in orders}) == epochs
    assert torch.equal(batches.order(7), orders[7])
    other = Batches(split, 16, *PLAIN, shuffle=True, balanced=True, seed=1)
    assert not torch.equal(other.order(7), orders[7])
    for inputs, targets, *_ in batches.epoch(7, start=3):  # the images keep their labels
        assert torch.equal(split.labels[inputs[:, 0, 0, 0].round().long()], targets)


def test_the_first_samples_are_those_of_the_whole_batch():
    everything = Augmentation(crop=1, flip=True, cutout=2)
    chain = Chain(TrivialAugment(), RandomErasing())
    for given in (
        *({}, {"augmentation": everything}, {"transforms": (darker,)}),
        {"trick": chain, "augmentation": everything},
    ):
        batches = Batches(split_of(20), 12, *PLAIN, seed=3, shuffle=True, **given)
        whole, first = next(batches.epoch(0)), batches.first(5)
        assert torch.equal(first.inputs, whole.inputs[:5])
        assert torch.equal(first.targets, whole.targets[:5])


def test_of_images_that_tricks_make_smaller_the_same_part_is_cut_out():
    split = Split(torch.full((40, 3, 32, 16), 9, dtype=torch.uint8), torch.arange(40))
    chains = Chain(), Chain(ProgressiveResizing(since=0.0, until=1.0, step=1))
    given = {"augmentation": Augmentation(cutout=8), "seed": 5}
    whole, small = (
        next(Batches(split, 40, *PLAIN, trick=chain, **given).epoch(0)).inputs == 0
        for chain in chains
    )
    assert small.shape == (40, 3, 16, 8)
    assert torch.equal(whole[:, :, 1::2, 1::2], small)


def darker(image):
    return image // int(torch.randint(2, 5, ()))


def test_shuffled_images_keep_their_labels():
    split = split_of(100)
    for inputs, targets, *_ in Batches(split, 30, *PLAIN, shuffle=True).epoch(0):
        assert torch.equal(inputs.round().to(torch.uint8), split.images[targets])


def test_a_batch_depends_on_seed_epoch_and_index_alone():
    everything = Augmentation(crop=1, flip=True, cutout=2)
    arguments = (split_of(50), 8, *PLAIN, everything, 7, True)
    whole = list(Batches(*arguments).epoch(3))
    torch.manual_seed(123)
    torch.rand(5)
    for start in (0, 1, 4, 6):
        late = list(Batches(*arguments).epoch(3, start=start))
        assert len(late) == 7 - start
        for one, other in zip(late, whole[start:], strict=True):
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.targets, other.targets)
    assert list(Batches(*arguments).epoch(3, start=7)) == []


def test_making_batches_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    list(Batches(split_of(50), 8, *PLAIN, Augmentation(2, True, 2), shuffle=True).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_shares_no_memory_with_the_split():
    split = split_of(10)
    kept = Split(split.images.clone(), split.labels.clone())
    for inputs, targets, *_ in Batches(split, 4, *PLAIN).epoch(0):
        inputs.zero_()
        targets.zero_()
    assert torch.equal(split.images, kept.images)
    assert torch.equal(split.labels, kept.labels)


def test_inputs_have_the_requested_memory_format_and_the_same_values():
    arguments, everything = (split_of(8), 8, *PLAIN), Augmentation(1, True, 2)
    (plain,) = Batches(*arguments, everything).epoch(0)
    (last,) = Batches(*arguments, everything, memory_format=torch.channels_last).epoch(0)
    assert plain.inputs.is_contiguous()
    assert last.inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain.inputs, last.inputs)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_normalised_inputs_are_the_same_bits_in_both_memory_formats(dtype, channels):
    images = torch.randint(0, 250, (4, channels, 5, 7)).to(dtype)
    scale, shift = torch.rand(2, 1, channels, 1, 1)
    expected = images.to(torch.float32).mul(scale).add(shift)
    for form in (torch.contiguous_format, torch.channels_last):
        found = normalized(images, scale, shift, form)
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=form)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the batches on a CUDA device: no device")
def test_batches_of_a_cuda_split_are_made_on_its_device():
    split = split_of(50).to(torch.device("cuda"))
    batches = Batches(split, 8, *PLAIN, Augmentation(1, True, 2), shuffle=True)
    before = torch.cuda.get_rng_state()
    one, other = list(batches.epoch(0)), list(batches.epoch(0, start=2))
    assert one[0].inputs.is_cuda
    assert one[0].targets.is_cuda
    assert torch.equal(one[2].inputs, other[0].inputs)
    assert torch.equal(before, torch.cuda.get_rng_state())
