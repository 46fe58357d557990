"""The loop: with no trick on it is the plain one, to the bit; and each duty that it owns."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from runner.build import build
from runner.ranks import Parts
from runner.train import Diverged, Training
from tests.conftest import settings
from tricks import (
    Batch,
    Chain,
    Clipping,
    Ema,
    Flooding,
    LookAhead,
    ScheduleFree,
    Swa,
    Trick,
)

TWO_EPOCHS = ("epochs=2", "batch_size=100", "scheduler=constant", "data.augment.crop=1")


def plain_loop(model, batches, **sgd):
    """Nothing of ours but a model and tensors."""
    optimizer = torch.optim.SGD(model.parameters(), **sgd)
    losses = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, optimizer, losses


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_no_trick_equals_a_plain_loop_to_the_bit(do, tmp_path):
    given = settings(*TWO_EPOCHS)
    bench = build(given)
    initial = copy.deepcopy(bench.training.model)
    tensors = [batch[:2] for epoch in (0, 1) for batch in bench.batches.epoch(epoch)]
    assert len(tensors[-1][1]) < 100, "the last batch must be ragged"

    do(*TWO_EPOCHS)

    rates = {
        k: v
        for k, v in given.optimizer.items()
        if k in ("lr", "momentum", "nesterov", "weight_decay")
    }
    model, optimizer, losses = plain_loop(initial, tensors, **rates)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["training"]
    assert same(model.state_dict(), saved["model"])  # batch-norm statistics included
    momenta = optimizer.state_dict()["state"]
    assert len(momenta) == len(saved["optimizer"]["state"]) > 0
    for key, state in momenta.items():
        assert torch.equal(
            state["momentum_buffer"], saved["optimizer"]["state"][key]["momentum_buffer"]
        )

    from runner.store.runs import read_metrics

    lines = read_metrics(tmp_path / "run")
    count = len(losses) // 2
    for line, part in zip(lines, (losses[:count], losses[count:]), strict=True):
        assert line["train/loss"] == pytest.approx(sum(part) / count, rel=1e-6)
        assert line["train/transformed_loss"] == line["train/loss"]
        assert line["train/gradient_norm"] == line["train/gradient_norm_after"]


def smooth_net():
    """A network without batch norm, on which micro-batches are exact."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 10)).double()


def batch_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return Batch(inputs, torch.randint(10, (count,), generator=generator))


def trained(*tricks, updates=3, samples=20, learning_rate=0.1, net=smooth_net, **options):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    training = Training(model, optimizer, Chain(*tricks), lambda _: 1.0, 10, **options)
    for seed in range(updates):
        training.step(batch_of(samples, seed))
    return training


@pytest.mark.parametrize("size", [1, 7, 10, 19, 100])
def test_micro_batches_give_the_gradient_of_the_whole_batch(size):
    whole, cut = trained(), trained(parts=Parts(size))
    for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert cut.recent.means()["train/loss"] == pytest.approx(whole.recent.means()["train/loss"])


@pytest.mark.parametrize(("factor", "share"), [(0.999, 0.0), (1.001, 1.0)])
def test_flooding_under_micro_batches_is_flooding_of_the_whole_batch(factor, share):
    # a level right at the mean loss: flooding each micro-batch by itself would differ
    level = factor * trained(updates=1).recent.means()["train/loss"]
    whole, cut = (trained(Flooding(level), parts=Parts(m), updates=1) for m in (None, 3))
    for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert whole.whole.means() == cut.whole.means() == {"tricks/flooding/flooded_share": share}


def test_clipping_sees_the_accumulated_gradient_and_both_norms_are_logged():
    training = trained(Clipping(max_norm=0.01), parts=Parts(6), updates=1)
    means = training.recent.means()
    assert means["train/gradient_norm"] > 0.1
    assert means["train/gradient_norm_after"] == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_ends_the_run_before_the_weights_are_touched(wrong):
    training = trained(updates=1)
    before = copy.deepcopy(training.model.state_dict())
    broken = batch_of(20)._replace(inputs=batch_of(20).inputs.clone())
    broken.inputs[3] = wrong
    with pytest.raises(Diverged, match=r"not finite .* at update 1$"):
        training.step(broken)
    assert same(before, training.model.state_dict())


def test_skip_leaves_such_an_update_out_and_counts_it():
    training = trained(updates=1, not_finite="skip")
    before = copy.deepcopy(training.model.state_dict())
    broken = Batch(torch.full((20, 1, 8, 8), math.nan, dtype=torch.float64), batch_of(20).targets)
    training.step(broken)
    assert same(before, training.model.state_dict())
    assert (training.skipped, training.updates) == (1, 2)
    training.step(batch_of(20))
    assert not same(before, training.model.state_dict())


@pytest.mark.parametrize("trick", [Ema(), Swa(), LookAhead(k=2), ScheduleFree()], ids=type)
def test_where_every_update_was_left_out_the_first_weights_are_evaluated(trick):
    training = trained(trick, updates=0, not_finite="skip")
    before = copy.deepcopy(training.model.state_dict())
    training.step(batch_of(20)._replace(inputs=torch.full((20, 1, 8, 8), math.nan).double()))
    with training.evaluation():
        assert same(before, training.model.state_dict())


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_skipped_update_leaves_the_batch_norm_statistics_alone(precision):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = Training(
        model, optimizer, Chain(), lambda _: 1.0, 10, precision=precision, not_finite="skip"
    )
    before = copy.deepcopy(model.state_dict())
    training.step(Batch(torch.full((20, 1, 8, 8), math.nan), batch_of(20).targets))
    assert training.skipped == 1
    assert same(before, model.state_dict())


def test_a_loss_that_is_not_finite_is_no_overflow_of_the_scale():
    model = float_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = Training(model, optimizer, Chain(), lambda _: 1.0, 10, precision="float16")
    with pytest.raises(Diverged, match="the loss is not finite"):
        training.step(Batch(torch.full((20, 1, 8, 8), math.nan), batch_of(20).targets))


class Adds(Trick):
    """Adds a number to the losses of a micro-batch: their gradient stays as it is."""

    def __init__(self, number, micro=0):
        self.number, self.micro, self.calls = number, micro, 0

    def loss(self, losses, outputs, targets):  # noqa: ARG002
        self.calls += 1
        return losses + self.number * (self.calls == self.micro + 1)


class Masks(nn.Module):
    """A network that never answers class 0: of such a sample the loss is inf, the gradient 0."""

    def __init__(self):
        super().__init__()
        self.body = float_net()

    def forward(self, x):
        impossible = torch.arange(10) == 0
        return self.body(x.float()).masked_fill(impossible, -math.inf)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("size", [None, 7])
@pytest.mark.parametrize(
    ("net", "number"),
    [(Masks, 0.0), (lambda: float_net(), math.nan), (lambda: float_net(), -math.inf)],
)
def test_a_loss_that_is_not_finite_stops_the_update_also_if_its_gradients_are(
    net, number, size, per_sample, precision
):
    """Under flooding its sign would be 0, or as good as any other: the weights would be written."""
    options = {"updates": 0, "net": net, "parts": Parts(size), "precision": precision}
    tricks = Adds(number, micro=1 if size else 0), Flooding(0.1, per_sample), Clipping(by="unit")
    batch = Batch(batch_of(20).inputs.float(), torch.arange(20) % 10)
    for not_finite in ("error", "skip"):
        training = trained(*copy.deepcopy(tricks), not_finite=not_finite, **options)
        before = copy.deepcopy(training.model.state_dict())
        if not_finite == "error":
            with pytest.raises(
                Diverged, match=r"the loss.* is not finite \((nan|-?inf)\) at update 0"
            ):
                training.step(batch)
        else:
            training.step(batch)
            assert (training.skipped, training.updates) == (1, 1)
        assert all(p.grad.isfinite().all() for p in training.parameters)
        assert same(before, training.model.state_dict())
        assert training.recent.means() == training.whole.means() == {}


class Breaks(Trick):
    """Makes gradients that are not finite."""

    def gradients(self, model, *_):
        next(model.parameters()).grad.mul_(math.nan)


def test_what_a_trick_makes_not_finite_is_never_written():
    training = trained(Breaks(), updates=0)
    before = copy.deepcopy(training.model.state_dict())
    with pytest.raises(Diverged, match=r"a gradient after the tricks is not finite \(nan\)"):
        training.step(batch_of(20))
    assert same(before, training.model.state_dict())
    skipping = trained(Breaks(), not_finite="skip")
    assert (skipping.skipped, skipping.updates) == (3, 3)
    assert same(before, skipping.model.state_dict())


class Sums(Trick):
    """Keeps what it saw: the sum of the losses, and the batches."""

    def __init__(self):
        self.sum, self.seen = 0.0, torch.zeros(1)

    def batch(self, batch, _):
        self.seen += 1
        return batch

    def loss(self, losses, outputs, targets):  # noqa: ARG002
        self.sum += losses.sum().item()
        return losses

    def state_dict(self):
        return {"sum": self.sum, "seen": self.seen}

    def load_state_dict(self, state):
        self.sum, self.seen = state["sum"], state["seen"]


@pytest.mark.parametrize("size", [None, 7])
def test_a_skipped_update_leaves_nothing_behind_in_the_tricks(size):
    level = trained(updates=1).recent.means()["train/loss"]  # some samples below, some above
    broken = Batch(batch_of(20).inputs.clone(), batch_of(20).targets)
    broken.inputs[19] = math.inf
    runs = []
    for batches in ([batch_of(20), broken, batch_of(20, 1)], [batch_of(20), batch_of(20, 1)]):
        quantile = Clipping(by="quantile", warmup=1)
        training = trained(
            Flooding(level, per_sample=True), Sums(), quantile,
            updates=0, not_finite="skip", parts=Parts(size),
        )  # fmt: skip
        for batch in batches:
            training.step(batch)
        runs.append(training)
    skipping, plain = runs
    assert (skipping.skipped, plain.skipped) == (1, 0)
    assert str(skipping.trick.state_dict()) == str(plain.trick.state_dict())
    assert 0 < plain.recent.means()["tricks/flooding/flooded_share"] < 1
    assert skipping.recent.means() == plain.recent.means()
    assert same(skipping.model.state_dict(), plain.model.state_dict())


def test_finite_gradients_whose_squares_are_not_are_no_divergence():
    training = trained(Clipping(max_norm=0.1), updates=0, net=float_net)
    huge = {"loss": lambda _, losses, *__: losses * 1e25}
    training.trick.tricks = (type("Huge", (Trick,), huge)(),)
    training.step(Batch(batch_of(20).inputs.float(), batch_of(20).targets))
    assert training.recent.means()["train/gradient_norm"] > 1e24


def float_net():
    return smooth_net().float()


def test_a_float16_overflow_is_skipped_counted_and_lowers_the_scale():
    model = float_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = Training(model, optimizer, Chain(), lambda _: 1.0, 10, precision="float16")
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = copy.deepcopy(model.state_dict())
    batch = Batch(batch_of(20).inputs.float(), batch_of(20).targets)
    training.step(batch)
    assert training.skipped == 1
    assert same(before, model.state_dict())
    assert training.scaler.get_scale() == 2.0**39
    for _ in range(40):
        training.step(batch)
    assert training.updates > training.skipped
    assert not same(before, model.state_dict())


def test_a_scaled_update_equals_an_unscaled_one():
    """Tricks get true gradients: scaling by a power of two changes no bit of float32 gradients."""
    tricks = (Flooding(2.0), Clipping(max_norm=0.1))
    results = []
    for scaled in (False, True):
        model = float_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        training = Training(model, optimizer, Chain(*tricks), lambda _: 1.0, 10)
        training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
        for seed in range(4):
            batch = batch_of(20, seed)
            training.step(Batch(batch.inputs.float(), batch.targets))
        results.append(model.state_dict())
    assert same(*results)


def test_parameter_groups_keep_their_ratio_under_the_schedule():
    model = smooth_net()
    groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[3].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    training = Training(model, optimizer, Chain(), lambda update: 0.5**update, 10)
    for expected in (0.2, 0.1, 0.05):
        training.step(batch_of(8))
        assert [group["lr"] for group in optimizer.param_groups] == [expected, expected / 2]


def test_a_group_added_later_begins_from_the_rate_it_was_added_with_also_after_a_resume():
    def start():
        model = smooth_net()
        optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
        return Training(model, optimizer, Chain(), lambda update: 0.5**update, 10)

    def add(training):
        late = training.model[3].parameters()
        training.optimizer.add_param_group({"params": late, "lr": 0.4})

    training = start()
    training.step(batch_of(8))
    training.step(batch_of(8))
    add(training)
    training.step(batch_of(8))
    assert [group["lr"] for group in training.optimizer.param_groups] == [0.025, 0.1]
    resumed = start()
    add(resumed)
    resumed.load_state_dict(copy.deepcopy(training.state_dict()))
    resumed.step(batch_of(8))
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [0.0125, 0.05]


def test_the_tricks_are_called_in_the_order_of_the_update():
    calls = []

    def recorder(hook):
        def record(self, *arguments):
            calls.append(hook)
            return getattr(Trick, hook)(self, *arguments)

        return record

    hooks = ("schedule", "batch", "loss", "gradients", "weights")
    Recorder = type("Recorder", (Trick,), {hook: recorder(hook) for hook in hooks})
    trained(Recorder(), updates=1, parts=Parts(10))
    assert calls == ["schedule", "batch", "loss", "batch", "loss", "gradients", "weights"]
