"""Stochastic depth: rates and scale, torchvision's function, what it draws, where it cannot act."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.tricks.residual import Residual, Weighed, branch, conv, network, noise, small
from tricks import Batch, Chain, SqueezeExcite, StochasticDepth, Time, stochastic_depth
from tricks.stochastic_depth import BranchDrop, Masks

IDS = torch.arange(6) % 5
X = noise(6, 3, 16, 16)


def drops(model):
    return [m for m in model.modules() if isinstance(m, BranchDrop)]


def draw(trick, seed=0, x=X):
    return trick.batch(Batch(x, IDS), torch.Generator().manual_seed(seed))


def alone(trick, channels=2):
    """A network of one block, whose branch gives its input and whose stem is the identity."""
    model = nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        Residual(nn.Conv2d(channels, channels, 1, bias=False)),
    )
    for layer in (model[0], model[1].branch):
        nn.init.dirac_(layer.weight)
    return trick.model(model).train()


def test_the_rates_grow_linearly_to_the_last_block():
    """Those of torchvision end one block early, those of timm begin at 0."""
    rates = [drop.p for drop in drops(stochastic_depth(small(), rate=0.3))]
    assert rates == pytest.approx([0.1, 0.2, 0.3])
    theirs = [
        m.p
        for m in torchvision.models.efficientnet_b0(stochastic_depth_prob=0.3).modules()
        if isinstance(m, torchvision.ops.StochasticDepth)
    ]
    assert theirs[-1] == pytest.approx(0.3 * 15 / 16)


def test_the_formula_by_hand():
    trick = StochasticDepth(rate=0.6)
    model, x = alone(trick), noise(64, 2, 1, 1)
    draw(trick, x=x)
    (stays,) = trick._masks.next
    assert 0 < stays.sum() < 64
    expected = x + x * (stays / 0.4).view(-1, 1, 1, 1)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.eval()(x), 2 * x)


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_it_is_the_function_of_torchvision_with_the_same_mask(mode):
    drop, x = BranchDrop(Masks((0.2, 0.4), mode), 1), noise(6, 2, 3, 3)
    for seed in range(4):
        torch.manual_seed(seed)
        theirs = torchvision.ops.stochastic_depth(x, 0.4, mode)
        stays = theirs[:, 0, 0, 0].bool()
        drop.masks.now = torch.stack((~stays, stays))[:, : 6 if mode == "row" else 1]
        torch.testing.assert_close(drop(x), theirs)


def test_in_evaluation_it_is_the_plain_network():
    model = stochastic_depth(small()).eval()
    assert torch.equal(model(X), small().eval()(X))
    assert model.state_dict().keys() == small().state_dict().keys()


def test_on_average_a_branch_is_what_it_is():
    """The paper's claim: what training expects is what evaluation computes."""
    trick = StochasticDepth(rate=0.3)
    model, x = alone(trick, channels=1), torch.ones(40_000, 1, 1, 1)
    draw(trick, x=x)
    branches = model(x) - x
    assert branches.mean().item() == pytest.approx(1, abs=0.02)
    assert (branches == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)


def test_of_a_batch_all_samples_share_a_draw():
    trick = StochasticDepth(rate=0.5, mode="batch")
    model, x = alone(trick), noise(8, 2, 1, 1)
    seen = set()
    for seed in range(20):
        draw(trick, seed, x)
        stays = {round(v, 3) for v in ((model(x) - x) / x).flatten().tolist()}
        assert len(stays) == 1
        seen |= stays
    assert seen == {0, 2}


def test_the_same_generator_draws_the_same_masks_and_moves_no_other_stream():
    trick = StochasticDepth(rate=0.5)
    model = trick.model(small()).train()
    state = torch.get_rng_state()
    outputs = []
    for seed in (0, 0, 1):
        draw(trick, seed)
        outputs.append(model(X))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_each_sample_and_each_block_draws_for_itself():
    trick = StochasticDepth(rate=0.9)
    trick.model(small())
    draw(trick, x=noise(64, 3, 8, 8))
    masks = trick._masks.next
    assert masks.shape == (3, 64)
    assert masks.any(0).logical_not().any()
    assert not torch.equal(masks[1], masks[2])
    assert masks.float().mean(1).tolist() == pytest.approx([0.7, 0.4, 0.1], abs=0.15)


def test_a_pass_without_a_batch_before_it_leaves_nothing_out():
    trick = StochasticDepth(rate=0.9)
    model, plain = trick.model(small()).train(), small().train()
    draw(trick)
    assert not torch.equal(model(X), plain(X))
    state = torch.get_rng_state()
    for x in (X, noise(4, 3, 16, 16)):
        assert torch.equal(model(x), plain(x))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_evaluation_between_batch_and_pass_uses_no_masks_up():
    trick = StochasticDepth(rate=0.9)
    model = trick.model(small())
    draw(trick)
    assert torch.equal(model.eval()(X), small().eval()(X))
    assert not torch.equal(model.train()(X), small().train()(X))


def test_the_plain_form_draws_anew_from_the_global_generator():
    model = stochastic_depth(small(), rate=0.9).train()
    torch.manual_seed(1)
    first, second = model(X), model(x=X)
    torch.manual_seed(1)
    assert torch.equal(model(X), first)
    assert not torch.equal(first, second)


def test_frozen_norms_do_not_stop_it():
    model = stochastic_depth(small(), rate=0.9).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(model(X), model(X))


def test_what_is_computed_again_in_the_backward_pass_has_the_same_masks():
    class Checkpointed(nn.Module):
        def __init__(self, saves):
            super().__init__()
            torch.manual_seed(0)
            self.blocks, self.saves = network(Residual(branch())), saves

        def forward(self, x):
            if self.saves and self.training:
                return checkpoint(self.blocks, x, use_reentrant=False)
            return self.blocks(x)

    gradients = []
    for saves in (False, True):
        trick = StochasticDepth(rate=0.5)
        model = trick.model(Checkpointed(saves)).train()
        draw(trick, 3)
        model(X).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_branch_that_overflows_is_left_out_all_the_same():
    drop, x = BranchDrop(Masks((0.5,), "row"), 0), torch.tensor([[1.0], [torch.inf]])
    drop.masks.now = torch.tensor([[True, False]])
    assert drop(x.requires_grad_()).tolist() == [[2.0], [0.0]]
    drop(x).sum().backward()
    assert x.grad.tolist() == [[2.0], [0.0]]


@pytest.mark.slow
def test_compiled_models_take_new_masks_without_compiling_again():
    trick = StochasticDepth(rate=0.9)
    model = trick.model(small()).train()
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    plain = copy.deepcopy(trick), copy.deepcopy(model)
    outputs = []
    for seed in range(3):
        draw(trick, seed)
        outputs.append(compiled(X))
        plain[0]._masks = plain[1].stage1[0].stochastic_depth.masks
        draw(plain[0], seed)
        torch.testing.assert_close(outputs[-1], plain[1](X))
    assert not torch.allclose(outputs[1], outputs[2])
    assert counter.frame_count == 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
def test_a_copy_hands_masks_to_its_own_model(again):
    trick = StochasticDepth(rate=0.9)
    model = trick.model(small()).train()
    draw(trick)
    other_trick, other = again((trick, model))
    assert torch.equal(other(X), model(X))
    draw(other_trick, 1)
    assert torch.equal(model(X), small().train()(X))
    assert not torch.equal(other(X), small().train()(X))


def test_it_multiplies_behind_squeeze_and_excitation():
    trick = Chain(SqueezeExcite(), StochasticDepth(rate=0.5))
    model = trick.model(small()).train()
    seen = []
    block = model.stage3[0]
    block.squeeze_excite.register_forward_hook(lambda *call: seen.append(call[2]))
    block.stochastic_depth.register_forward_hook(lambda *call: seen.append(call[1][0]))
    draw(trick)
    model(X)
    assert seen[0] is seen[1]
    with pytest.raises(ValueError, match="StochasticDepth must come after SqueezeExcite"):
        Chain(StochasticDepth(), SqueezeExcite())


def test_it_reports_the_share_of_an_update_that_was_left_out():
    trick = StochasticDepth(rate=0.5)
    model = trick.model(small())
    assert trick.report() == {}
    shares = []
    for seed in range(2):
        draw(trick, seed)
        shares.append(1 - trick._masks.next.float().mean().item())
    trick.weights(model, Time(1, 1, 1))
    assert trick.report() == {"dropped": pytest.approx(sum(shares) / 2)}
    draw(trick)
    trick.load_state_dict({})
    assert trick._masks.next is None
    trick.weights(model, Time(2, 1, 1))
    assert trick.report() == {"dropped": 0.0}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_under_autocast_the_type_of_a_branch_stays(precision):
    model = stochastic_depth(network(Residual(conv())), rate=0.5).train()
    seen = []
    drops(model)[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    with torch.autocast("cpu", precision):
        F.cross_entropy(model(X), IDS).backward()
    assert seen == [precision]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            torchvision.models.efficientnet_b0(num_classes=2),
            r"EfficientNet\.features\.\S+ is a StochasticDepth that drops its branch already, with",
        ),
        (network(Weighed()), r"No hook reaches the branch of Sequential\.2 alone: it ends in the"),
        (network(*[Residual(branch())] * 2), r"Sequential\.2\.branch\.3 ends 2 branches, of which"),
        (network(), "StochasticDepth found no residual block in Sequential: nowhere is the result"),
        (stochastic_depth(small()), "CifarResNet has stochastic depth already"),
        (torch.compile(small()), r"compiled model.*torch\.compile\(stochastic_depth\(model\)\)"),
    ],
    ids=["its own", "functions", "shared", "no block", "twice", "compiled"],
)
def test_refusals(model, message):
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with pytest.raises(ValueError, match=message):
        stochastic_depth(model)
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


def test_masks_for_other_samples_are_refused():
    trick = StochasticDepth()
    with pytest.raises(ValueError, match="has seen no model"):
        draw(trick)
    model = trick.model(small()).train()
    draw(trick)
    with pytest.raises(ValueError, match="drew masks for 6 samples, got a map of 4"):
        model(X[:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, r"StochasticDepth\.rate must be > 0 and < 1, got 0\.0\. To leave out"),
        ({"rate": 1.0}, r"StochasticDepth\.rate must be > 0 and < 1, got 1\.0"),
        ({"mode": "column"}, r"StochasticDepth\.mode must be one of row, batch, got 'column'"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        StochasticDepth(**options)
