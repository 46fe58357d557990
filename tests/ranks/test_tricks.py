"""Every trick is the same over two ranks: what two find is in tests/ranks/worker.py."""

import json

import pytest
from torch import nn

from runner.data.augmentation import pick
from runner.errors import UserError
from runner.micro_batches import micro_batches
from runner.ranks import ALONE, Parts, Passes, Ranks, divide
from tests.conftest import ROOT
from tests.loop import batch, time_of
from tests.ranks.start import ended, start_ranks
from tests.test_laws import NODES

QUICK = ("None", "clipping", "flooding", "mixup", "sam", "ema")
LAWS = (
    "weights are those of one process",
    "losses too",
    "all ranks hold the same",
    "with synchronised batch norm it is one whole update",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two ranks find, tried once for as many tricks as asked."""
    file, known = tmp_path_factory.mktemp("ranks") / "found.json", {}

    def find(names):
        if not set(names) <= set(known):
            given = (str(file), "cpu", *names)
            two = start_ranks(ROOT, *given, module="tests.ranks.worker", OMP_NUM_THREADS="1")
            found = ended(two, timeout=600)
            assert found.codes == [0, 0], found.err
            known.update(json.loads(file.read_text()))
        return known

    return find


@pytest.mark.parametrize("law", LAWS)
def test_some_tricks_over_two_ranks(found, law):
    assert [name for name in QUICK if not found(QUICK)[name][law]] == []


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_every_trick_over_two_ranks(found, law):
    names = ("None", *NODES)
    assert [name for name in names if not found(names)[name][law]] == []


@pytest.mark.parametrize("evenly", [False, True])
@pytest.mark.parametrize(("samples", "size"), [(12, 3), (12, 6), (5, 2), (1, 3), (7, 2)])
def test_the_parts_of_an_update_are_dealt_without_repeats(samples, size, evenly):
    whole, hands = batch(0, samples=samples), []
    for rank in range(2):
        parts = Parts(size, Ranks(rank, 2), evenly)
        own = pick(whole.targets, parts.places(samples))
        given = whole._replace(inputs=pick(whole.inputs, parts.places(samples)), targets=own)
        hands.append([*micro_batches(given, time_of(0), parts, samples, 10)])
    dealt = [part for hand in hands for part in hand]
    assert sum(share for *_, share, _ in dealt) == pytest.approx(1)
    assert all(hand[-1][-1] and not any(last for *_, last in hand[:-1]) for hand in hands if hand)
    sums = sorted(float(image.sum()) for micro, *_ in dealt for image in micro.inputs)
    assert sums == pytest.approx(sorted(float(image.sum()) for image in whole.inputs))
    if not evenly:
        alone = [*micro_batches(whole, time_of(0), Parts(size), classes=10)]
        seeds = {generator.initial_seed() for _, generator, *_ in dealt}
        assert seeds == {generator.initial_seed() for _, generator, *_ in alone}
    elif samples >= 2:
        assert len(hands[0]) == len(hands[1])


def test_samples_are_divided_among_ranks_and_too_few_refused():
    assert divide(64, 14, None, ALONE, together=False) == Parts()
    assert divide(64, 14, 16, ALONE, together=True) == Parts(16)
    two, four = Ranks(0, 2), Ranks(0, 4)
    assert divide(64, 14, None, two, together=False) == Parts(32, two)
    assert divide(64, 14, 16, two, together=True) == Parts(16, two, evenly=True, together=True)
    assert divide(50, 0, None, four, together=False) == Parts(13, four, evenly=True)
    with pytest.raises(UserError, match="batch_size=3 is an update's"):
        divide(3, 0, None, Ranks(0, 4), together=False)
    with pytest.raises(
        UserError, match=r"into 1 part, too few for 2 ranks\. Set micro_batch_size=32"
    ):
        divide(64, 14, 64, two, together=False)
    assert divide(64, 14, 64, two, together=True).cut(64) == [32, 32]
    with pytest.raises(UserError, match="Set drop_last=true"):
        divide(8, 1, None, Ranks(0, 2), together=True)


def test_what_was_dealt_is_merged_in_order(monkeypatch):
    hands = [list(range(7))[rank::3] for rank in range(3)]
    ranks = Ranks(0, 3)
    monkeypatch.setattr(ranks, "gather", lambda _: hands)
    assert ranks.merge(hands[0]) == list(range(7))


def test_a_model_with_lazy_layers_is_refused_over_ranks():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    Passes(model, ALONE)
    with pytest.raises(UserError, match=r"at the start, and 1\.weight is made in the first pass"):
        Passes(model, Ranks(0, 2))
