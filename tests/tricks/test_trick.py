"""`Trick` and `Chain`: the identity, splicing, the order, states, and random streams."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from tricks import (
    Batch,
    Centralization,
    Chain,
    Clipping,
    Flooding,
    LabelSmoothing,
    Time,
    Trick,
    WarmRestarts,
    derive_seed,
    in_order,
)

TIME = Time(5, 2, 8)


class Noise(Trick):
    """Adds random numbers to the inputs."""

    def batch(self, batch, generator):
        return batch._replace(inputs=batch.inputs + torch.rand(1000, generator=generator))


class OtherNoise(Trick):
    """The same under another name."""

    batch = Noise.batch


class Factor(Trick):
    """Multiplies the losses, and keeps count."""

    def __init__(self, factor):
        self.factor, self.calls = factor, 0

    def loss(self, losses, outputs, targets):  # noqa: ARG002
        self.calls += 1
        return losses * self.factor

    def report(self):
        return {"calls": float(self.calls)}

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


class Mark(Trick):
    """Leaves its mark on whatever passes, a list."""

    def __init__(self, mark):
        self.mark = mark

    def model(self, passing, *_):
        return [*passing, self.mark]

    optimizer = schedule = order = images = batch = loss = objective = prediction = model

    def backward(self, compute, _):
        return [*compute(), self.mark]

    def weights(self, passing, *_):
        passing.append(self.mark)

    initialize = gradients = weights

    @contextmanager
    def evaluation(self, passing, _):
        passing.append(self.mark)
        yield
        passing.append(self.mark)


class EMAOfWeights2d(Trick):
    """A name to put in snake case."""


@pytest.mark.parametrize("identity", [Trick(), Chain()])
def test_a_trick_and_the_empty_chain_change_nothing(identity):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch, losses = Batch(torch.rand(3, 2), torch.zeros(3)), torch.rand(3)
    assert identity.model(model) is model
    assert identity.optimizer(optimizer, model) is optimizer
    assert identity.schedule(0.3, TIME) == 0.3
    assert identity.order(batch.targets) is batch.targets
    assert identity.images(batch.inputs, batch.targets, TIME, torch.Generator()) is batch.inputs
    assert identity.batch(batch, torch.Generator()) is batch
    assert identity.loss(losses, batch.inputs, batch.targets) is losses
    assert identity.backward(lambda: losses, model) is losses
    with identity.evaluation(model, []):
        assert identity.prediction(model) is model
    assert identity.objective(losses) is losses
    identity.gradients(model, optimizer, losses)
    identity.initialize(model, [])
    identity.weights(model, TIME)
    assert identity.report() == identity.state_dict() == {}
    identity.load_state_dict({})


def test_every_hook_passes_through_the_tricks_in_order():
    chain = Chain(Mark(1), Mark(2))
    generator = torch.Generator()
    for hook in (chain.model, chain.order, chain.objective, chain.prediction):
        assert hook([]) == [1, 2]
    for hook in (chain.optimizer, chain.schedule):
        assert hook([], None) == [1, 2]
    assert chain.loss([], None, None) == [1, 2]
    assert chain.images([], None, None, generator) == chain.batch([], generator) == [1, 2]
    assert chain.backward(list, None) == [1, 2]
    chain.gradients(seen := [], None, None)
    chain.weights(seen, TIME)
    chain.initialize(seen, [])
    with chain.evaluation(seen, []):
        assert seen == [1, 2] * 4
    assert seen == [1, 2] * 4 + [2, 1]


def test_a_chain_in_a_chain_is_spliced():
    one, two, three = Factor(1.0), Factor(2.0), Factor(3.0)
    assert [*Chain(one, Chain(two, Chain(), Chain(three)))] == [one, two, three]
    assert repr(Chain(Flooding(), Chain(Clipping()))) == f"Chain({Flooding()}, {Clipping()})"


def test_a_wrong_order_is_refused_and_the_right_one_named():
    with pytest.raises(
        ValueError,
        match=r"Clipping must come after Flooding and Centralization, "
        r"got WarmRestarts -> Clipping -> Flooding -> Centralization\. "
        r"Write WarmRestarts -> Flooding -> Centralization -> Clipping\.",
    ):
        Chain(WarmRestarts(), Clipping(), Chain(Flooding(), Centralization()))
    Chain(WarmRestarts(), Flooding(), Centralization(), Clipping())


def test_states_and_reports_are_gathered_under_names_of_their_own():
    chain = Chain(Factor(1.0), Flooding(), Factor(2.0))
    chain.tricks[0].loss(torch.ones(1), None, None)
    assert chain.report() == {"factor/calls": 1.0, "factor_2/calls": 0.0}
    state = chain.state_dict()
    assert state == {"factor": {"calls": 1}, "flooding": {}, "factor_2": {"calls": 0}}
    other = Chain(Factor(1.0), Flooding(), Factor(2.0))
    other.load_state_dict(state)
    assert other.state_dict() == state


def test_the_state_of_other_tricks_is_refused():
    state = Chain(Factor(1.0), Flooding()).state_dict()
    with pytest.raises(ValueError, match=r"must be that of flooding, got factor -> flooding\."):
        Chain(Flooding()).load_state_dict(state)
    with pytest.raises(ValueError, match=r"Flooding has no state, got \['calls'\]"):
        Flooding().load_state_dict({"calls": 1})


def noise(*tricks, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Chain(*tricks).batch(Batch(torch.zeros(1000), torch.tensor([0])), generator).inputs


def test_a_trick_draws_the_same_numbers_whatever_the_others_do():
    together, one, other = noise(Noise(), OtherNoise()), noise(Noise()), noise(OtherNoise())
    torch.testing.assert_close(together, one + other)
    assert torch.equal(one, noise(Flooding(), Noise()))
    assert torch.equal(one, noise(Noise()))


def test_two_tricks_draw_unrelated_numbers_also_two_of_a_kind():
    second = noise(Noise(), Noise()) - noise(Noise())
    for one, other in ((noise(Noise()), noise(OtherNoise())), (noise(Noise()), second)):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.1
    assert not torch.equal(noise(Noise(), seed=1), noise(Noise()))


def test_in_order_moves_only_what_must_move():
    given = [Clipping, WarmRestarts, Flooding, LabelSmoothing, Centralization]
    expected = [WarmRestarts, LabelSmoothing, Flooding, Centralization, Clipping]
    ordered = in_order(given)
    assert {*ordered} == {*expected}
    assert ordered.index(LabelSmoothing) < ordered.index(Flooding) < ordered.index(Clipping)
    assert ordered.index(Centralization) < ordered.index(Clipping)
    assert in_order(expected) == expected


def test_tricks_that_must_each_follow_the_other_are_refused():
    class Hen(Trick):
        after = ("Egg",)

    class Egg(Trick):
        after = ("Hen",)

    with pytest.raises(ValueError, match="Egg and Hen must each follow"):
        in_order([Hen, Egg])


def test_a_name_is_the_class_in_snake_case():
    names = [kind.name for kind in (WarmRestarts, Clipping, EMAOfWeights2d)]
    assert names == ["warm_restarts", "clipping", "ema_of_weights2d"]


def test_a_seed_depends_on_every_part_and_on_their_order():
    parts = [(0,), (1,), (0, 0), (0, "a"), ("a", 0), (0, "a", 1), (0, "a", 2)]
    seeds = {derive_seed(*some) for some in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1)
