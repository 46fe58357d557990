"""Flooding: the formula, the whole update in micro-batches, per sample, and levels out of reach."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tricks import Batch, Chain, Flooding, LabelSmoothing, check_gradients_, flood

IDS, LOGITS = torch.arange(6) % 3, torch.zeros(6, 3)


@pytest.mark.parametrize(("loss", "flooded"), [(1.5, 1.5), (1.0, 1.0), (0.25, 1.75), (0.0, 2.0)])
def test_the_loss_is_mirrored_at_the_level(loss, flooded):
    assert flood(torch.tensor(loss), level=1.0).item() == flooded
    assert Flooding(level=1.0).objective(torch.tensor(loss)).item() == flooded


def test_level_zero_is_neutral():
    loss = torch.rand(100)
    assert torch.equal(flood(loss, level=0.0), loss)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double()


def gradients(trick, sizes):
    """The gradients of one update in micro-batches of these sizes, as a loop makes them."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mean = torch.zeros(())
    for inputs, targets in zip(INPUTS.split(sizes), IDS.split(sizes), strict=True):
        losses = F.cross_entropy(model(inputs), targets, reduction="none")
        share = len(targets) / len(IDS)
        loss = trick.loss(losses, losses, losses).mean() * share
        loss.backward()
        mean = mean + loss.detach()
    trick.gradients(model, optimizer, mean)
    return [p.grad for p in model.parameters()]


LOSSES = F.cross_entropy(network()(INPUTS), IDS, reduction="none").detach()


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("sizes", [[6], [2, 2, 2], [4, 1, 1]])
@pytest.mark.parametrize("offset", [-0.1, 0.0, 0.1])
def test_an_update_in_any_micro_batches_descends_on_the_flooded_loss(per_sample, sizes, offset):
    """The levels lie among the losses of the samples: of micro-batches, each would be flooded."""
    level = LOSSES.mean().item() + offset
    model = network()
    losses = F.cross_entropy(model(INPUTS), IDS, reduction="none")
    loss = flood(losses, level).mean() if per_sample else flood(losses.mean(), level)
    expected = torch.autograd.grad(loss, model.parameters())
    for ours, its in zip(gradients(Flooding(level, per_sample), sizes), expected, strict=True):
        torch.testing.assert_close(ours, its, rtol=0, atol=1e-12 if offset else 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.floats(0, 2), st.integers(0, 99))
def test_however_an_update_is_cut_its_gradient_is_that_of_the_flooded_batch(sizes, level, seed):
    """In float64, through a loss scaler with overflow-free scales, as float16 training has it."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(sum(sizes), 4, generator=generator).double()
    targets = torch.randint(3, (sum(sizes),), generator=generator)
    whole = network()
    flood(F.cross_entropy(whole(inputs), targets), level).backward()
    model, mean = network(), torch.zeros(())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for part, wanted in zip(inputs.split(sizes), targets.split(sizes), strict=True):
        loss = F.cross_entropy(model(part), wanted) * (len(part) / len(inputs))
        scaler.scale(loss).backward()
        mean = mean + loss.detach()
    scaler.unscale_(optimizer)
    Flooding(level).gradients(model, optimizer, mean)
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("loss", "sign"), [(0.75, 1.0), (0.5, 0.0), (0.25, -1.0)])
def test_below_the_level_descent_becomes_ascent_and_at_it_rest(loss, sign):
    weight = torch.ones(3, requires_grad=True)
    weight.grad = torch.tensor([0.1, -0.2, 0.3])
    before, trick = weight.grad.clone(), Flooding(level=0.5)
    trick.gradients(nn.Identity(), torch.optim.SGD([weight], lr=0.1), torch.tensor(loss))
    assert torch.equal(weight.grad, sign * before)
    assert trick.report() == {"flooded_share": float(sign != 1.0)}


def one_gradient():
    """An optimizer of one weight, whose gradient is 1."""
    weight = torch.ones(1, requires_grad=True)
    weight.grad = torch.ones(1)
    return torch.optim.SGD([weight], lr=0.1)


def test_per_sample_the_share_is_that_of_the_last_update():
    trick = Flooding(level=1.0, per_sample=True)
    optimizer = one_gradient()
    assert trick.report() == {}
    for updates in ([[0.5, 2.0], [3.0, 1.0, 4.0]], [[2.0, 2.0, 0.1], [1.0]]):
        for losses in updates:
            trick.loss(torch.tensor(losses), LOGITS, IDS)
        trick.gradients(nn.Identity(), optimizer, torch.tensor(0.0))
    assert trick.report() == {"flooded_share": 0.5}
    assert trick.objective(torch.tensor(0.25)) == 0.25


def test_the_paper_holds_the_loss_at_the_level():
    model, trick = network(), Flooding(level=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(400):
        loss = F.cross_entropy(model(INPUTS), IDS)
        optimizer.zero_grad()
        loss.backward()
        trick.gradients(model, optimizer, loss.detach())
        optimizer.step()
        losses.append(loss.item())
    assert max(losses[:5]) > 0.6
    assert all(0.25 < loss < 0.35 for loss in losses[-100:])


def first_batch(trick, targets):
    return trick.batch(Batch(torch.zeros(len(targets), 1), targets, 10), torch.Generator())


SOFT = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # the entropies are 0 and log 2


@pytest.mark.parametrize(
    ("options", "targets", "floor"),
    [
        ({"level": 0.0}, IDS, "0 nats"),
        ({"level": 0.34}, SOFT, "0.3466 nats"),
        ({"level": 0.0, "per_sample": True}, SOFT, "0 nats"),
        ({"level": 0.69, "per_sample": True}, SOFT[1:], "0.6931 nats"),
    ],
)
def test_a_level_that_the_loss_cannot_fall_below_is_refused_at_the_first_batch(
    options, targets, floor
):
    with pytest.raises(
        ValueError, match=rf"Flooding\.level must be > {floor}.*got {options['level']}"
    ):
        first_batch(Flooding(**options), targets)


@pytest.mark.parametrize(
    ("options", "targets"),
    [
        ({"level": 1e-3}, IDS),
        ({"level": 0.35}, SOFT),
        ({"level": 0.01, "per_sample": True}, SOFT),
    ],
)
def test_a_level_above_the_floor_is_taken(options, targets):
    batch = first_batch(Flooding(**options), targets)
    assert batch.targets is targets


def test_of_targets_of_one_kind_only_the_first_batch_is_checked():
    """Mixed targets differ from batch to batch; one batch out of reach is no reason to stop."""
    trick = Flooding(level=0.4)
    first_batch(trick, SOFT)
    first_batch(trick, SOFT[1:])


def test_targets_of_another_kind_and_those_of_another_training_are_checked_again():
    trick = Flooding(level=0.3)
    first_batch(trick, IDS)
    even = torch.full((2, 10), 0.1)
    for _ in range(2):  # refused once, it stays refused
        with pytest.raises(ValueError, match=r"must be > 2\.303 nats"):
            first_batch(trick, even)
    first_batch(trick, IDS)
    first_batch(trick, torch.eye(2))
    trick.model(nn.Identity())
    with pytest.raises(ValueError, match=r"must be > 0\.3466 nats"):
        first_batch(trick, SOFT)


def test_losses_of_a_training_that_was_broken_off_do_not_count_in_the_next():
    trick = Flooding(level=1.0, per_sample=True)
    trick.loss(torch.zeros(8), LOGITS, IDS)
    trick.model(nn.Identity())
    trick.loss(torch.full((4,), 2.0), LOGITS, IDS)
    trick.gradients(nn.Identity(), one_gradient(), torch.tensor(2.0))
    assert trick.report() == {"flooded_share": 0.0}


def test_under_label_smoothing_the_floor_is_that_of_the_smoothed_targets():
    smoothing = LabelSmoothing(0.1)
    with pytest.raises(ValueError, match=r"must be > 0\.5003 nats"):
        first_batch(Chain(smoothing, Flooding(level=0.5)), IDS)
    first_batch(Chain(smoothing, Flooding(level=0.51)), IDS)
    with pytest.raises(ValueError, match="Write LabelSmoothing -> Flooding"):
        Chain(Flooding(), LabelSmoothing())


def test_a_mean_loss_may_be_a_number_and_what_has_no_gradient_is_passed_over():
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    trick = Flooding(level=0.5)
    trick.gradients(nn.Identity(), optimizer, 0.25)
    assert weight.grad is None
    weight.grad = torch.ones(1)
    trick.gradients(nn.Identity(), optimizer, 0.25)
    assert weight.grad.item() == -1.0
    per_sample = Flooding(level=0.5, per_sample=True)
    per_sample.gradients(nn.Identity(), optimizer, torch.tensor(0.25))
    assert per_sample.report() == {}


@pytest.mark.parametrize("level", [-1, math.inf, math.nan])
def test_a_level_out_of_its_range_is_refused(level):
    with pytest.raises(ValueError, match=r"^level must be >= 0 \(nats\)"):
        flood(torch.tensor(1.0), level)
    with pytest.raises(ValueError, match=rf"Flooding\.level must be >= 0 .*got {level}"):
        Flooding(level=level)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_mean_loss_that_is_not_finite_has_no_side_of_the_level(number, per_sample):
    optimizer = one_gradient()
    (weight,) = optimizer.param_groups[0]["params"]
    trick = Flooding(0.1, per_sample)
    for loss in (number, torch.tensor(number)):
        trick.loss(torch.tensor([number, 0.0]), LOGITS, IDS)
        with pytest.raises(
            FloatingPointError, match=rf"mean loss is {number}, .* check_gradients_"
        ):
            trick.gradients(nn.Identity(), optimizer, loss)
        assert weight.grad.item() == 1.0
        assert trick.report() == {}
    check_gradients_([weight], "skip", loss)  # as the message says
    trick.gradients(nn.Identity(), optimizer, loss)
    assert weight.grad is None
    assert trick.report() == {}
    assert not flood(torch.tensor([number]), 0.1).isfinite()


def test_samples_of_an_update_that_was_left_out_do_not_count():
    """Its gradients were dropped; or the trick was put back to the state from before it."""
    for put_back in (False, True):
        trick, optimizer = Flooding(level=1.0, per_sample=True), one_gradient()
        trick.loss(torch.zeros(8), LOGITS, IDS)
        if put_back:
            trick.load_state_dict(trick.state_dict())
        else:
            left_out = torch.optim.SGD([torch.ones(1)], lr=0.1)
            trick.gradients(nn.Identity(), left_out, torch.tensor(0.0))
            assert trick.report() == {}
        trick.loss(torch.full((4,), 2.0), LOGITS, IDS)
        trick.gradients(nn.Identity(), optimizer, torch.tensor(2.0))
        assert trick.report() == {"flooded_share": 0.0}


BOXES = [{"boxes": torch.zeros(1, 4), "labels": torch.ones(1, dtype=torch.int64)}] * 3


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([0.5, 0.2, 0.3]),  # regression, or one output of a binary loss
        torch.tensor([[0.5], [0.2], [0.3]]),
        torch.tensor([[0.9], [0.9]]),
        torch.tensor([[0.9, 0.1, 0.9]]),  # several labels
        torch.tensor([[-0.5, 1.5]]),
        torch.tensor(0.5),
        torch.zeros(2, 0),
        torch.full((2, 3), math.nan),
        BOXES,
        {"labels": IDS},
        None,
    ],
    ids=str,
)
@pytest.mark.parametrize("per_sample", [False, True])
def test_targets_that_are_no_class_probabilities_are_let_be(targets, per_sample):
    for trick in (Flooding(1e-3, per_sample), Chain(Flooding(1e-3, per_sample))):
        given = Batch(torch.zeros(3, 1), targets)
        assert trick.batch(given, torch.Generator()).targets is targets


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_floor_of_dense_and_of_half_precision_probabilities(dtype):
    dense = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1).expand(2, 3, 4, 5).to(dtype)
    with pytest.raises(ValueError, match=r"must be > 1\.04 nats"):
        first_batch(Flooding(1.03), dense)
    first_batch(Flooding(1.05), dense)
    soft = torch.rand(4, 100, generator=torch.Generator().manual_seed(0)).softmax(1).to(dtype)
    with pytest.raises(ValueError, match=r"must be > 4\.[56]"):
        first_batch(Flooding(1.0), soft)
    ignored = torch.cat([soft[:2], torch.zeros(2, 100, dtype=dtype)])
    with pytest.raises(ValueError, match=r"must be > 2\.[23]"):  # half of them have a loss of 0
        first_batch(Flooding(1.0), ignored)


def test_maps_of_another_size_are_targets_of_the_same_kind():
    trick = Flooding(level=0.4)
    first_batch(trick, SOFT.view(2, 2, 1, 1).expand(2, 2, 4, 4))
    first_batch(trick, SOFT[1:].view(1, 2, 1, 1).expand(1, 2, 5, 5))
