"""Class weights: by hand, exact under micro-batches, for any loss; without, nothing is done."""

from functools import partial

import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from runner.build import build, build_data, build_loss
from runner.errors import UserError
from runner.evaluate import evaluate
from runner.losses import class_weights, cross_entropy, weighted
from runner.ranks import Parts
from tests.conftest import settings

LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 2, 0, 1])
TEN = "loss.class_weights=[1,1,1,1,1,1,1,1,1,4]"


def test_the_loss_of_a_sample_is_multiplied_by_the_weight_of_its_class():
    weights = torch.tensor([0.5, 2.0, 0.0])
    plain = F.cross_entropy(LOGITS, TARGETS, reduction="none")
    got = weighted(cross_entropy, weights)(LOGITS, TARGETS)
    assert torch.equal(got, plain * torch.tensor([0.5, 2, 0, 0, 0.5, 2]))
    torch_divides = F.cross_entropy(LOGITS, TARGETS, weight=weights)
    assert torch_divides == pytest.approx(float(got.sum() / 5))
    soft = 0.9 * F.one_hot(TARGETS, 3) + 0.1 / 3
    found = weighted(cross_entropy, weights)(LOGITS, soft)
    expected = F.cross_entropy(LOGITS, soft, reduction="none") * (soft @ weights)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("counts", [(90, 10), (1, 2, 3), (7, 7, 7, 7)])
def test_balanced_is_that_of_scikit_learn_and_every_mean_over_the_samples_is_1(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    theirs = compute_class_weight("balanced", classes=labels.unique().numpy(), y=labels.numpy())
    ours = class_weights(None, torch.tensor(counts))
    torch.testing.assert_close(ours, torch.from_numpy(theirs).float())
    for given in (None, range(1, len(counts) + 1), [1e308] * len(counts)):
        weights = class_weights(given, torch.tensor(counts))
        assert float(weights[labels].double().mean()) == pytest.approx(1, rel=1e-6)
    assert class_weights([3.0] * len(counts), torch.tensor(counts)).tolist() == [1.0] * len(counts)


def test_a_run_weighs_its_training_and_not_its_evaluation():
    plain, given = settings("model.width=2"), settings("model.width=2", TEN)
    data = build_data(given)
    labels = data.train.labels
    of_nine = len(labels) / (len(labels) + 3 * int((labels == 9).sum()))
    losses = build_loss(given, data)(torch.zeros(2, 10), torch.tensor([3, 9]))
    expected = torch.tensor([of_nine, 4 * of_nine]) * torch.log(torch.tensor(10.0))
    torch.testing.assert_close(losses, expected)
    benches = [build(each, data) for each in (plain, given)]
    tested = [evaluate(bench.training.model, bench.test) for bench in benches]
    assert str(tested[0]) == str(tested[1])


def test_without_weights_the_loss_is_the_function_itself():
    given = settings()
    loss = build_loss(given, None if given.loss["class_weights"] else build_data(given))
    assert isinstance(loss, partial)
    assert loss.func is cross_entropy


def test_micro_batches_come_to_the_same_gradients():
    gradients = []
    for micro in (None, 7, 1):
        bench = build(settings(TEN, "model.width=2"))
        bench.training.parts = Parts(micro)
        bench.training.model.eval()  # batch norm alone makes micro-batches differ
        bench.training.step(next(bench.batches.epoch(0)))
        gradients.append([p.grad.clone() for p in bench.training.parameters])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-6)


def squared(logits, targets, power: float = 2.0):
    """A loss of the user's own."""
    return (logits.softmax(1) - F.one_hot(targets, logits.shape[1])).abs().pow(power).sum(1)


def test_a_loss_of_the_users_own_is_weighed_too(monkeypatch):
    monkeypatch.setattr("runner.allowed.USERS", {f"{__name__}.squared"})
    own = (f"++loss={{_target_: {__name__}.squared, power: 1.0}}",)
    plain, given = settings(*own), settings(*own, f"++{TEN}")
    data = build_data(given)
    logits, targets = torch.randn(4, 10), torch.tensor([1, 9, 2, 9])
    ratio = build_loss(given, data)(logits, targets) / build_loss(plain, data)(logits, targets)
    torch.testing.assert_close(ratio / ratio[0], torch.tensor([1.0, 4, 1, 4]))


def test_balanced_draws_are_what_the_weights_have_mean_1_over():
    given = settings(TEN, "data.sampling=balanced")
    losses = build_loss(given, build_data(given))(torch.zeros(10, 10), torch.arange(10))
    torch.testing.assert_close(losses.mean(), torch.log(torch.tensor(10.0)))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["[1,2]"],
            "must be 10 numbers, one for each class, got 2. The classes are, in order: 0, 1,",
        ),
        (
            ["[0,0,0,0,0,0,0,0,0,0]"],
            "loss.class_weights: all are 0. Give at least one class a weig",
        ),
        (["[1,-1]"], "loss.class_weights.1 must be >= 0, got -1."),
        (["[1,inf]"], "loss.class_weights.1 must be a finite number, got Infinity."),
        (["balancd"], 'loss.class_weights must be balanced or a list, as [a,b], got "balancd".'),
        (
            ["balanced", "data.sampling=balanced"],
            "both make up for unequal classes. Set one of them",
        ),
    ],
)
def test_weights_that_cannot_be_are_a_line(overrides, told):
    weights, *others = overrides
    with pytest.raises(UserError) as refusal:
        build(settings(f"loss.class_weights={weights}", *others))
    assert told in str(refusal.value)
