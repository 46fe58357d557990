"""Test-time views: airbench's weights by hand, what can be exported, refusals."""

import copy
import io

import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.tricks.averaging import network, same
from tricks import TestTimeViews, Views

IMAGES = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def plain():
    return network().eval()


def test_the_mean_by_hand():
    """Of a model that reads the first pixel, in an image of 4 x 4 pixels, 0 to 15."""
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    read = Views(lambda images: images[:, 0, 0, :1])
    # the image and its mirror image, then each shift with its mirror image, by reflection
    assert read(image).item() == (0 + 3) / 4 + (5 + 6) / 8 + (5 + 6) / 8
    assert Views(read.model, padding_mode="zeros")(image).item() == (0 + 3) / 4 + (5 + 0) / 8


def six_views(model, images):
    """The six views of airbench's `infer_mirror_translate`, at their shares."""
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), "reflect")
    shares = {(1, 1): 0.5, (0, 0): 0.25, (2, 2): 0.25}
    total = 0
    for (down, across), share in shares.items():
        view = padded[:, :, down : down + height, across : across + width]
        total += share * (model(view) + model(view.flip(3))) / 2
    return total


def test_the_defaults_are_the_views_of_airbench():
    model = plain()
    torch.testing.assert_close(Views(model)(IMAGES), six_views(model, IMAGES))


def test_the_logits_are_averaged_not_the_probabilities():
    model = plain()
    logits = Views(model, shift=0)(IMAGES)
    torch.testing.assert_close(logits, (model(IMAGES) + model(IMAGES.flip(-1))) / 2)


@pytest.mark.parametrize("shift", [1, 2, 3])
@pytest.mark.parametrize("padding_mode", ["reflect", "zeros"])
def test_a_shift_moves_the_image_down_and_across(shift, padding_mode):
    seen = []
    Views(lambda x: seen.append(x) or x.sum((2, 3)), False, shift, padding_mode)(IMAGES)
    image, one, other = seen
    assert torch.equal(image, IMAGES)
    assert torch.equal(one[:, :, shift:, shift:], IMAGES[:, :, :-shift, :-shift])
    assert torch.equal(other[:, :, :-shift, :-shift], IMAGES[:, :, shift:, shift:])
    border = one[:, :, shift - 1, shift:]
    expected = (
        IMAGES[:, :, 1, :-shift] if padding_mode == "reflect" else torch.zeros(5, 3, 6 - shift)
    )
    assert torch.equal(border, expected)


def test_a_mirrored_image_gets_the_same_answer():
    views = Views(plain(), shift=0)
    torch.testing.assert_close(views(IMAGES), views(IMAGES.flip(-1)))


def test_a_model_that_no_view_changes_is_answered_as_by_itself():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    constant = IMAGES[:, :, :1, :1].expand(5, 3, 6, 8)
    torch.testing.assert_close(Views(model)(constant), model(constant))


def test_the_model_is_wrapped_not_changed():
    model = plain()
    before = copy.deepcopy(model.state_dict())
    wrapped = TestTimeViews().prediction(model)
    assert wrapped.model is model
    assert len(wrapped(IMAGES)) == 5
    assert same(before, model.state_dict())
    assert {name.removeprefix("model.") for name in wrapped.state_dict()} == before.keys()
    wrapped.train()
    assert model.training


def test_each_image_is_answered_by_itself_and_alike_each_time():
    views = Views(plain())
    together = views(IMAGES)
    assert torch.equal(together, views(IMAGES))
    torch.testing.assert_close(together[3:4], views(IMAGES[3:4]))
    assert views(IMAGES[:0]).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_half_precision_are_averaged_in_float32(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 3)).to(dtype)
    found = Views(model)(IMAGES.to(dtype))
    assert found.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    expected = six_views(lambda x: model(x).to(found.dtype), IMAGES.to(dtype))
    torch.testing.assert_close(found, expected)


def test_channels_last_and_maps_that_are_not_square_are_taken():
    model = nn.Sequential(nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(2, 5, 4, 9)
    expected = Views(model)(images)
    last = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(Views(model.to(memory_format=torch.channels_last))(last), expected)


def sized(views, height=6, width=6):
    """Views of a network for images of any size, and images."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return views(model.eval()), torch.randn(3, 3, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("padding_mode", ["reflect", "zeros"])
@pytest.mark.parametrize("any_size", [True, False])
def test_a_program_of_torch_gives_the_same_for_any_number_and_size(padding_mode, any_size):
    views, images = sized(lambda model: Views(model, padding_mode=padding_mode), 9, 8)
    axes = (0, 2, 3) if any_size else (0,)
    free = {axis: torch.export.Dim.DYNAMIC for axis in axes}
    exported = torch.export.export(views, (images,), dynamic_shapes={"inputs": free})
    others = [images[:2], torch.randn(7, 3, 9, 8)]
    others += [torch.randn(2, 3, 12, 7), torch.randn(4, 3, 5, 20)] if any_size else []
    for each in others:
        torch.testing.assert_close(exported.module()(each), views(each))


@pytest.mark.slow
@pytest.mark.parametrize("any_size", [True, False])
def test_a_model_of_onnx_gives_the_same(any_size):
    views, images = sized(Views)
    free = {0: torch.export.Dim.DYNAMIC}
    free |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC} if any_size else {}
    exported = torch.export.export(views, (images,), dynamic_shapes={"inputs": free})
    file = io.BytesIO()
    torch.onnx.export(exported, (), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for each in (images[:2], torch.randn(4, 3, 11, 7) if any_size else images):
        (found,) = session.run(None, {"inputs": each.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), views(each), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_model_gives_the_same():
    model = plain()
    compiled = torch.compile(model, backend="eager", dynamic=False)
    torch.testing.assert_close(Views(compiled)(IMAGES), Views(model)(IMAGES))


@pytest.mark.parametrize("padding_mode", ["reflect", "zeros"])
@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (2, 2)])
def test_a_side_that_is_not_longer_than_the_shift_is_refused(shape, padding_mode):
    views = Views(lambda x: x.sum((2, 3)), shift=3, padding_mode=padding_mode)
    words = rf"of more than 3 pixels a side .* got {shape[0]} x {shape[1]}\. Lower shift"
    with pytest.raises(ValueError, match=words):
        views(torch.ones(2, 1, *shape))
    assert views(torch.ones(2, 1, 4, 4)).shape == (2, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shift": -1}, r"shift must be >= 0 \(pixels\), got -1"),
        ({"padding_mode": "circular"}, r"padding_mode must be one of reflect, zeros, got 'circ"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, words):
    for name, kind in (("TestTimeViews", TestTimeViews), ("Views", lambda **o: Views(None, **o))):
        with pytest.raises(ValueError, match=rf"{name}\.{words}"):
            kind(**options)


def test_one_view_alone_is_refused():
    with pytest.raises(ValueError, match=r"one view alone with flip=False and shift=0"):
        TestTimeViews(flip=False, shift=0)


@pytest.mark.parametrize(("flip", "shift", "count"), [(True, 1, 6), (False, 2, 3), (True, 0, 2)])
def test_the_cost_is_told_and_that_it_is_no_gain_of_training(flip, shift, count):
    calls = []
    trick = TestTimeViews(flip, shift)
    trick.prediction(lambda x: calls.append(1) or x.sum((2, 3)))(IMAGES)
    (caveat,) = trick.caveats(10, 5)
    assert len(calls) == count
    assert caveat.startswith("it changes no training")
    assert f"costs {count} times as much" in caveat
    assert ("mirrored" in caveat) == flip
