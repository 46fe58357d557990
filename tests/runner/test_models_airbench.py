"""The network of `model=airbench` is that of the paper."""

import copy

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from runner.errors import UserError
from runner.models import airbench
from tests.conftest import run_in, settings

SMALL = {"widths": (5, 6, 7)}


def test_it_has_the_papers_layers_and_sizes():
    model = airbench(channels=3, classes=10)
    filters = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    trained = 24 * 12 + 24 + filters + 2 * (64 + 256 + 256) + 256 * 10
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained == 1_971_640
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    first = 24 * 12 * 31**2
    group = 9 * (31**2 * 24 * 64 + 15**2 * 64 * 64)
    group += 9 * (15**2 * 64 * 256 + 2 * 7**2 * 256 * 256 + 3**2 * 256 * 256)
    assert counter.get_total_flops() / 2 == first + group + 256 * 10
    sequence = [m for m in model.modules() if not [*m.children()]]
    kinds = [type(m).__name__ for m in sequence]
    group = ["Conv2d", "MaxPool2d", "BatchNorm2d", "GELU", "Conv2d", "BatchNorm2d", "GELU"]
    assert kinds == ["Conv2d", "GELU", *3 * group, "Linear"]


def test_it_computes_the_papers_function():
    torch.manual_seed(0)
    model = airbench(**SMALL, channels=3, classes=4).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2)
    w = model.state_dict()

    def norm(x, name):
        mean, var, bias = (w[f"{name}.{k}"] for k in ("running_mean", "running_var", "bias"))
        shape = 1, -1, 1, 1
        return (x - mean.view(shape)) / (var.view(shape) + 1e-12).sqrt() + bias.view(shape)

    images = torch.randn(2, 3, 32, 32)
    x = F.gelu(F.conv2d(images, w["conv.weight"], w["conv.bias"]))
    for k in range(3):
        name = f"groups.{k}"
        x = F.max_pool2d(F.conv2d(x, w[f"{name}.conv1.weight"], padding=1), 2)
        x = F.gelu(norm(x, f"{name}.norm1"))
        x = F.conv2d(x, w[f"{name}.conv2.weight"], padding=1)
        x = F.gelu(norm(x, f"{name}.norm2"))
    logits = F.max_pool2d(x, 3).flatten(1) @ w["classifier.weight"].T / 9
    torch.testing.assert_close(model(images), logits)


def test_the_weights_of_its_norms_stay_one():
    model = airbench(**SMALL, channels=1, classes=3)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 6
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    F.cross_entropy(model(torch.randn(4, 1, 28, 28)), torch.arange(4) % 3).backward()
    optimizer.step()
    for norm in norms:
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert norm.bias.any()
        assert (norm.momentum, norm.eps) == (0.4, 1e-12)  # the paper's .6 is 1 - torch's


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(9, 9), (28, 28), (64, 33), (96, 96)])
def test_it_takes_images_of_other_sizes_and_bands(channels, size):
    model = airbench(**SMALL, channels=channels, classes=7)
    assert model(torch.randn(2, channels, *size)).shape == (2, 7)
    assert model.conv.out_channels == 8 * channels


def test_smaller_images_are_refused_with_what_it_takes(tmp_path):
    with pytest.raises(UserError, match=r"airbench.* does not take images of 1 x 8 x 8"):
        run_in(tmp_path, "model=airbench", "model.widths=[4,4,4]", "epochs=1")


def test_it_can_be_traced_copied_and_compiled_to_a_graph():
    model = airbench(**SMALL, channels=3, classes=4).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(torch.fx.symbolic_trace(model)(images), model(images))
    assert torch.equal(copy.deepcopy(model)(images), model(images))
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widths": ()}, r"model\.widths must be .*one for each group, got \[\]"),
        ({"widths": (4, 0, 4)}, r"model\.widths must be .*got \[4, 0, 4\]"),
        ({"widths": (10**5, 4, 4)}, r"model\.widths=.* make about .* weights"),
        ({"norm_momentum": 0.0}, r"model\.norm_momentum must be > 0 and <= 1, got 0\.0"),
        ({"logit_scale": 0.0}, r"model\.logit_scale must be > 0, got 0\.0"),
    ],
)
def test_an_impossible_network_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        airbench(**given, channels=3, classes=10)


def test_the_config_is_that_of_the_function():
    node = settings("model=airbench").model
    plain = OmegaConf.create(node)
    assert plain._target_ == "runner.models.airbench"
    assert [*plain.widths] == [64, 256, 256]
    assert plain.norm_momentum == 0.4
    assert plain.logit_scale == 1 / 9
