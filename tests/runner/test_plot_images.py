"""The pictures of what the network sees: those of the training, in a file and in TensorBoard."""

from dataclasses import replace
from io import BytesIO

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner.build import build, build_batches, build_data
from runner.data import Batches, Split
from runner.data.seen import SIDE, first_sheet, sheet, to_pixels
from runner.plot_images import COLUMNS, main, rows
from runner.run.attempt import attempt
from tests.conftest import biscuits, run_in, settings
from tricks import Chain

AUGMENTED = ("data.augment.crop=1", "data.augment.flip=true", "batch_size=50")
TINY = ("epochs=1", "model.width=2", "batch_size=600", "data.augment.flip=true")


@pytest.mark.parametrize("more", [(), ("data.sampling=balanced",), ("drop_last=true",)], ids=str)
def test_the_rows_are_the_images_that_a_training_gets(more):
    given = settings(*AUGMENTED, *more)
    data = build_data(given)
    batches = build_batches(given, data, Chain())
    samples, (originals, *epochs) = rows(batches)
    assert len(samples) == len(samples.unique()) == COLUMNS
    for sample, original in zip(samples, originals, strict=True):
        assert torch.equal(original, data.train.images_of(sample[None])[0].expand(3, -1, -1))
    for number, line in enumerate(epochs):
        seen = torch.cat([to_pixels(batch.inputs, batches) for batch in batches.epoch(number)])
        for sample, picture in zip(samples, line, strict=True):
            places = (batches.order(number)[: len(seen)] == sample).nonzero()
            assert (picture is None) == (len(places) == 0)
            if picture is not None:
                assert torch.equal(picture, seen[places[0, 0]])
    assert any(not torch.equal(epochs[0][i], originals[i]) for i in range(COLUMNS))
    assert any(p is not None and not torch.equal(p, q) for p, q in zip(*epochs[1::-1], strict=True))


CHANGING = "tricks=[trivial_augment,repeated_augmentation,progressive_resizing,mixup]"


@pytest.mark.parametrize("micro", [None, 30])
def test_what_tricks_do_to_images_and_batches_is_shown_as_the_training_passes_it(micro):
    given = replace(settings(CHANGING, "batch_size=400", "model.width=2"), micro_batch_size=micro)
    bench, passed = build(given), []
    bench.training.model.register_forward_pre_hook(lambda _, inputs: passed.append(inputs[0]))
    batches, classes = bench.batches, len(bench.data.classes)
    samples, (_, first, second, _) = rows(batches, micro, classes)
    shown = first_sheet(batches, micro, classes)
    for number, line in ((0, first), (1, second)):
        passed.clear()
        bench.training.epoch(batches.epoch(number))
        everything = to_pixels(torch.cat(passed), batches)
        if number == 0:
            assert torch.equal(shown, sheet(everything[:32]))
        for sample, picture in zip(samples, line, strict=True):
            places = (batches.order(number) == sample).nonzero()
            assert (picture is None) == (len(places) == 0)
            if picture is not None:
                assert torch.equal(picture, everything[places[0, 0]])
    for split in (bench.validation, bench.test):  # of the evaluation they are as they were
        plain = Batches(split.split, 400, batches.mean, batches.std)
        assert torch.equal(next(split.epoch(0)).inputs, next(plain.epoch(0)).inputs)


def of(shape, dtype=torch.uint8, value=None):
    images = (torch.arange(12 * torch.Size(shape).numel()) % 199).view(12, *shape)
    split = Split((images if value is None else images * 0 + value).to(dtype), torch.arange(12) % 3)
    count = shape[0]
    return Batches(split, 5, torch.linspace(0.1, 0.9, count), torch.linspace(0.2, 0.4, count))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_the_normalising_is_undone_for_the_first_channels(channels):
    batches = of((channels, 4, 6))
    inputs = next(batches.epoch(0)).inputs
    shown = to_pixels(inputs, batches)
    plain = batches.split.images[:5]
    expected = plain[:, :3] if channels >= 3 else plain[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(shown, expected)


def test_of_16_bits_the_contrast_is_that_of_the_normalised_values():
    batches = of((3, 4, 6), torch.uint16, value=6554)  # a tenth of white, the mean of the first
    shown = to_pixels(next(batches.epoch(0)).inputs, batches)
    assert set(shown[:, 0].unique().tolist()) <= {127, 128}
    assert set(shown[:, 2].unique().tolist()) == {0}  # two deviations below its mean


@pytest.mark.parametrize("side", [1, 8, 32, 64, 200])
def test_a_sheet_shows_all_images_in_order_large_enough_to_see(side):
    images = torch.arange(0, 240, 20, dtype=torch.uint8).view(12, 1, 1, 1).expand(-1, 3, side, side)
    laid = sheet(images)
    edge = SIDE // side * side + 4 if side <= SIDE else SIDE + 4
    assert laid.shape == (3, 2 * edge, 8 * edge)
    for number in range(16):
        row, column = divmod(number, 8)
        inside = laid[:, row * edge + 2 : (row + 1) * edge - 2, column * edge + 2 : -2]
        expected = 20 * number if number < 12 else 255
        assert (inside[:, :, : edge - 4] == expected).all()
    assert (laid[:, 0] == 255).all()


def test_tensorboard_shows_the_first_batch_of_a_run_and_nothing_else_moves(tmp_path):
    folder = tmp_path / "loud"
    folder.mkdir()
    given = settings(*TINY)
    bench = build(given)
    loud = attempt(folder, given, bench, quiet=False)
    quiet = run_in(tmp_path / "quiet", *TINY)
    assert loud["weights"] == quiet["weights"]
    event, *more = EventAccumulator(str(folder)).Reload().Images("images/train")
    assert not more
    assert event.step == 0
    shown = Image.open(BytesIO(event.encoded_image_string))
    assert shown.size == (event.width, event.height)
    pixels = torch.tensor([*shown.convert("RGB").tobytes()]).view(event.height, event.width, 3)
    first = to_pixels(next(bench.batches.epoch(0)).inputs[:32], bench.batches)
    assert torch.equal(pixels.permute(2, 0, 1).byte(), sheet(first))
    assert torch.equal(first_sheet(bench.batches), sheet(first))
    tags = EventAccumulator(str(tmp_path / "quiet")).Reload().Tags()["images"]
    assert "images/train" not in tags


def test_the_command_draws_a_picture(tmp_path, capsys):
    out = tmp_path / "a.png"
    main([*AUGMENTED, "--out", str(out), "threads=1"])
    assert capsys.readouterr().out == f"{out}  digits: the first of 1,294 images\n"
    with Image.open(out) as picture:
        assert picture.width > 1.5 * picture.height
    main(["data.sampling=balanced", "--out", str(out), "threads=1"])
    assert "note: nothing is augmented" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.augmnt.crop=1"], "Did you mean data.augment.crop?"),
        (["data.augment.transforms=[RandAugmnt]"], "Did you mean RandAugment?"),
        (["data=image_folder", "data.root=nowhere"], "nowhere"),
        (["--out", "picture.txt"], "--out must end in .png, .pdf or .svg, got picture.txt"),
        (["--out", "nowhere/a.png"], "--out: no folder nowhere. Create it first."),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_draws_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # a process of its own
def test_the_command_runs_by_its_name_and_makes_no_folder_of_a_run(tmp_path):
    code, out, complaint = biscuits(tmp_path, "data.augment.crop=1", module="runner.plot_images")
    assert (code, complaint) == (0, "")
    assert out.startswith("images.png  digits: the first of ")
    assert [path.name for path in tmp_path.iterdir()] == ["images.png"]
