"""The norm of an update's gradients is computed once for the log and for clipping."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.runner.test_train import batch_of, smooth_net
from tests.test_waiting import begin
from tricks import Centralization, Clipping, Trick
from tricks.gradients import forget_norm, known_norm, norm_of


class Norms(TorchDispatchMode):
    """Counts the norms that are computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function.overloadpacket.__name__ == "_foreach_norm"
        return function(*arguments, **(options or {}))


def with_gradients():
    model = smooth_net()
    batch = batch_of(6)
    torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets).backward()
    return [*model.parameters()]


@pytest.mark.parametrize(
    ("tricks", "norms"),
    [
        ([], 1),
        ([Clipping()], 2),  # before and after
        ([Clipping(by="quantile", warmup=1)], 2),
        ([Centralization()], 2),
        ([Centralization(), Clipping()], 3),  # what is clipped is not what there was before
    ],
)
def test_an_update_computes_as_many_norms_as_there_are(tricks, norms):
    training, batches = begin(tricks)
    batch, other = [*batches.epoch(0)][:2]
    training.step(batch)
    with Norms() as found:
        training.step(other)
    assert found.count == norms


def test_the_norm_is_known_until_a_gradient_changes():
    parameters = with_gradients()
    norm = norm_of(parameters)
    known = torch.tensor(7.0)
    with known_norm(parameters, known):
        assert norm_of(parameters) is known
        assert norm_of(parameters[:-1]) < norm  # others are others
        assert norm_of([*parameters[1:], parameters[0]]) == pytest.approx(norm.item())
        parameters[0].grad.mul_(2)
        assert norm_of(parameters) > norm
    with known_norm(parameters, known):
        parameters[0].grad = parameters[0].grad.clone()
        assert norm_of(parameters) is not known
    with known_norm(parameters, known):
        forget_norm()
        assert norm_of(parameters) is not known
    assert norm_of(parameters) is not known


class Doubles(Trick):
    """Changes gradients in a way that torch does not count."""

    def gradients(self, model, optimizer, loss):  # noqa: ARG002
        for parameter in model.parameters():
            parameter.grad.data.mul_(2)


def test_what_another_trick_has_changed_is_not_taken_for_known():
    logged = []
    for tricks in ([Clipping()], [Doubles(), Clipping()]):
        training, batches = begin(tricks)
        training.step(next(batches.epoch(0)))
        logged.append(training.recent.take()["tricks/clipping/norm"])
    assert logged[1] == pytest.approx(2 * logged[0])
