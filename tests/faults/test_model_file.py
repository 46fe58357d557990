"""A model.pt that a stranger wrote: nothing of it is executed, and each refusal is one line."""

import copy
import os
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import torch

from runner import predict
from runner.errors import UserError
from runner.store import archive
from runner.trained import load_run
from tests.conftest import run_in
from tests.faults.images import EACH, picture, write
from tests.faults.payloads import CONTROLS, ODD, OnLoad, targets

KIND = "damaged and hostile model.pt"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The content of a sound file."""
    place = tmp_path_factory.mktemp("good") / "seed=0"
    run_in(place, "epochs=1", "batch_size=512", "model.width=2", "tricks=[anti_aliasing]", "name=x")
    return torch.load(place / "model.pt", weights_only=True)


def saved(content):
    file = BytesIO()
    archive.write(content, file)
    return file.getvalue()


def refusal(path, content=None):
    """Put it into a file; give back the line that it is refused with."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else saved(content))
    with pytest.raises(UserError) as caught:
        load_run(path)
    line = str(caught.value)
    assert line.isprintable()
    assert 20 < len(line) < 1000
    assert path.name in line
    return line


def changed(good, place, value):
    """A copy with another value at a place, or without it."""
    content = copy.deepcopy(good)
    *path, last = place.split(".")
    node = content
    for key in path:
        node = node[key]
    if value is MISSING:
        del node[last]
    else:
        node[last] = value
    return content


MISSING = object()
HUGE = {"_target_": "runner.models.cifar_resnet", "depth": 8, "width": 7000}
RESNET = {"_target_": "runner.models.torchvision_model", "name": "resnet18"}
READING = {"size": 8, "resize": "stretch", "bits": 8, "bands": "auto"}
WRONG = {
    "another channel": ("architecture.channels", 3),
    "another class": ("classes", ["a", "b"]),
    "no such classes": ("classes", ["a", 1]),
    "a mean too many": ("mean", [0.5, 0.5]),
    "a mean that is no number": ("mean", [float("nan")]),
    "a deviation of nothing": ("std", [0.0]),
    "a shape of text": ("shape", "1x8x8"),
    "a shape without end": ("shape", [1, 2**62, 2**62]),
    "a size that it has not": ("reading", {**READING, "size": 9}),
    "a way to read that there is not": ("reading", {**READING, "resize": "melt"}),
    "bits that there are not": ("levels", 256),
    "a precision that there is not": ("precision", "float8"),
    "no batch": ("batch_size", 0),
    "a network that takes all memory": ("architecture.model", HUGE),
    "another network": ("architecture.model", {**HUGE, "width": 3}),
    "an unknown key": ("architecture.model", {**HUGE, "weights_file": "x"}),
    "a keyword that reads a file": (
        "architecture.model",
        {**RESNET, "_target_": "runner.models.timm_model", "kwargs": {"checkpoint_path": "bad.pt"}},
    ),
    "a keyword that loads weights": (
        "architecture.model",
        {**RESNET, "kwargs": {"weights": "DEFAULT"}},
    ),
    "an unknown trick": ("tricks", [{"_target_": "tricks.Blur"}]),
    "a trick out of range": ("tricks", [{"_target_": "tricks.AntiAliasing", "filter_size": 10**6}]),
    "a newer format": ("format", 2),
    "no number of a format": ("format", "1"),
    "weights that are no tensors": ("model", {"conv.weight": [1.0]}),
    "no weights": ("model", {}),
    "no mapping of weights": ("model", [torch.zeros(1)]),
    "weights without numbers": ("model", {"conv.weight": torch.zeros(2, 1, 3, 3, device="meta")}),
    "weights larger than their file": (
        "model",
        {"conv.weight": torch.zeros(1).expand(10**6, 10**6)},
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_it_is_refused_in_one_line(good, tmp_path, faults, case):
    refusal(tmp_path / "model.pt", changed(good, *WRONG[case]))
    faults(KIND)


SLOW = (pytest.param(key, marks=pytest.mark.slow) for key in ("shape", "tricks", "reading"))


def test_a_network_of_torchvision_is_refused_before_there_is_memory_for_it(good, tmp_path):
    large = changed(good, "architecture.model", {**RESNET, "name": "resnet50"})
    assert "its network has 23,5" in refusal(tmp_path / "model.pt", large)  # of grey


@pytest.mark.parametrize("key", ["architecture", *SLOW])
def test_a_key_that_is_missing_or_odd_is_refused(good, tmp_path, faults, key):
    for each in (key, *[k for k in good if k != "format"]):
        refusal(tmp_path / "model.pt", changed(good, each, MISSING))
    for value in [value for value in ODD.values() if value is not None]:
        refusal(tmp_path / "model.pt", changed(good, key, value))
    faults(KIND, len(good) + len(ODD))


@pytest.mark.parametrize("each", EACH)
def test_only_what_is_allowed_is_built(good, sandbox, faults, each):
    path = sandbox.folder / "model.pt"
    cases = targets(sandbox)[::each]
    for node in cases:
        for at, value in (("architecture.model", node), ("tricks", [node])):
            refusal(path, changed(good, at, value))
            assert not sandbox.mark.exists(), node
    faults(KIND, 2 * len(cases))


def test_code_in_it_is_not_executed(good, tmp_path, faults):
    mark = tmp_path / "mark"
    bite = OnLoad(Path.touch, mark)
    for place in ("model", "classes", "format", "architecture.model"):
        line = refusal(tmp_path / "model.pt", changed(good, place, bite))
        assert "holds code beside tensors and plain values" in line
    assert not mark.exists()
    faults(KIND, 4)


def test_one_that_is_cut_flipped_packed_or_no_file_is_named(good, tmp_path, faults):
    path, content = tmp_path / "model.pt", saved(good)
    for damaged in (b"", b"PK", content[:-1], content[: len(content) // 2], content + b"x"):
        assert "is damaged" in refusal(path, damaged)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    assert "is damaged" in refusal(path, bytes(flipped))
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(2**25))
    assert "is damaged" in refusal(path, packed.getvalue())
    path.unlink()
    os.mkfifo(path)
    refusal(path)
    faults(KIND, 8)


def test_names_are_shown_as_text(good, tmp_path, capsys, faults):
    classes = [f"{CONTROLS}{n}" if n % 2 else f"[bold]{'x' * 5000}{n}" for n in range(10)]
    plain = [name.encode("utf-8", "replace").decode() for name in classes]
    (tmp_path / "model.pt").write_bytes(saved(changed(good, "classes", plain)))
    write(tmp_path, "a/\x1b[31m.png", picture(0))
    predict.main([str(tmp_path / "model.pt"), str(tmp_path / "a"), "--top", "3"])
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= 100
    faults(KIND)
