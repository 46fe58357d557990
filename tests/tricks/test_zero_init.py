"""Zero initialisation: the blocks are their shortcuts, and learn all the same."""

import copy

import pytest
import torch
import torchvision
from timm.models import resnet
from torch import nn
from torch.nn import functional as F

from tests.tricks.residual import Residual, Weighed, branch, network, noise, small
from tricks import Clipping, SqueezeExcite, ZeroInit, squeeze_excite, zero_init_

IDS = torch.arange(6) % 5


def plain_network(model):
    """A network of ours without its branches."""
    for stage in (model.stage1, model.stage2, model.stage3):
        for block in stage:
            block.norm2 = nn.Conv2d(1, 1, 1).requires_grad_(False)
            block.norm2.forward = torch.zeros_like
    return model


def test_each_block_begins_as_its_shortcut():
    model = small()
    without = plain_network(copy.deepcopy(model))
    ZeroInit().initialize(model, [])
    x = noise(6, 3, 16, 16)
    torch.testing.assert_close(model(x), without(x), rtol=0, atol=0)


def test_nothing_but_the_last_norms_changes():
    model, plain = small(), small().state_dict()
    zero_init_(model)
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, plain[k])}
    assert changed == {f"stage{stage}.0.norm2.weight" for stage in (1, 2, 3)}


@pytest.mark.parametrize("block", [resnet.BasicBlock, resnet.Bottleneck])
def test_a_resnet_is_that_of_timm(block):
    ours, theirs = (
        seeded(resnet.ResNet, block, (1, 1, 1, 1), channels=(8, 8, 8, 8), zero_init_last=last)
        for last in (False, True)
    )
    zero_init_(ours)
    assert same(ours, theirs)


@pytest.mark.slow
def test_a_resnet_is_that_of_torchvision():
    ours = seeded(torchvision.models.resnet50)
    zero_init_(ours)
    assert same(ours, seeded(torchvision.models.resnet50, zero_init_residual=True))


def seeded(build, *arguments, **options):
    torch.manual_seed(0)
    return build(*arguments, **options)


def same(one, other):
    return all(map(torch.equal, one.parameters(), other.parameters()))


def norms(model):
    return [m.weight for name, m in model.named_modules() if name.endswith("norm2")]


@pytest.mark.parametrize("clipping", [Clipping(by="unit"), Clipping(by="norm")])
def test_the_weights_keep_learning_under_clipping(clipping):
    model = clipping.model(small())
    zero_init_(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for update in range(2):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(noise(6, 3, 16, 16)), IDS)
        loss.backward()
        clipping.gradients(model, optimizer, loss.detach())
        assert all(weight.grad.abs().min() > 0 for weight in norms(model))
        assert bool(model.stage1[0].conv1.weight.grad.any()) == (update > 0)
        optimizer.step()
    assert all(weight.abs().min() > 0 for weight in norms(model))


@pytest.mark.parametrize(
    "block",
    [
        Weighed(),
        Residual(branch(nn.GroupNorm(2, 4), nn.GELU())),
        Residual(branch(nn.InstanceNorm2d(4, affine=True), nn.Dropout(0.5), nn.SiLU(inplace=True))),
    ],
    ids=["gated", "group norm, GELU", "instance norm, dropout, SiLU"],
)
def test_what_has_a_slope_at_zero_may_follow_the_norm(block):
    model = network(block)
    zero_init_(model)
    norm = block.norm if isinstance(block, Weighed) else block.branch[4]
    assert not norm.weight.any()
    model(noise(2, 3, 8, 8)).square().sum().backward()
    assert norm.weight.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ([nn.BatchNorm2d(4), nn.ReLU()], r"Sequential\.2 has no last norm.*ends in 2\.branch\.5"),
        ([], r"it ends in 2\.branch\.3, a Conv2d\. Use a network whose blocks end in a norm"),
        ([nn.BatchNorm2d(4, affine=False)], r"the norm 2\.branch\.4, which has no weight\. Build"),
    ],
    ids=["ReLU", "convolution", "no weight"],
)
def test_a_branch_without_such_a_norm_is_refused(end, message):
    good, bad = Residual(branch(nn.BatchNorm2d(4))), Residual(branch(*end))
    model = network(bad, good)
    with pytest.raises(ValueError, match=message):
        zero_init_(model)
    assert good.branch[4].weight.all()


def test_a_parametrized_weight_is_refused():
    model = network(Residual(branch(nn.BatchNorm2d(4))))
    nn.utils.parametrize.register_parametrization(model[2].branch[4], "weight", nn.Identity())
    with pytest.raises(ValueError, match="whose weight is parametrized"):
        zero_init_(model)


def test_a_network_that_begins_so_already_is_refused():
    model = small()
    ZeroInit().initialize(model, [])
    with pytest.raises(ValueError, match=r"begin at 0 already: zero_init would do nothing"):
        ZeroInit().initialize(model, [])
    zero_init_(model)


def test_squeeze_and_excitation_goes_with_it():
    model = SqueezeExcite().model(small())
    ZeroInit().initialize(model, [])
    x = noise(6, 3, 16, 16)
    torch.testing.assert_close(model(x), plain_network(small())(x), rtol=0, atol=0)
    F.cross_entropy(squeeze_excite(small())(x), IDS).backward()
    F.cross_entropy(model(x), IDS).backward()
    assert all(weight.grad.abs().min() > 0 for weight in norms(model))
