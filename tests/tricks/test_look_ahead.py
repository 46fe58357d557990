"""Look-ahead: algorithm 1 by hand, the first synchronisation, what is evaluated, refusals."""

import copy

import pytest
import torch
from timm.optim import Lookahead
from torch import nn

from tests.tricks.averaging import INPUTS, begin, close, evaluated, network, same, snapshot, train
from tricks import LookAhead, Time, look_ahead_, recompute_batch_norm_


def moved(trick, updates, start=0.0):
    """Take steps of 1; give back the weight after each, and what is evaluated then."""
    model = nn.init.constant_((layer := nn.Linear(1, 1, bias=False)).weight, start) is None or layer
    begin(trick, model)
    found = []
    for update in range(1, updates + 1):
        model.weight.data += 1.0
        trick.weights(model, Time(update, 4, updates))
        found.append((model.weight.item(), evaluated(trick, model)["weight"].item()))
    return found


def test_slow_and_fast_weights_by_hand():
    fast, slow = zip(*moved(LookAhead(k=3, alpha=0.5), 7), strict=True)
    assert fast == (1.0, 2.0, 1.5, 2.5, 3.5, 3.0, 4.0)
    assert slow == (0.0, 0.0, 1.5, 1.5, 1.5, 3.0, 3.0)


def test_the_first_synchronisation_counts_and_timms_does_nothing():
    """Six steps of 1 with k=6 and alpha=.5 go half of the way."""
    weight = nn.Parameter(torch.zeros(1))
    timms = Lookahead(torch.optim.SGD([weight], lr=1.0), alpha=0.5, k=6)
    for _ in range(6):
        weight.grad = -torch.ones(1)
        timms.step()
    assert weight.item() == 6.0
    assert moved(LookAhead(k=6, alpha=0.5), 6)[-1] == (3.0, 3.0)


def test_after_the_first_synchronisation_timms_goes_as_ours():
    model = nn.Linear(1, 1, bias=False)
    slow = {"weight": nn.init.constant_(model.weight, 6.0).detach().clone()}  # timm's after 6 steps
    weight = nn.Parameter(torch.zeros(1))
    timms = Lookahead(torch.optim.SGD([weight], lr=1.0), alpha=0.5, k=6)
    for update in range(1, 31):
        weight.grad = -torch.ones(1)
        timms.step()
        if update > 6:
            model.weight.data += 1.0
            if update % 6 == 0:
                look_ahead_(slow, model, 0.5)
            assert model.weight.item() == weight.item()


def transcribed(steps, phi, k, alpha):
    """Algorithm 1 of the paper; `steps` are those of the inner optimizer, A(L, theta, d)."""
    slow = []
    for t in range(0, len(steps), k):
        theta = phi.clone()
        for step in steps[t : t + k]:
            theta += step
        phi = phi + alpha * (theta - phi)
        slow.append(phi)
    return slow


def test_it_is_algorithm_1_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(12, 3, 2, generator=generator)
    model, trick = nn.Linear(2, 3, bias=False), LookAhead(k=4, alpha=0.3)
    begin(trick, model)
    expected = transcribed(steps, model.weight.detach().clone(), 4, 0.3)
    for update, step in enumerate(steps, start=1):
        model.weight.data += step
        trick.weights(model, Time(update, 4, 12))
        if update % 4 == 0:
            torch.testing.assert_close(model.weight.data, expected[update // 4 - 1])


@pytest.mark.parametrize(("options", "expected"), [({"alpha": 1.0}, 7.0), ({"k": 1}, 3.5)])
def test_alpha_of_one_is_neutral_and_k_of_one_shortens_each_step(options, expected):
    assert moved(LookAhead(**options), 7)[-1][0] == expected


def test_the_falling_alpha_is_that_of_airbench():
    """Its decay, 1 - alpha, is .95^5 * (t / T)^3 at every fifth update."""
    slow = fast = 0.0
    for update in range(1, 21):
        fast += 1.0
        if update % 5 == 0:
            decay = 0.95**5 * (update / 20) ** 3
            slow = fast = decay * slow + (1 - decay) * fast
    found = moved(LookAhead(k=5, alpha=1 - 0.95**5, power=3.0), 20)[-1][0]
    assert found == pytest.approx(fast, rel=1e-6)
    assert fast != pytest.approx(20.0, abs=0.5)


def test_the_slow_weights_are_evaluated_with_the_running_statistics():
    model, trick = network(), LookAhead(k=3)
    states = train(trick, begin(trick, model), 5)
    found = evaluated(trick, model, inputs=None)
    for name, value in found.items():
        held = states[5] if "running" in name or "num" in name else states[3]
        assert torch.equal(value, held[name]), name


def test_recomputed_statistics_are_those_of_the_slow_weights():
    model, trick = network(), LookAhead(k=3, batch_norm="recompute")
    states = train(trick, begin(trick, model), 5)
    other = copy.deepcopy(model)
    other.load_state_dict(states[3])
    recompute_batch_norm_(other, INPUTS)
    assert same(evaluated(trick, model), snapshot(other))


def test_buffers_and_the_optimizers_state_stay_through_a_synchronisation():
    model, trick = network(), LookAhead(k=1)
    begin(trick, model)
    model[1].running_mean += 1
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trick.weights(model, Time(1, 4, 4))
    assert same(before, dict(model.named_buffers()))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    assert trick.optimizer(optimizer, model) is optimizer


@pytest.mark.parametrize("batch_norm", ["running", "recompute"])
def test_training_goes_on_to_the_bit_as_without_an_evaluation(batch_norm):
    model, trick = network(), LookAhead(k=2, batch_norm=batch_norm)
    before = train(trick, begin(trick, model), 3)[-1]
    drawn = torch.get_rng_state()
    assert not same(evaluated(trick, model), before)
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_resumed_training_keeps_the_slow_weights():
    model, trick = network(), LookAhead(k=3)
    train(trick, begin(trick, model), 4, updates=8)
    again, other = LookAhead(k=3), copy.deepcopy(model)
    begin(again, other)  # with the fast weights for first ones
    again.load_state_dict(trick.state_dict())
    for each, trained in ((trick, model), (again, other)):
        torch.manual_seed(1)
        train(each, trained, 3, first=4, updates=8)
    assert same(evaluated(trick, model), evaluated(again, other))
    assert same(snapshot(model), snapshot(other))


def test_a_second_training_begins_with_its_own_weights():
    trick = LookAhead(k=2)
    assert moved(trick, 4) == moved(LookAhead(k=2), 4)
    assert moved(trick, 4, start=5.0)[-1] == (7.0, 7.0)


def test_an_evaluation_before_the_first_update_is_refused():
    trick = LookAhead()
    model = begin(trick, nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"before its first update\. Call its `weights`"):
        evaluated(trick, model)


def test_weights_that_were_never_seen_are_refused():
    trick = LookAhead()
    model = trick.model(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"Call its `optimizer\(optimizer, model\)` before"):
        trick.weights(model, Time(1, 4, 8))
    with pytest.raises(ValueError, match="must be those of this model, got none"):
        look_ahead_({}, model)


def test_a_training_too_short_for_a_synchronisation_is_refused():
    trick = LookAhead(k=9)
    model = begin(trick, nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"LookAhead\.k must be <= 8, the updates .*, got 9"):
        trick.weights(model, Time(1, 4, 8))


def test_updates_that_no_synchronisation_follows_are_told():
    assert LookAhead(k=6).caveats(24, 12) == []
    (caveat,) = LookAhead(k=6).caveats(20, 10)
    assert caveat.startswith("the last 2 updates are not evaluated; a training of 18 or 24")
    (caveat,) = LookAhead(k=6).caveats(24, 4)
    assert "untrained, up to update 6, but an epoch is of 4 updates" in caveat


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, r"k must be >= 1 \(updates\), got 0"),
        ({"alpha": 0.0}, r"alpha must be > 0 and <= 1, got 0\.0"),
        ({"alpha": 1.1}, r"alpha must be > 0 and <= 1"),
        ({"power": -1.0}, r"power must be >= 0"),
        ({"power": float("inf")}, r"power must be >= 0 and finite"),
        ({"batch_norm": "x"}, r"batch_norm must be one of running, recompute, got 'x'"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, words):
    with pytest.raises(ValueError, match=rf"LookAhead\.{words}"):
        LookAhead(**options)


def test_half_precision_weights_move_by_less_than_their_rounding():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.constant_(model.weight, 1.0)
    trick = LookAhead(k=1, alpha=0.001)
    begin(trick, model)
    for update in range(1, 201):
        nn.init.constant_(model.weight, 2.0)
        trick.weights(model, Time(update, 4, 200))
    assert trick.state_dict()["slow"]["weight"].item() == pytest.approx(2 - 0.999**200, rel=1e-4)
    close(evaluated(trick, model), snapshot(model))
