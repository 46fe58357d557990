"""The norm of an update's gradients is computed once for the log and for clipping."""

from typing import final

import pytest
from torch.nn.utils import get_total_norm, parameters_to_vector, vector_to_parameters
from torch.utils._python_dispatch import TorchDispatchMode

from tests.test_waiting import begin
from tricks import Centralization, Clipping, Trick, clip_gradients_


class Norms(TorchDispatchMode):
    """Counts the norms that are computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function.overloadpacket.__name__ == "_foreach_norm"
        return function(*arguments, **(options or {}))


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


def by_data(gradients):
    for gradient in gradients:
        gradient.data.mul_(100)


def by_vector(gradients):
    vector_to_parameters(100 * parameters_to_vector(gradients), gradients)


@final
class Changes(Trick):
    """Changes gradients in a way that torch does not count, and may clip them itself."""

    def __init__(self, change, clips):
        self.change, self.clips = change, clips

    def gradients(self, model, optimizer, loss):  # noqa: ARG002
        self.change([p.grad for p in model.parameters()])
        if self.clips:
            self.norm = clip_gradients_(model.parameters(), 0.01)


@pytest.mark.parametrize("change", [by_data, by_vector])
def test_a_changed_gradient_has_another_norm_also_in_the_same_hook(change):
    training, batches = begin([Clipping(max_norm=0.01)])
    training.step(next(batches.epoch(0)))
    norm = training.recent.take()["tricks/clipping/norm"]
    for clips in (False, True):
        tricks = [Changes(change, clips), *([] if clips else [Clipping(max_norm=0.01)])]
        training, batches = begin(tricks)
        training.step(next(batches.epoch(0)))
        logged = training.recent.take()
        seen = training.trick.tricks[0].norm if clips else logged["tricks/clipping/norm"]
        assert float(seen) == pytest.approx(100 * norm)
        assert logged["train/gradient_norm"] == pytest.approx(norm)
        assert logged["train/gradient_norm_after"] == pytest.approx(0.01, rel=1e-4)


def test_a_trick_of_ones_own_is_given_the_norm_if_it_asks_for_it():
    class Asks(Trick):
        takes_norm = True

        def gradients(self, model, optimizer, loss, norm=None):  # noqa: ARG002
            given.append(norm)

    given = []
    for tricks in ([Asks()], [Changes(by_data, clips=False), Asks()]):
        training, batches = begin(tricks)
        training.step(next(batches.epoch(0)))
    assert given[0] == training.recent.take()["train/gradient_norm"]
    assert given[1] is None


def test_the_norm_is_of_the_parameters_that_the_optimizer_has_now():
    training, batches = begin([Clipping(max_norm=0.01)])
    batch, other = [*batches.epoch(0)][:2]
    training.step(batch)
    apart = training.optimizer.param_groups[0]["params"].pop()
    apart.grad.fill_(1e3)  # nothing zeroes it now
    training.recent.take()
    training.step(other)
    assert training.recent.take()["train/gradient_norm"] < 100
    training.optimizer.add_param_group({"params": [apart]})
    training.step(batch)
    gradients = [parameter.grad for parameter in training.model.parameters()]
    assert get_total_norm(gradients).item() == pytest.approx(0.01, rel=1e-4)
