"""Which residual blocks a model has, and where hooks reach their branches."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from tests.tricks.residual import Residual, Weighed, branch, conv, network, small
from tricks import anti_alias
from tricks.residual import find_blocks


def blocks_of(model):
    return find_blocks(model, "Trick", "trick")


def ends(model):
    return [block.exits[0].name for block in blocks_of(model)]


def test_a_block_is_read_whole():
    first, second, _ = blocks_of(small())
    assert first.owner == "stage1.0"
    assert first.layers == tuple(
        f"stage1.0.{layer}" for layer in ("conv1", "norm1", "relu1", "conv2", "norm2")
    )
    assert first.norm == first.exits[0].name == "stage1.0.norm2"
    assert second.exits[0].shape[1:] == (8, 112, 112)


def iadd(a, b):
    a += b
    return a


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    "add", [torch.add, iadd, lambda a, b: a.add(b), lambda a, b: a.add_(b), lambda a, b: a + b]
)
def test_every_way_to_add_is_seen(add, swapped):
    ordered = (lambda a, b: add(b.clone(), a)) if swapped else add
    model = network(Residual(branch(nn.BatchNorm2d(4)), add=ordered))
    assert ends(model) == ["2.branch.4"]


@pytest.mark.parametrize(
    "shortcut",
    [
        nn.Sequential(nn.AvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        nn.Identity(),
        nn.BatchNorm2d(4),
    ],
    ids=["projection", "identity", "norm"],
)
def test_a_shortcut_may_project_or_normalise(shortcut):
    assert ends(network(Residual(branch(), shortcut))) == ["2.branch.3"]


class Padded(nn.Module):
    """A shortcut that subsamples by a slice and pads by channels of zeros."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 8, 3, 2, padding=1), nn.BatchNorm2d(8)

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + self.norm(self.conv(x))


def test_a_shortcut_may_slice_and_pad():
    assert ends(nn.Sequential(conv(), Padded())) == ["1.norm"]


class Split(nn.Module):
    """Parts of a map added in turn within a branch, as in Res2Net."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = conv(), conv(1), conv(1), conv()

    def forward(self, x):
        first, second, third, fourth = self.conv1(x).chunk(4, 1)
        sums = self.conv2(first) + second, self.conv3(second) + third
        return x + self.conv4(torch.cat((first, *sums, fourth), 1))


class Context(nn.Module):
    """A sum of a map and of one number a channel, which is no block."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.conv1(x)
        return x + (y + self.conv2(y.mean((2, 3), keepdim=True)))


def test_sums_within_a_branch_are_no_blocks():
    assert ends(nn.Sequential(conv(), Split())) == ["1.conv4"]
    (block,) = blocks_of(nn.Sequential(conv(), Context()))
    assert block.owner == "1"
    assert block.layers == ("1.conv1", "1.conv2")


def test_the_blurs_of_a_network_that_is_anti_aliased_count():
    strided = nn.Sequential(conv(), nn.Conv2d(4, 4, 3, 2, padding=1), nn.BatchNorm2d(4))
    model = anti_alias(network(Residual(strided, nn.Conv2d(4, 4, 1, 2))))
    assert ends(model) == ["2.branch.2"]


class Three(nn.Module):
    """A sum of three, as in RepVGG."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.norm = conv(), conv(), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.conv1(x) + self.conv2(x) + self.norm(x)


class Pyramid(nn.Module):
    """A smaller map, enlarged and added, as in a feature pyramid."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, 2, 1), conv()

    def forward(self, x):
        return x + F.interpolate(self.conv2(F.relu(self.conv1(x))), scale_factor=2)


@pytest.mark.parametrize("block", [Three, Pyramid])
def test_other_sums_are_no_blocks(block):
    with pytest.raises(ValueError, match=r"Trick found no residual block in Sequential: nowhere"):
        blocks_of(nn.Sequential(conv(), block()))


def test_of_nested_blocks_the_outer_one_counts_if_it_holds_one_else_the_inner_ones():
    def inner():
        return Residual(branch())

    one, two = (Residual(nn.Sequential(*(inner() for _ in range(n)), conv())) for n in (1, 2))
    assert [block.owner for block in blocks_of(network(one))] == ["2"]
    assert [block.owner for block in blocks_of(network(two))] == ["2.branch.0", "2.branch.1"]


def test_an_attention_of_functions_is_an_end_that_no_hook_reaches_but_has_a_last_norm():
    (block,) = blocks_of(network(Weighed()))
    assert not block.exits
    assert block.closed == "the function mul, no module"
    assert block.norm == "2.norm"


def test_a_result_that_others_read_is_not_reached():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv()

        def forward(self, x):
            y = self.conv(x)
            return torch.cat((x + y, y), 1)

    (block,) = blocks_of(nn.Sequential(conv(), Read()))
    assert block.closed == "1.conv, a Conv2d, which feeds the function cat too"


class Rectified(nn.Module):
    """A branch that ends in an activation that is called before too, within a module or not."""

    def __init__(self, whole):
        super().__init__()
        self.relu, self.conv1, self.conv2 = nn.ReLU(), conv(), conv()
        self.whole = nn.Sequential(self.conv1, self.relu, self.conv2, self.relu) if whole else None

    def forward(self, x):
        if self.whole:
            return x + self.whole(x)
        return x + self.relu(self.conv2(self.relu(self.conv1(x))))


def test_a_module_that_is_called_elsewhere_is_not_reached_but_what_holds_it_is():
    (block,) = blocks_of(network(Rectified(whole=False)))
    assert not block.exits
    assert block.closed == "2.relu, a ReLU, that is called elsewhere too"
    assert ends(network(Rectified(whole=True))) == ["2.whole"]


def test_a_block_that_is_called_twice_ends_two_branches():
    block = Residual(branch())
    first, second = blocks_of(network(block, block))
    assert first.exits == second.exits
    assert first.exits[0].calls == 2


def test_reading_leaves_the_model_and_the_random_numbers_alone():
    model = small().train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    blocks_of(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 8), ("resnet50", 16), ("resnext50_32x4d", 16), ("wide_resnet50_2", 16),
        ("regnet_y_400mf", 16), ("regnet_x_400mf", 22), ("mobilenet_v2", 10),
        ("mobilenet_v3_small", 6), ("efficientnet_b0", 9), ("efficientnet_v2_s", 35),
        ("convnext_tiny", 18), ("mnasnet0_5", 10), ("swin_t", 24), ("vit_b_32", 24),
    ],
)  # fmt: skip
def test_every_block_of_the_networks_of_torchvision_is_found(name, count):
    blocks = blocks_of(torchvision.models.get_model(name))
    assert len(blocks) == count
    assert all(block.exits for block in blocks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet26d", 8), ("resnetv2_50", 16), ("regnety_002", 13), ("seresnet18", 8),
        ("gcresnet33ts", 10), ("res2net50_14w_8s", 16), ("resnest14d", 4), ("skresnet18", 8),
        ("convnext_atto", 12), ("dla34", 12), ("efficientnet_b0", 9), ("nf_resnet26", 8),
        ("cspresnet50", 13), ("darknet53", 23), ("inception_resnet_v2", 40), ("tresnet_m", 21),
    ],
)  # fmt: skip
def test_every_block_of_the_networks_of_timm_is_found(name, count):
    blocks = blocks_of(timm.create_model(name))
    assert len(blocks) == count
    assert all(block.exits for block in blocks)


@pytest.mark.parametrize("name", ["squeezenet1_0", "shufflenet_v2_x0_5"])
def test_networks_without_residual_blocks_are_refused_by_name(name):
    model = torchvision.models.get_model(name)
    with pytest.raises(ValueError, match=f"no residual block in {type(model).__name__}"):
        blocks_of(model)
