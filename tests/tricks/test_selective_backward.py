"""Selective backward: the largest losses, a pass that leaves nothing behind, and the time."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tricks import Batch, Chain, LabelSmoothing, Mixup, Sam, SelectiveBackward, Time, select_hardest


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def samples(count=12, seed=1):
    generator = seeded(seed)
    inputs = torch.randn(count, 1, 6, 6, generator=generator)
    return Batch(inputs, torch.randint(3, (count,), generator=generator), 3)


def losses_of(model, batch):
    """The losses in the mode of training, by a copy, with the dropout that would come next."""
    with torch.random.fork_rng(devices=[]):
        outputs = copy.deepcopy(model)(batch.inputs)
    return F.cross_entropy(outputs, batch.targets, reduction="none")


@pytest.mark.parametrize(
    ("keep", "count"), [(0.5, 6), (0.25, 3), (0.1, 2), (0.01, 2), (0.99, 12), (1, 12)]
)
@pytest.mark.parametrize("soft", [False, True])
def test_the_largest_losses_are_kept_in_their_order(keep, count, soft):
    model, batch = network(), samples()
    if soft:
        batch = batch._replace(targets=torch.rand(12, 3, generator=seeded()).softmax(1))
    expected = losses_of(model, batch).topk(count).indices.sort().values
    places = select_hardest(model, batch.inputs, batch.targets, keep)
    assert torch.equal(places, expected)


def test_the_pass_leaves_nothing_behind():
    """Neither statistics of batch norm nor random numbers nor gradients, also if it fails."""
    model, batch = network(), samples()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    select_hardest(model, batch.inputs, batch.targets)
    with pytest.raises(ValueError, match="batch_size"):
        select_hardest(model, batch.inputs, batch.targets[:3])
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())
    model(batch.inputs)  # as a plain pass would have it
    assert not torch.equal(state["1.running_mean"], model[1].running_mean)


def test_within_an_autocast_the_weights_have_a_gradient_after_the_pass():
    model, batch = network(), samples()
    with torch.autocast("cpu", torch.bfloat16):
        places = select_hardest(model, batch.inputs, batch.targets)
        loss = F.cross_entropy(model(batch.inputs[places]), batch.targets[places])
    loss.backward()
    assert all(p.grad.any() for p in model[5].parameters())


def test_a_loss_of_ones_own_and_equal_losses():
    inputs = torch.arange(6.0).view(6, 1)
    places = select_hardest(nn.Identity(), inputs, inputs, 0.5, loss=lambda x, _: -x.flatten())
    assert places.tolist() == [0, 1, 2]
    places = select_hardest(nn.Identity(), inputs, inputs, 0.5, loss=lambda x, _: 0 * x.flatten())
    assert places.tolist() == [0, 1, 2]


def used(trick, model, batch, update, updates):
    """The samples that it would train on at an update."""
    trick.weights(model, Time(update, 1, updates))
    return len(trick.batch(batch, seeded()).inputs)


def test_it_acts_from_the_start_to_the_end_and_a_resume_knows_the_time():
    model, batch, trick = network(), samples(), SelectiveBackward(keep=0.25, start=0.3, end=0.7)
    trick.model(model)
    counts = [len(trick.batch(batch, seeded()).inputs)]
    counts += [used(trick, model, batch, update, 10) for update in range(1, 10)]
    assert counts == [12, 12, 12, 3, 3, 3, 3, 12, 12, 12]
    trick.weights(model, Time(4, 1, 10))
    resumed = SelectiveBackward(keep=0.25, start=0.3, end=0.7)
    resumed.model(model)
    resumed.load_state_dict(trick.state_dict())
    assert len(resumed.batch(batch, seeded()).inputs) == 3


def test_before_its_time_nothing_moves_and_the_share_says_so():
    model, batch, trick = network(), samples(), SelectiveBackward(start=0.5, end=1.0)
    trick.model(model)
    assert trick.report() == {}
    assert trick.batch(batch, seeded()) is batch
    trick.weights(model, Time(1, 2, 2))
    assert trick.report() == {"left_out_share": 0.0}
    for part in (samples(12), samples(4)):
        trick.batch(part, seeded())
    trick.load_state_dict(trick.state_dict())  # of an update that was left out
    for part in (samples(12), samples(3)):
        trick.batch(part, seeded())
    trick.weights(model, Time(2, 2, 2))
    assert trick.report() == {"left_out_share": 1 - 8 / 15}


def test_what_is_mixed_is_told_of_the_samples_that_are_kept():
    model, trick = network(), SelectiveBackward(start=0.0)
    chain = Chain(Mixup(1.0, probability=0.5), LabelSmoothing(0.1), trick)
    chain.model(model)
    batch = chain.batch(samples(), seeded())
    assert len(batch.inputs) == len(batch.targets) == len(batch.mixed) == 6
    mixed = (batch.targets > 0.05).sum(1) > 1
    assert (mixed <= batch.mixed).all()


def test_a_second_pass_at_other_weights_has_the_same_samples():
    """As that of SAM: were they chosen anew, the two losses would not be of the same samples."""
    model, trick = network(), SelectiveBackward(start=0.0, keep=0.3)
    chain, batch = Chain(trick, Sam(rho=5.0)), samples()
    chain.model(model)
    seen = []

    def compute():
        model.zero_grad()
        parts = [
            batch._replace(inputs=x, targets=y)
            for x, y in zip(batch.inputs.split(7), batch.targets.split(7), strict=True)
        ]
        loss = torch.zeros(())
        for part in parts:
            kept = chain.batch(part, seeded())
            seen.append(kept.inputs)
            mean = F.cross_entropy(model(kept.inputs), kept.targets) / 2
            mean.backward()
            loss = loss + mean.detach()
        return loss

    for update in (1, 2):
        chain.backward(compute, model)
        chain.weights(model, Time(update, 9, 9))
    assert len(seen) == 8
    for first, second in ((0, 2), (1, 3), (4, 6), (5, 7)):
        assert torch.equal(seen[first], seen[second])
    assert trick.report() == {"left_out_share": 1 - 4 / 12}
    with pytest.raises(ValueError, match="Write SelectiveBackward -> Sam"):
        Chain(Sam(), SelectiveBackward())


def test_the_paper_trains_on_what_is_not_yet_learned():
    """The mean loss of what is kept is larger, and the model learns the rare class from it."""
    inputs = torch.randn(64, 2, generator=seeded())
    targets = (inputs[:, 0] > 1.2).long()
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    hard = select_hardest(model, inputs, targets, 0.25)
    losses = F.cross_entropy(model(inputs), targets, reduction="none")
    assert losses[hard].mean() > 2.5 * losses.mean()
    assert targets[hard].float().mean() > 2 * targets.float().mean()


def test_the_caveats_say_whose_loss_is_logged_and_that_a_training_is_too_short():
    (caveat,) = SelectiveBackward().caveats(10, 5)
    assert "from 0.5 to 0.9" in caveat
    assert "the largest 0.5" in caveat
    (caveat,) = SelectiveBackward().caveats(1, 1)
    assert "no update of 1 begins between 0.5 and 0.9" in caveat


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.0}, r"SelectiveBackward\.keep must be > 0 and <= 1, got 0\.0"),
        ({"keep": 1.0}, r"SelectiveBackward\.keep must be < 1, got 1\.0\. Switch the trick off"),
        ({"keep": float("nan")}, r"SelectiveBackward\.keep"),
        ({"start": 0.9}, r"0 <= start < end <= 1, got 0\.9 and 0\.9"),
        ({"end": 1.5}, r"0 <= start < end <= 1, got 0\.5 and 1\.5"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SelectiveBackward(**options)


def test_it_needs_the_model():
    with pytest.raises(ValueError, match=r"has seen no model .* Call its `model` once"):
        SelectiveBackward(start=0.0).batch(samples(), seeded())
    with pytest.raises(ValueError, match=r"^keep must be > 0 and <= 1, got 2"):
        select_hardest(network(), *samples()[:2], keep=2)
