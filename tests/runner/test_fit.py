"""A run that its model cannot do is refused before the first update, with values that work."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from runner.build import build
from runner.data import Batches, Split
from runner.errors import UserError
from runner.fit import Fit, passed
from runner.ranks import Ranks
from tests.conftest import settings
from tests.faults.images import make_folder


def batches(count, size, channels=1, side=8):
    images = torch.arange(count * channels * side**2) % 251
    split = Split(images.view(count, channels, side, side).byte(), torch.arange(count) % 2)
    return Batches(split, size, mean=torch.zeros(channels), std=torch.ones(channels))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("micro", [None, 1, 2, 5, 7, 100])
def test_the_sizes_passed_are_those_that_the_loop_cuts(micro, drop_last):
    for count in range(1, 30):
        for size in (1, 2, 6, 7, 29, 64):
            made = replace(batches(count, size, side=1), drop_last=drop_last)
            cut = [batch.inputs.split(micro or size) for batch in made.epoch(0)]
            if cut:
                expected = {len(part) for parts in cut for part in parts}
                assert passed(count, size, micro, drop_last) == expected


@pytest.fixture(scope="module")
def small_maps(tmp_path_factory):
    """A run on 26 images of 4 x 4 pixels, which a resnet ends with one number a channel of."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("small") / "x.npz"
    images, labels = rng.integers(0, 256, (26, 4, 4), dtype=np.uint8), np.arange(26) % 2
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return settings("data=npz", f"data.file='{file}'", "data.validation=0", "model.width=2")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_size": 5}, "batch_size=5 passes one image by itself"),  # 26 = 5 x 5 + 1
        ({"batch_size": 25}, "batch_size=25 passes one image by itself"),
        ({"batch_size": 1}, "batch_size=1 passes one image by itself"),
        ({"batch_size": 2, "micro_batch_size": 1}, "micro_batch_size=1 passes one image by itself"),
        ({"batch_size": 13, "micro_batch_size": 4}, "micro_batch_size=4 passes one image by"),
        ({"batch_size": 10, "micro_batch_size": 5}, "micro_batch_size=5 passes one image by"),
        ({"batch_size": 64, "micro_batch_size": 5}, "micro_batch_size=5 passes one image by"),
        ({"batch_size": 5, "micro_batch_size": 3}, "batch_size=5 passes one image by itself"),
    ],
)
def test_one_image_that_is_left_is_refused_with_settings_that_leave_none(small_maps, changes, told):
    given = replace(small_maps, **changes)
    with pytest.raises(UserError) as refusal:
        build(given)
    text = str(refusal.value)
    assert text.startswith(told)
    assert "cifar_resnet(depth=8, width=2) cannot be trained on: Expected more than 1 value" in text
    advised = re.search(r"Set ([^.]+)\.$", text)[1].split(" or ")
    cut = given.batch_size
    assert ("drop_last=true" in advised) == (
        1 not in passed(cut, cut, given.micro_batch_size) and cut <= 26
    )
    for key, _, value in (choice.partition("=") for choice in advised):
        bench = build(replace(given, **{key: value == "true" or int(value)}))
        for batch in bench.batches.epoch(0):
            bench.training.step(batch)


def test_one_image_that_is_left_for_a_rank_is_refused(small_maps):
    two = Ranks(0, 2)
    for size, remedy in ((23, "Set drop_last=true"), (3, "Set a larger batch_size")):
        told = rf"over 2 ranks leaves one of them with a single image, .*\. {remedy}, or another"
        with pytest.raises(UserError, match=told):
            build(replace(small_maps, batch_size=size), ranks=two)
    build(replace(small_maps, batch_size=23, sync_batch_norm=True), ranks=two)
    build(replace(small_maps, batch_size=23, drop_last=True), ranks=two)
    build(replace(small_maps, batch_size=13), ranks=two)


def test_one_image_is_enough_where_the_maps_are_larger_or_nothing_is_normalised():
    build(settings("batch_size=431", "model.width=2", "data.validation=0.1"))  # 1,294 = 3 x 431 + 1
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    check(linear, batches(9, 4))


def check(model, training, evaluated=(), micro=None, resizable=True, classes=2):
    fit = Fit(model, "mine", classes, partial(torch.autocast, "cpu", enabled=False))
    fit.check(training, evaluated, micro, resizable=resizable)


class Squeeze(nn.Module):
    """A head of one's own that loses the first dimension of a single image."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, x):
        return self.linear(x.flatten(1)).squeeze()


def test_what_is_left_out_is_not_passed(small_maps):
    bench = build(replace(small_maps, batch_size=5, drop_last=True))
    assert len(bench.batches) == bench.training.begin.updates_per_epoch == 5
    for size in (27, 1000):
        told = (
            rf"^drop_last=true leaves no batch: batch_size={size}, and there are 26 training "
            r"images\. Set batch_size=26 or less, or drop_last=false\.$"
        )
        with pytest.raises(UserError, match=told):
            build(replace(small_maps, batch_size=size, drop_last=True))
    with pytest.raises(UserError, match=r"Set micro_batch_size=5\.$"):
        build(replace(small_maps, batch_size=13, micro_batch_size=4, drop_last=True))


def test_an_image_that_is_left_for_the_test_is_refused_too():
    check(Squeeze(), batches(8, 4), [batches(8, 4), batches(6, 4)])
    told = (
        r"^batch_size=4 passes one image by itself, which mine cannot be evaluated on: it returns "
        r"\[2\], not logits \[1, 2\]\. Set batch_size=3 or batch_size=5\.$"
    )
    with pytest.raises(UserError, match=told):
        check(Squeeze(), batches(8, 4), [batches(8, 4), batches(9, 4)])
    with pytest.raises(UserError, match=r"evaluated on: .* or give each split more images\."):
        check(Squeeze(), batches(8, 4), [batches(1, 4)])


class Picky(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.side, self.linear = side, nn.Linear(1, 2)

    def forward(self, x):
        if x.shape[-1] != self.side:
            raise ValueError(f"Expected {self.side} but got {x.shape[-1]}!")
        return self.linear(x.mean((2, 3)))


class Failing(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return self.outputs(x)


FLAT = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten())


@pytest.mark.parametrize(
    ("model", "resizable", "told"),
    [
        (Picky(224), True, "Expected 224 but got 8 (test_fit.py, line N). Set data.size=224."),
        (Picky(224), False, ". It takes 224 x 224: resize the images, or choose another model."),
        (nn.AvgPool2d(40), True, "Output size is too small. Correct the model, or choose another."),
        (nn.Conv2d(3, 2, 3), True, "to have 3 channels, but got 1 channels instead. Correct the"),
        (
            nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten()),
            False,
            ": it returns [2, 64], not logits [2, 99]. Correct the model, or",
        ),
        (
            nn.Sequential(nn.AdaptiveAvgPool2d(10), nn.Flatten()),
            False,
            ": it returns [2, 100], not logits [2, 99]. Correct the model, or",  # of no class
        ),
        (nn.Identity(), True, ": it returns [2, 1, 8, 8], not logits [2, 99]. Correct the model"),
        (Failing(lambda x: (x, x)), True, ": it returns a tuple, not logits. Correct the model"),
        (Failing(lambda x: x.nonsense), True, "has no attribute 'nonsense' (test_fit.py, line "),
    ],
)
def test_a_model_that_does_not_take_the_images_is_refused_with_those_that_it_takes(
    model, resizable, told
):
    classes = 2 if isinstance(model, Picky) else 99
    with pytest.raises(UserError) as refusal:
        check(model, batches(8, 4), resizable=resizable, classes=classes)
    assert str(refusal.value).startswith("model: mine does not take images of 1 x 8 x 8: ")
    assert told in re.sub(r"line \d+", "line N", str(refusal.value))


def test_a_model_that_takes_no_two_but_what_comes_is_not_refused():
    class Eight(nn.Module):
        def forward(self, x):
            assert len(x) % 8 == 0
            return x.flatten(1)[:, :2]

    check(Eight(), batches(32, 16))


def test_a_transformer_is_refused_with_its_size_and_runs_with_that(tmp_path):
    root = make_folder(tmp_path / "images")
    given = settings(
        *("data=image_folder", f"data.root='{root}'", f"data.cache='{tmp_path}'"),
        *("model=timm", "model.name=vit_tiny_patch16_224", "data.validation=0"),
    )
    told = (
        r"^model: vit_tiny_patch16_224 does not take images of 3 x 6 x 5: Input height \(6\) "
        r"doesn't match model \(224\)\. Set data\.size=224\.$"
    )
    with pytest.raises(UserError, match=told):
        build(given)
    bench = build(replace(given, data={**given.data, "size": 224}))
    bench.training.step(next(bench.batches.epoch(0)))


def test_to_try_it_moves_nothing():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    model.append(nn.Linear(144, 2))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = torch.get_rng_state()
    for each in (batches(9, 4), batches(8, 4)):
        check(model.train(), each, [batches(9, 4)])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
