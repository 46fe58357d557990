"""Exports of a trained model give its answers, to whoever loads them; or there are none."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from runner import data, predict
from runner.export import main
from runner.trained import export, forms, load_run
from tests.conftest import ROOT, run_in
from tests.faults.images import picture, write

SHORT = ("epochs=1", "batch_size=512", "name=x")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("exported") / "seed=0"
    run_in(place, *SHORT, "model.width=2")
    return place


@pytest.fixture(scope="module")
def smooth(tmp_path_factory):
    """A run with an anti-aliased network."""
    place = tmp_path_factory.mktemp("smooth") / "seed=0"
    run_in(place, *SHORT, "model.width=2", "tricks=[anti_aliasing]")
    return place


def code(*arguments):
    """Run the command; give back its exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code
    return 0


def images(count, height=8, width=8, channels=1):
    pixels = np.random.default_rng(count).integers(0, 256, (count, channels, height, width))
    return torch.from_numpy(pixels.astype(np.uint8))


def session(file):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(file.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("which", ["run", "smooth"])
def test_onnx_takes_any_number_and_size_of_images_and_tells_of_itself(
    which, tmp_path, capfd, request
):
    run, file = request.getfixturevalue(which), tmp_path / "x.onnx"
    assert code(run, "--to", "onnx", file) == 0
    out, complaint = capfd.readouterr()
    assert (out.count("\n"), complaint) == (1, "")
    found, model = session(file), load_run(run)
    for size in ((1, 8, 8), (5, 11, 17)):
        given = images(*size)
        logits = found.run(["logits"], {"images": given.numpy()})[0]
        assert np.abs(logits - model.answer(given).numpy()).max() < 1e-4
    told = json.loads((tmp_path / "x.onnx.json").read_text())
    inside = found.get_modelmeta().custom_metadata_map
    assert json.loads(inside["classes"]) == told["classes"] == [*map(str, range(10))]
    assert told["input"]["shape"] == ["N", 1, "H", "W"]
    assert b"/tricks/" not in file.read_bytes()  # no path of the machine


@pytest.mark.slow
@pytest.mark.parametrize("which", ["run", pytest.param("smooth", marks=pytest.mark.slow)])
def test_a_program_of_torch_takes_any_number_and_size_of_images(which, tmp_path, request):
    run, file = request.getfixturevalue(which), tmp_path / "x.pt2"
    assert code(run, "--to", "torch", file, "--normalized") == 0
    model, told = load_run(run), json.loads((tmp_path / "x.pt2.json").read_text())
    prepare = told["preparing"]
    for size in ((1, 8, 8), (5, 11, 17)):
        given = images(*size)
        inputs = (given / prepare["white"] - prepare["mean"][0]) / prepare["std"][0]
        logits = torch.export.load(file).module()(inputs)
        assert torch.allclose(logits, model.answer(given), atol=1e-4)
    assert prepare["normalising is"] == "yours to do"
    assert b"/tricks/" not in file.read_bytes()


def test_the_weights_are_those_of_the_network(run, tmp_path):
    assert code(run, "--to", "state_dict", tmp_path / "x.pt") == 0
    model, state = load_run(run), torch.load(tmp_path / "x.pt", weights_only=True)
    own = model.network.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(state[key], own[key]) for key in own)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize("what", ["scale", "shift", "a blur"])
def test_an_export_that_differs_is_refused_and_nothing_is_left(
    smooth, tmp_path, monkeypatch, capsys, kind, what
):
    whole = export.Whole

    class Wrong(whole):
        def __init__(self, model):
            super().__init__(model)
            if what == "a blur":
                blurred = next(m for m in self.network.modules() if m._forward_hooks)
                blurred._forward_hooks.clear()
                blurred.register_forward_hook(lambda _, __, output: output[..., ::2, ::2])
            else:
                getattr(self, what).mul_(1.01)

    monkeypatch.setattr(export, "Whole", Wrong)
    assert code(smooth, "--to", kind, tmp_path / "x") == 1
    assert "is not written: its logits differ from the original's by" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_weights_that_differ_are_refused_and_nothing_is_left(run, tmp_path, monkeypatch, capsys):
    save = forms.state_dict

    def spoiled(network):
        network.classifier.bias[0] += 0.01
        return save(network)

    monkeypatch.setattr(forms, "state_dict", spoiled)
    assert code(run, "--to", "state_dict", tmp_path / "x") == 1
    assert "is not written: its logits differ from the original's by" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_a_size_that_the_network_ties_itself_to_is_kept_and_said(
    run, tmp_path, monkeypatch, capsys
):
    whole = export.Whole

    class Tied(whole):
        def forward(self, images):
            assert images.shape[2:] == (8, 8)
            return super().forward(images)

    monkeypatch.setattr(export, "Whole", Tied)
    assert code(run, "--to", "torch", tmp_path / "x") == 0
    assert "it takes images of 8 x 8 pixels alone, as the run's" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["input"]["shape"] == ["N", 1, 8, 8]


def test_what_is_wrong_is_one_line(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(run / "model.pt", "alone.pt")
    (tmp_path / "mine.txt").write_text("mine")
    for arguments, line in (
        (("RUN", "--to", "torch", "no/x"), "The folder no does not exist. Create it."),
        (("RUN", "--to", "torch", "mine.txt"), "mine.txt is there already, and is no export."),
        (("alone.pt", "--to", "torch", "x"), "The run's own test images cannot be read: "),
        (("RUN", "--to", "torch", "x", "--images", "no"), "no does not exist. Give image files"),
    ):
        assert code(*(run if each == "RUN" else each for each in arguments)) == 1
        complaint = capsys.readouterr().err
        assert complaint.startswith(line), complaint
        assert complaint.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.pt", "mine.txt"]


@pytest.mark.slow
def test_the_script_of_the_page_gives_the_classes_of_predict(tmp_path):
    root, script = tmp_path / "root", tmp_path / "script.py"
    for number in range(60):
        split, name = ("train", "test")[number % 3 == 0], "ab"[number % 2]
        write(
            root, f"{split}/{name}/{number}.jpg", picture(number, 20, 12) // (1 + 3 * (name == "a"))
        )
    data = ("data=image_folder", f"data.root={root}", f"data.cache={tmp_path}", "data.size=9")
    run_in(tmp_path / "run", *data, "epochs=5", "model.width=2", "name=x", "batch_size=8")
    assert code(tmp_path / "run", "--to", "onnx", tmp_path / "x.onnx") == 0
    predict.main([str(tmp_path / "run"), str(root / "test"), "--csv", str(tmp_path / "x.csv")])
    rows = [line.split(",")[:2] for line in (tmp_path / "x.csv").read_text().splitlines()[1:]]
    page = (ROOT / "docs/data.md").read_text()
    script.write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[-1])
    command = [sys.executable, script, tmp_path / "x.onnx", *(name for name, _ in rows)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [" ".join(row) for row in rows]
    assert {found for _, found in rows} == {"a", "b"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The map at")
@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize(
    "given",
    [
        ("model=torchvision", "model.name=mobilenet_v3_small"),
        ("model=torchvision", "model.name=resnet18", "tricks=[anti_aliasing]"),
        ("model=timm", "model.name=mobilenetv3_small_050"),
        (
            "precision=bfloat16",
            "allow_emulated=true",
            "memory_format=channels_last",
            "model.width=6",
        ),
    ],
    ids=lambda given: given[-1],
)
def test_other_networks_can_be_exported(tmp_path, given, kind):
    run_in(tmp_path / "run", *SHORT, *given)
    file = tmp_path / "x"
    assert code(tmp_path / "run", "--to", kind, file) == 0
    told = json.loads((tmp_path / "x.json").read_text())
    # whose maps of one pixel torch.export takes for a case of its own
    fixed = kind == "torch" and "tricks=[anti_aliasing]" in given
    assert told["input"]["shape"] == ["N", 1, *([8, 8] if fixed else ["H", "W"])]
    given = data.digits().test.images[:40]
    model = load_run(tmp_path / "run")
    model.precision = "float32"
    if kind == "torch":
        logits = torch.export.load(file).module()(given)
    else:
        logits = torch.from_numpy(session(file).run(None, {"images": given.numpy()})[0])
    assert torch.equal(logits.argmax(1), model.answer(given).argmax(1))
    assert isinstance(model.network, nn.Module)
