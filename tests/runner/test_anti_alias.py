"""The command that lists what anti-aliasing does to a network."""

import os
import subprocess
import sys

import pytest
import torch

from runner.anti_alias import build_model, describe, main
from runner.errors import UserError
from tests.conftest import ROOT
from tricks import AntiAliasing


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "runner.anti_alias", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_table_of_resnet8_line_by_line():
    done = command("resnet8", "--size", "32", "--filter-size", "3")
    assert done.stderr == ""
    lines = [" ".join(line.split()) for line in done.stdout.strip().split("\n")]
    head = "resnet8, AntiAliasing(filter_size=3, padding_mode='reflect', first=False)"
    assert lines[0] == f"{head}, images of 32x32"
    assert lines[1] == "layer is a stride becomes map"
    assert lines[3:7] == [
        "stage2.0.conv1 convolution 2x2 stride 1, blur after stage2.0.relu1 32x32 -> 16x16",
        "stage2.0.shortcut.0 pointwise 2x2 blur before it, stride 1 32x32 -> 16x16",
        "stage3.0.conv1 convolution 2x2 stride 1, blur after stage3.0.relu1 16x16 -> 8x8",
        "stage3.0.shortcut.0 pointwise 2x2 blur before it, stride 1 16x16 -> 8x8",
    ]
    assert lines[8] == "Unchanged: no strided layer."


def test_the_multiply_adds_are_those_of_the_denser_convolutions():
    lines = describe(build_model("resnet20", 3), AntiAliasing(), 3, 32)
    stem, stage = 3 * 16 * 9 * 32**2, 16 * 16 * 9 * 32**2  # each stage's later convolutions alike
    plain = stem + 6 * stage + 2 * (stage // 2 + 5 * stage) + 2 * 16 * 32 * 16**2
    added = 2 * 3 * stage // 2  # the first of a stage at four times the pixels
    assert f"{plain / 1e6:.1f} million, anti-aliased {(plain + added) / 1e6:.1f}" in lines[-1]
    assert f"{(plain + added) / plain:.2f} times" in lines[-1]


def test_layers_left_alone_are_listed_and_the_model_is_changed():
    model = build_model("resnet18", 3)
    lines = describe(model, AntiAliasing(), 3, 64)
    assert lines[-2] == "Unchanged: conv1 (64x64 -> 32x32)."
    assert lines[2].split()[-3:] == ["32x32", "->", "16x16"], "the max-pool's map"
    assert model.layer2[0].conv1.stride == (1, 1)


def test_maps_of_one_pixel_are_accepted_since_nothing_is_trained():
    lines = describe(build_model("resnet18", 3).train(), AntiAliasing(filter_size=1), 3, 32)
    assert lines[-4].split()[-3:] == ["2x2", "->", "1x1"]


@pytest.mark.slow
def test_with_first_the_first_convolution_is_in_the_table():
    lines = command("resnet18", "--first", "--size", "64").stdout.splitlines()
    assert any(line.startswith("conv1 ") for line in lines)
    assert lines[-2] == "Unchanged: no strided layer."


def test_a_yaml_file_may_name_only_an_allowed_network(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text("_target_: runner.models.cifar_resnet\ndepth: 8\nwidth: 2\nweights: null\n")
    assert build_model(str(file), 1)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    file.write_text("_target_: os.system\n")
    with pytest.raises(UserError, match=r"tiny\.yaml\._target_ must be of runner\.models"):
        build_model(str(file), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet51"], "torchvision has no classification model resnet51. Did you mean resnet50?"),
        (["timm/dla35"], "timm has no classification model dla35. Did you mean dla34"),
        (["none.yaml"], "MODEL: no file none.yaml. Give a YAML file, or the name of a model."),
        (["resnet8", "--size", "0"], "--size must be >= 1, got 0"),
        (
            ["alexnet", "--size", "32"],
            "--size: the model does not accept images of 32 x 32 pixels: ",
        ),
        (["resnet8", "--filter-size", "9"], "filter_size must be 1 to 7 (taps a side), got 9"),
        (["inception_v3"], "Inception3.Mixed_6a must downsample by modules, got the function maxp"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    if "timm/" in arguments[0]:
        pytest.importorskip("timm", reason="timm is not installed: its models are skipped")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
