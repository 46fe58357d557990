"""What the comparison of tools rests on; it runs without the packages that it compares."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import auto, nothing, published, scale, shelf
from benchmarks.__main__ import ALL
from benchmarks.goals import Row
from benchmarks.keep_if_better import changed_digits
from runner.data.source import Split


def test_the_quick_comparison(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nothing", "--quick"])
    nothing.main()
    where_nothing_differs, _, elsewhere = capsys.readouterr().out.partition("has an effect")
    rates = {}
    for line in where_nothing_differs.splitlines():
        if line.startswith("|"):
            name, *cells = line.strip("|").split("|")
            rates[name.strip()] = [[float(x) for x in cell.split("±")] for cell in cells]
    ours = [cells for name, cells in rates.items() if "Biscuits" in name]
    assert len(ours) == 2
    assert all(rate <= 5 + 2 * error for cells in ours for rate, error in cells), rates
    assert all(rate > 45 for rate, _ in rates["keep if better, one run each"])
    assert "Biscuits" in elsewhere


def test_a_package_that_is_not_installed_is_named():
    tool = nothing.Tool("other", None, "of-others", "module_of_others")
    assert "pip install 'of-others'" in tool.missing()


def test_null_changes_of_the_digits_change_no_image_and_no_class():
    plain, changed = changed_digits(0.05, 0.8, 0, 0), changed_digits(0.05, 0.8, 3, 4)
    assert not np.array_equal(plain.train.labels, changed.train.labels)
    numbers = dict(zip(plain.test.labels.tolist(), changed.test.labels.tolist(), strict=True))
    assert sorted(numbers.values()) == list(range(10)) != list(numbers.values())
    for one, other in (plain.test, changed.test), (plain.train, changed.train):
        renamed = [(image, numbers[label]) for image, label in samples(one)]
        assert sorted(renamed) == sorted(samples(other))


def samples(split):
    return [(i.numpy().tobytes(), n.item()) for i, n in zip(*split[:2], strict=True)]


def random_images(count, monkeypatch, batch):
    monkeypatch.setattr(published, "BATCH", batch)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 10)


def test_the_published_recipe_mirrors_each_image_in_every_other_epoch(monkeypatch):
    monkeypatch.setattr(published, "TRANSLATE", 0)
    split = random_images(9, monkeypatch, batch=4)
    drawn = published.Images(split, seed=0)
    seen = [[torch.cat(each) for each in zip(*drawn.epoch(e), strict=True)] for e in range(2)]
    assert [len(labels) for _, labels in seen] == [8, 8]  # what is left over is dropped
    inputs = published.normalised(split.images)
    for epoch, (images, labels) in enumerate(seen):
        for image, label in zip(images, labels.tolist(), strict=True):
            candidates = [inputs[i] for i in range(9) if split.labels[i] == label]
            flip = bool(drawn.mirrored[label]) ^ bool(epoch)
            assert any(torch.equal(image, c.flip(-1) if flip else c) for c in candidates)


def test_the_published_recipe_shifts_each_image_by_itself_and_reflects_the_border(monkeypatch):
    split = random_images(60, monkeypatch, batch=60)
    drawn = published.Images(split, seed=0)
    inputs = torch.arange(60 * 3 * 64.0).view(60, 3, 8, 8)
    padded = F.pad(inputs, (2,) * 4, "reflect")
    shifted, found = drawn._shifted(inputs), set()
    for image, whole in zip(shifted, padded, strict=True):
        places = [(r, c) for r in range(5) for c in range(5)]
        found.add(
            [torch.equal(image, whole[:, r : r + 8, c : c + 8]) for r, c in places].index(True)
        )
    assert len(found) > 15


def test_the_published_recipe_whitens_begins_as_the_identity_and_has_two_rates(monkeypatch):
    split = random_images(300, monkeypatch, batch=30)
    model = published.make_network(published.Images(split, 0), seed=0).eval()
    with torch.no_grad():
        filtered = model.conv(published.normalised(split.images))[:, :12]
    flat = filtered.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat @ flat.T / flat.shape[1], torch.eye(12), atol=0.02, rtol=0.02)
    x = torch.randn(2, 24, 8, 8)
    torch.testing.assert_close(model.groups[0].conv1(x)[:, :24], x)
    norms, others = published.make_optimizer(model).param_groups
    assert norms["lr"] == pytest.approx(64 * others["lr"])
    assert norms["lr"] * norms["weight_decay"] == pytest.approx(
        others["lr"] * others["weight_decay"]
    )
    assert others["lr"] * 1024 == pytest.approx(1.5, rel=0.001)  # of the mean loss
    rates = [published.factor(t, 192) for t in (0, 22, 44, 192)]
    assert rates == pytest.approx([0.2, 0.6, 1.0, 0.07])


def test_the_published_recipe_averages_six_views(monkeypatch):
    class Corner(nn.Module):
        """Vote for class 1 if the pixel in the middle is bright."""

        def forward(self, x):
            middle = x[:, 0, 16, 16]
            return torch.stack([-middle, middle], 1)

    split = random_images(50, monkeypatch, batch=10)
    images = published.normalised(split.images)[:, 0]
    padded = F.pad(images[:, None], (1,) * 4, "reflect")[:, 0]
    views = [0.25 * (images[:, 16, 16] + images[:, 16, 15])]
    views += [0.125 * (padded[:, s + 16, s + 16] + padded[:, s + 16, s + 15]) for s in (0, 2)]
    labels = (sum(views) > 0).long()
    plain, averaged = published.accuracies(Corner(), Split(split.images, labels), "float32")
    assert averaged == pytest.approx(1)
    assert plain == pytest.approx((labels == (images[:, 16, 16] > 0)).float().mean().item())


@pytest.mark.slow
def test_the_choice_of_auto_is_measured_and_never_with_four_channels():
    cases = [("resnet8 of width 8", 1, 8, 4), ("resnet8 of width 4", 1, 8, 4)]
    measured, refused = auto.lines(cases, seconds=0)
    assert measured.startswith("resnet8 of width 8, 4 images of 8x8")
    assert measured.rstrip(" *").endswith((" 1 channels_last", " 1 contiguous"))
    assert refused.endswith("no multiple of 8: contiguous")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


@pytest.mark.slow
def test_the_table_of_the_shelf_has_a_row_for_each_trick(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shelf, "EACH", 0.01)
    only = ("ablation.tricks=[muon,test_time_views]", "tricks=[muon,test_time_views]")
    monkeypatch.setattr(shelf, "BENCH", (shelf.BENCH[0], "threads=1", *only))
    monkeypatch.setitem(shelf.CASES, "digits", ("epochs=1", "ablation.seeds=2"))
    monkeypatch.setattr(sys, "argv", ["shelf", "digits", "name=short"])
    shelf.main()
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split("|")[1].strip(): line.split("|") for line in lines if line[:1] == "|"}
    assert {"muon", r"test\_time\_views"} < cells.keys()
    assert cells[r"test\_time\_views"][6].strip() == "x1.00"
    assert float(cells["muon"][6].strip().removeprefix("x")) > 1
    assert Path("outputs/short/report.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "input", "done"])
def test_a_benchmark_runs_on_a_tiny_case(name, monkeypatch):
    module = importlib.import_module(f"benchmarks.{name}")
    if name == "step":
        tiny = [c._replace(rounds=1, images=min(c.images, 128)) for c in module.CASES.values()]
        cases = dict(zip(module.CASES, tiny, strict=True))
        monkeypatch.setattr(module, "CASES", cases)
    if name == "input":
        monkeypatch.setattr(module, "ROUNDS", 1)
        monkeypatch.setattr(module, "BATCHES", 2)
    rows = list(module.rows(60) if name == "done" else module.rows())
    assert len(rows) >= 2
    assert all(math.isfinite(row.figure) and "goal" in row.text() for row in rows)


def test_a_goal_is_met_from_its_own_side():
    slow = Row("a", "b", 1.2, 1.0, "s", details="6 s and 5 s")
    assert slow.text() == "a, against b: 1.20 s, goal at most 1 s: MISSED (6 s and 5 s)"
    assert slow._replace(at_least=True).is_met
    modules = (importlib.import_module(f"benchmarks.{name}") for name in ALL)
    assert all(callable(module.rows) for module in modules)


@pytest.mark.slow
def test_a_sweep_of_made_up_runs_is_measured_unpacked_and_packed():
    told = [*scale.rows(10)]
    assert "unpacked: 1" in told[1], told
    assert sum("report" in row for row in told) == 2
    assert sum("packed: TensorBoard" in row for row in told) == 2
