"""The networks have the shapes of their papers."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn
from torchvision.models import resnet18

from runner import models
from runner.errors import UserError
from runner.models import cifar_resnet, resnet18_cifar, timm_model, torchvision_model

CONF = Path(__file__).parents[2] / "conf" / "model"
SHORTCUTS = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # parameters of option B's two, at width 16


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("depth", "option_a"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)]
)
def test_the_cifar_resnets_have_the_papers_parameters_and_two_projections(depth, option_a):
    assert count(cifar_resnet(depth=depth, channels=3, classes=10)) == option_a + SHORTCUTS


def test_the_parameters_of_resnet20_are_those_counted_by_hand():
    def block(a, b):
        return 9 * a * b + 2 * b + 9 * b * b + 2 * b

    stem, head = 9 * 3 * 16 + 2 * 16, 64 * 10 + 10
    stages = (
        3 * block(16, 16) + block(16, 32) + 2 * block(32, 32) + block(32, 64) + 2 * block(64, 64)
    )
    assert count(cifar_resnet(depth=20, channels=3, classes=10)) == stem + stages + SHORTCUTS + head


def test_resnet18_for_cifar_has_its_known_size():
    assert count(resnet18_cifar(channels=3, classes=10)) == 11_173_962


def test_resnet8_computes_the_network_of_he_et_al():
    torch.manual_seed(0)
    model = cifar_resnet(depth=8, width=5, channels=1, classes=3)
    for buffer in model.buffers():
        buffer.copy_(torch.rand_like(buffer.float()) + 0.5)  # statistics that make a difference
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    w = model.eval().state_dict()

    def norm(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(w[f"{name}.{key}"] for key in keys))

    x = image = torch.randn(2, 1, 8, 8)
    x = norm(F.conv2d(x, w["conv.weight"], padding=1), "norm").relu()
    for stage, stride in (("stage1.0", 1), ("stage2.0", 2), ("stage3.0", 2)):
        y = F.conv2d(x, w[f"{stage}.conv1.weight"], stride=stride, padding=1)
        y = norm(y, f"{stage}.norm1").relu()
        y = norm(F.conv2d(y, w[f"{stage}.conv2.weight"], padding=1), f"{stage}.norm2")
        if stride == 2:
            x = norm(F.conv2d(x, w[f"{stage}.shortcut.0.weight"], stride=2), f"{stage}.shortcut.1")
        x = (x + y).relu()
    logits = F.linear(x.mean((2, 3)), w["classifier.weight"], w["classifier.bias"])
    torch.testing.assert_close(model(image), logits)


def maps(model, stages, size):
    """Return the shapes of the outputs of some modules."""
    seen = []
    for stage in stages:
        stage.register_forward_hook(lambda _module, _inputs, y: seen.append(tuple(y.shape[1:])))
    model(torch.randn(2, 1, size, size))
    return seen


def test_maps_of_the_digits_end_at_two_by_two():
    model = cifar_resnet(depth=14, channels=1, classes=10)
    stages = (model.stage1, model.stage2, model.stage3)
    assert maps(model, stages, size=8) == [(16, 8, 8), (32, 4, 4), (64, 2, 2)]


def test_the_stem_of_resnet18_for_cifar_keeps_the_size():
    model = resnet18_cifar(channels=1, classes=10)
    assert maps(model, (model.layer1, model.layer4), size=32) == [(64, 32, 32), (512, 4, 4)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("build", [partial(cifar_resnet, depth=8, width=4), resnet18_cifar])
def test_small_images_of_one_or_three_channels_give_logits(build, channels, size):
    logits = build(channels=channels, classes=7)(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)


def test_convolutions_are_initialised_as_by_he_et_al():
    torch.manual_seed(0)
    model = cifar_resnet(depth=20, width=32, channels=3, classes=10)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        fan_out = module.out_channels * module.kernel_size[0] ** 2
        tolerance = 4 / (2 * module.weight.numel()) ** 0.5  # four standard errors of a deviation
        assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=tolerance)
        assert module.weight.abs().max() > 2.5 * module.weight.std()  # normal, not uniform
    assert len(convolutions) == 1 + 18 + 2


@pytest.mark.parametrize("build", [partial(cifar_resnet, depth=20), resnet18_cifar])
def test_the_networks_can_be_traced(build):
    model = build(channels=3, classes=10).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


def test_each_relu_is_a_module_of_its_own():
    graph = torch.fx.symbolic_trace(cifar_resnet(depth=20, channels=3, classes=10)).graph
    called = [node.target for node in graph.nodes if "relu" in str(node.target)]
    assert len(called) == len(set(called)) == 1 + 9 * 2


@pytest.mark.parametrize("depth", [2, 7, 18, 21])
def test_an_impossible_depth_is_refused(depth):
    with pytest.raises(UserError, match=rf"model\.depth must be 6n \+ 2 .*got {depth}\. Use "):
        cifar_resnet(depth=depth, channels=3, classes=10)


def test_a_width_of_zero_is_refused():
    with pytest.raises(UserError, match=r"model\.width must be >= 1 .*got 0"):
        cifar_resnet(depth=8, width=0, channels=3, classes=10)


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "googlenet"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_models_return_logits_in_training_too(name, channels):
    model = torchvision_model(name=name, channels=channels, classes=7).train()
    assert model(torch.randn(2, channels, 32, 32)).shape == (2, 7)


def test_inception_returns_logits_only():
    model = torchvision_model(name="inception_v3", channels=3, classes=7).train()
    assert model(torch.randn(2, 3, 75, 75)).shape == (2, 7)


def test_other_channels_change_only_the_inputs_of_the_first_convolution():
    torch.manual_seed(0)
    usual, changed = (
        torchvision_model(name="resnet18", channels=channels, classes=7) for channels in (3, 5)
    )
    assert str(changed.conv1) == str(usual.conv1).replace("(3,", "(5,", 1)
    assert changed.conv1.weight.shape == (64, 5, 7, 7)
    assert changed.conv1.weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.03)
    assert {n for n, _ in changed.named_parameters()} == {n for n, _ in usual.named_parameters()}


def test_with_three_channels_a_torchvision_model_is_unchanged():
    torch.manual_seed(0)
    ours = torchvision_model(name="resnet18", channels=3, classes=7).state_dict()
    torch.manual_seed(0)
    theirs = resnet18(num_classes=7).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_timm_models_take_the_channels_and_classes_of_the_data():
    model = timm_model(name="resnet10t", channels=1, classes=7)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("build", [torchvision_model, timm_model])
def test_an_unknown_name_is_refused_with_a_similar_one(build):
    with pytest.raises(
        UserError, match=r"has no .* resnet81\. Did you mean resnet\d+\? List them with"
    ):
        build(name="resnet81", channels=3, classes=10)


def test_a_detector_is_not_a_classification_model():
    with pytest.raises(UserError, match=r"torchvision has no classification model ssd300_vgg16\."):
        torchvision_model(name="ssd300_vgg16", channels=3, classes=10)


def test_without_timm_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"pip install 'biscuits-bench\[timm\]'"):
        timm_model(name="resnet18", channels=3, classes=10)


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_model_of_the_config_is_built_from_its_keys(file):
    node = OmegaConf.to_container(OmegaConf.load(file))
    name = node.pop("_target_").removeprefix("runner.models.")
    assert node.pop("weights") is None
    assert node.pop("pretrained", False) is False
    model = getattr(models, name)(**node, channels=1, classes=7)
    assert model.eval()(torch.randn(1, 1, 32, 32)).shape == (1, 7)
