"""On a card no update waits for it, whatever trick is on."""

import copy

import pytest
import torch

from runner.data import Augmentation, Batches, Split
from runner.train import Training
from tests import card
from tests.loop import CLASSES, INPUTS, PER_EPOCH, UPDATES, images_of
from tests.test_laws import CHAINS, network
from tricks import Chain

SAMPLES = 12


def updates(chosen, put=lambda x: x, count=4, before_the_last=lambda: None, **options):
    """Make updates of a training with tricks, all that it holds being put somewhere."""
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
        Split(put(images), put(labels)), SAMPLES, mean, std, Augmentation(crop=1, flip=True),
        shuffle=True, trick=chain, begin=training.begin,
    )  # fmt: skip
    for epoch in range(count // PER_EPOCH):
        for batch in batches.epoch(epoch):
            if training.updates == 1:
                before_the_last()
            training.step(batch)
    return training


@pytest.mark.parametrize("named", CHAINS)
def test_no_update_waits_for_the_card_and_it_does_what_it_does_on_a_cpu(named, monkeypatch):
    here = updates(CHAINS[named], micro_batch_size=7)
    monkeypatch.setattr(torch, "Generator", card.Generator)
    with card.Waits() as waits:
        there = updates(
            CHAINS[named], card.put, before_the_last=waits.found.clear, micro_batch_size=7
        )
        assert waits.found == []
        there.settle()
        weights = card.fetch(dict(there.model.state_dict()))
        means = there.recent.means()
    for name, weight in here.model.state_dict().items():
        torch.testing.assert_close(weights[name], weight)
    assert means == pytest.approx(here.recent.means(), rel=1e-5)
