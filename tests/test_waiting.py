"""On a card no update waits for it, whatever trick is on."""

import copy
import math

import pytest
import torch

from runner.data import Augmentation, Batches, Split
from runner.observed import Averages
from runner.ranks import Parts
from runner.train import Diverged, Training
from tests import card
from tests.conftest import few
from tests.loop import CLASSES, INPUTS, PER_EPOCH, UPDATES, images_of
from tests.test_laws import CHAINS, network
from tricks import Chain, Trick
from tricks.clip_gradients import Norms, quantile_of

SAMPLES = 12


def stay(value):
    """Leave it on the CPU."""
    return value


def begin(chosen=(), put=stay, images_too=True, **options):
    """Begin a training with tricks, all that it holds being put somewhere; and its batches."""
    chain = Chain(*copy.deepcopy(chosen))
    model, inputs = chain.model(network()).train(), put(INPUTS)
    chain.initialize(model, INPUTS)
    model = put(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    optimizer = chain.optimizer(optimizer, model)
    known = {"updates": UPDATES, "classes": CLASSES, "inputs": inputs}
    training = Training(model, optimizer, chain, lambda _: 0.5, PER_EPOCH, **known, **options)
    images, labels = images_of(0, SAMPLES * PER_EPOCH)
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.29)
    batches = Batches(
        Split(put(images) if images_too else images, put(labels)), SAMPLES, mean, std,
        Augmentation(crop=1, flip=True, cutout=2), shuffle=True, trick=chain, begin=training.begin,
    )  # fmt: skip
    return training, batches


def train(training, batches, after_the_first=lambda: None):
    """Make the updates of two epochs."""
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            training.step(batch)
            if training.updates == 1:
                after_the_first()
    return training


@pytest.fixture
def waits(monkeypatch):
    monkeypatch.setattr(torch, "Generator", card.Generator)
    with card.Waits() as waits:
        yield waits


QUICK = (
    *("quantile", "clipping", "flooding", "sam", "cutmix", "trivial_augment", "stochastic_depth"),
    *("centralization", "selective_backward", "mixup"),
)


@pytest.mark.parametrize("named", few(CHAINS, QUICK))
def test_no_update_waits_for_the_card_and_it_does_what_it_does_on_a_cpu(named, waits):
    """But for the first one, of which a trick may ask whether it can do anything."""
    here = train(*begin(CHAINS[named], parts=Parts(7)))
    there = train(*begin(CHAINS[named], card.put, parts=Parts(7)), waits.found.clear)
    assert waits.found == []
    there.settle()
    weights = card.fetch(dict(there.model.state_dict()))
    for name, weight in here.model.state_dict().items():
        torch.testing.assert_close(weights[name], weight)
    assert there.recent.means() == pytest.approx(here.recent.means(), rel=1e-5)


def test_no_batch_waits_where_the_images_are_not_on_the_card(waits):
    train(*begin(put=card.put, images_too=False), waits.found.clear)
    assert len(waits.found) == 1  # the order of the second epoch


@pytest.mark.parametrize("broken", ["a batch", "a trick"])
def test_on_a_card_the_first_update_that_is_not_finite_is_named_before_anything_is_saved(
    broken, waits
):
    class Breaks(Trick):
        def gradients(self, model, *_):
            if broken == "a trick" and training.updates == 2:
                next(model.parameters()).grad.mul_(math.nan)

    training, batches = begin([Breaks()], card.put)
    for batch in batches.epoch(0):
        training.step(batch)
    training.settle()
    training.state_dict()
    waits.found.clear()
    for batch in batches.epoch(1):
        images = batch.inputs * (math.inf if broken == "a batch" else 1.0)
        training.step(batch._replace(inputs=images))
    assert waits.found == []
    assert training.updates == 4
    named = "a gradient after the tricks" if broken == "a trick" else "the loss"
    for ask in (training.settle, training.state_dict, training.evaluation().__enter__):
        with pytest.raises(Diverged, match=rf"^{named} is not finite \(nan\) at update 2$"):
            ask()


def test_averages_and_norms_on_a_card_resume_bit_identically(waits):
    numbers = torch.rand(9, generator=torch.Generator().manual_seed(0)).unbind()
    results = []
    for resumes in (False, True):
        averages, norms = Averages(), Norms(most=4)
        for number in numbers:
            averages.add({"loss": card.put(number), "rate": 0.1})
            norms.add(card.put(number))
            if resumes:
                state, known = averages.state_dict(), norms.tolist()
                averages, norms = Averages(), Norms(4, known)
                averages.load_state_dict(state)
        results.append((averages.take(), norms.tolist(), float(norms.quantile(0.7)), len(norms)))
    assert results[0] == results[1]
    assert waits.found
    means, last, quantile, count = results[0]
    assert means == pytest.approx({"loss": sum(map(float, numbers)) / 9, "rate": 0.1})
    assert (last, count) == ([number.item() for number in numbers[-4:]], 4)
    assert quantile == quantile_of(last, 0.7)


def test_to_leave_an_update_out_it_must_be_waited_for(waits):
    train(*begin(put=card.put, not_finite="skip"), waits.found.clear)
    assert waits.found


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x.add_(torch.ones(3).to(x.device)),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: x[torch.tensor([1, 2])],
    ],
)
def test_the_stand_in_notes_what_waits(wait, waits):
    wait(card.put(torch.ones(3)))
    assert len(waits.found) == 1
