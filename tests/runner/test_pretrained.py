"""Keywords go to the libraries' constructors; their weights are read, or a line says what to do."""

import os
import urllib.request
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch as safetensors
import timm
import torch
from torchvision import models

from runner.build import build
from runner.errors import UserError
from runner.models import timm_model, torchvision_model
from runner.models.pretrained import origin
from tests.conftest import settings
from tests.runner.test_weights import Payload

SQUEEZENET = "squeezenet1_1"
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture
def no_network(monkeypatch):
    """Each connection is refused, as without a network."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # which has read them before


@pytest.fixture
def hub(tmp_path, monkeypatch, no_network):  # noqa: ARG001
    """The folder in which torch keeps weights, with some for a SqueezeNet, and their state."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    state = models.get_model(SQUEEZENET, weights=None).state_dict()
    address = models.get_model_weights(SQUEEZENET).DEFAULT.url
    torch.save(state, folder / Path(address).name)
    return folder / Path(address).name, state


def random_one(**changes):
    torch.manual_seed(0)
    return torchvision_model(**{"name": SQUEEZENET, "channels": 3, "classes": 5, **changes})


def test_torchvisions_weights_are_loaded_and_the_classifier_is_as_without_them(hub):
    _, state = hub
    plain, model = random_one().state_dict(), random_one(pretrained=True)
    for key, value in model.state_dict().items():
        expected = plain if key.startswith("classifier") else state
        assert torch.equal(value, expected[key]), key
    found = origin(model, 3, 5)
    assert found.notes == (
        "the weights are for 1000 classes, not 5: random ones for "
        "classifier.1.weight, classifier.1.bias",
    )
    assert [each.tolist() for each in found.statistics] == [pytest.approx(v) for v in IMAGENET]
    whole = random_one(pretrained=True, classes=1000)
    assert torch.equal(whole.state_dict()["classifier.1.bias"], state["classifier.1.bias"])
    assert origin(whole, 3, 1000).notes == ()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_first_convolution_is_adapted_as_timm_does(hub, channels):
    model = random_one(pretrained=True, channels=channels)
    saved = hub[1]["features.0.weight"]
    expected = timm.models.adapt_input_conv(channels, saved.clone())
    assert torch.allclose(model.features[0].weight, expected)
    found = origin(model, channels, 5)
    assert found.statistics is None
    assert ("summed up" if channels == 1 else "repeated") in found.notes[1]


@pytest.mark.usefixtures("hub")
def test_the_inputs_of_a_run_are_normalised_as_those_of_its_weights(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, 20, 20, 3), dtype=np.uint8)
    labels = np.arange(12) % 3
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(tmp_path / "data.npz", **arrays)
    given = ("data=npz", f"data.file='{tmp_path}/data.npz'", "model=torchvision")
    given = (*given, f"model.name={SQUEEZENET}", "data.validation=0")
    bench = build(settings(*given, "model.pretrained=true"))
    pixels = torch.from_numpy(images[:1]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in IMAGENET)
    torch.testing.assert_close(next(bench.test.epoch(0)).inputs[:1], (pixels - mean) / std)
    assert bench.data.mean.tolist() == pytest.approx(IMAGENET[0])
    assert "normalised as theirs were, mean 0.485, 0.456, 0.406, std" in bench.notes[-1]
    assert build(settings(*given)).data.mean.tolist() != pytest.approx(IMAGENET[0])


@pytest.mark.parametrize("size", [0, 20])
def test_a_file_that_is_damaged_or_holds_code_is_refused(hub, size, tmp_path):
    file, state = hub
    if size:
        file.write_bytes(file.read_bytes()[:-size])
    else:
        torch.save({**state, "payload": Payload(tmp_path / "harm")}, file)
    problem = "is damaged" if size else "holds more than tensors"
    with pytest.raises(UserError, match=rf"{file.name} {problem}.*Remove it: it is then down"):
        random_one(pretrained=True)
    assert not (tmp_path / "harm").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_without_a_network_a_line_says_which_file_to_put_where(hub):
    hub[0].unlink()
    with pytest.raises(
        UserError,
        match=rf"torchvision's {SQUEEZENET} cannot be downloaded: .*refused. Put {hub[0].name} "
        rf"from https://download.pytorch.org/models/ into {hub[0].parent}, or set model.weights=F",
    ):
        random_one(pretrained=True)
    with pytest.raises(
        UserError, match=r"refused\. Take model\.safetensors from https://huggingface\.co/timm/res"
    ):
        timm_model(name="resnet18.a1_in1k", pretrained=True, channels=3, classes=3)


@pytest.mark.usefixtures("no_network")
def test_timms_weights_are_found_on_the_disk_and_what_they_lack_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    state = timm.create_model("resnet10t").state_dict()
    snapshots = tmp_path / "models--timm--resnet10t.c3_in1k"
    (snapshots / "refs").mkdir(parents=True)
    (snapshots / "refs/main").write_text("a" * 40)
    (snapshots / "snapshots" / ("a" * 40)).mkdir(parents=True)
    safetensors.save_file(state, snapshots / "snapshots" / ("a" * 40) / "model.safetensors")
    model = timm_model(name="resnet10t", pretrained=True, channels=3, classes=4)
    assert torch.equal(model.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert origin(model, 3, 4).notes == (
        "the weights are for 1000 classes, not 4: random ones for fc.weight",
    )
    grey = {"block_args": {"attn_layer": "se"}}
    model = timm_model(name="resnet10t", pretrained=True, channels=1, classes=4, kwargs=grey)
    assert "random ones for layer1.0.se.fc1.weight, layer" in origin(model, 1, 4).notes[0]


def test_both_ways_to_first_weights_are_one_too_many():
    with pytest.raises(UserError, match=r"model\.pretrained=true and model\.weights=x\.pt both"):
        build(settings("model=torchvision", "model.pretrained=true", "model.weights=x.pt"))


def test_keywords_reach_the_constructors():
    model = torchvision_model(
        name="mobilenet_v3_small", channels=1, classes=3, kwargs={"dropout": 0.75}
    )
    assert model.classifier[2].p == 0.75
    small = {"img_size": [8, 12], "patch_size": 4, "depth": 1, "embed_dim": 6}
    vit = timm_model(name="vit_tiny_patch16_224", channels=1, classes=3, kwargs=small)
    assert vit(torch.zeros(1, 1, 8, 12)).shape == (1, 3)


@pytest.mark.parametrize(
    ("make", "name", "key", "told"),
    [
        (torchvision_model, "mobilenet_v3_small", "dropot", r"dropot is not .* mean dropout\?"),
        (torchvision_model, "mobilenet_v3_small", "abc", r"dilated, dropout, .*, width_mult"),
        (torchvision_model, SQUEEZENET, "dropot", r"dropot is not a keyword of torchv.* dropout\?"),
        (torchvision_model, SQUEEZENET, "num_classes", r"num_classes comes from the data\. Rem"),
        (torchvision_model, SQUEEZENET, "weights", r"would read weights\. Set model\.pretrained"),
        (torchvision_model, SQUEEZENET, "dropout", r"does not take dropout as given: \w+Error: "),
        (timm_model, "resnet10t", "drop_pth_rate", r"of timm's resnet10t\. .* drop_path_rate\?"),
        (timm_model, "resnet10t", "in_chans", r"in_chans comes from the data\. Remove"),
        (timm_model, "resnet10t", "checkpoint_path", r"checkpoint_path would read weights\. Set"),
    ],
)
def test_a_keyword_that_is_unknown_or_given_is_refused(make, name, key, told):
    with pytest.raises(UserError, match=rf"model\.kwargs.*{told}"):
        make(name=name, channels=3, classes=3, kwargs={key: "x"})


def test_a_model_of_one_size_names_the_keyword_that_makes_it_fit():
    given = ("model=timm", "model.name=vit_tiny_patch16_224")
    small = "patch_size: 4, depth: 1, embed_dim: 6"
    with pytest.raises(UserError) as refusal:
        build(settings(*given, f"model.kwargs={{{small}}}"))
    assert str(refusal.value).endswith(
        "It takes 224 x 224: resize the images, or set +model.kwargs.img_size=8."
    )
    build(settings(*given, f"model.kwargs={{{small}, img_size: 8}}"))
    with pytest.raises(UserError, match=r"resize the images, or choose another model\."):
        build(settings(*given, f"model.kwargs={{{small.replace('4', '16')}}}"))
