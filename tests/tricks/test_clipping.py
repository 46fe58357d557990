"""Gradient clipping: each way by hand and against the published numbers, and what is refused."""

import math
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import get_total_norm

from tricks import Centralization, Chain, Clipping, Flooding, check_gradients_, clip_gradients_

ORACLE = np.load(Path(__file__).parent.parent / "data" / "adaptive_clipping.npz")
EVERY_WAY = ["norm", "value", "parameter", "unit", "quantile"]


def weights(*gradients, dtype=torch.float64):
    """Parameters of ones that have these gradients."""
    made = []
    for gradient in gradients:
        gradient = torch.as_tensor(gradient, dtype=dtype)
        made.append(torch.ones_like(gradient, requires_grad=True))
        made[-1].grad = gradient.clone()
    return made


def clip(trick, parameters, model=None):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    trick.gradients(model or nn.Identity(), optimizer, torch.tensor(1.0))
    return trick.report()


def total(parameters):
    return get_total_norm([p.grad for p in parameters]).item()


@pytest.mark.parametrize(
    ("by", "limit", "clipped"),
    [
        ("norm", 6.5, [[1.5, 2.0], [6.0, 0.0]]),
        ("value", 3.5, [[3.0, 3.5], [3.5, 0.0]]),
        ("parameter", 6.0, [[3.0, 4.0], [6.0, 0.0]]),
        ("unit", 4.0, [[3.0, 4.0], [4 * math.sqrt(2), 0.0]]),
    ],
)
def test_each_way_by_hand(by, limit, clipped):
    parameters = weights([3.0, 4.0], [12.0, 0.0])
    norm = clip_gradients_(iter(parameters), limit, by)
    assert norm.item() == pytest.approx(13.0)
    for parameter, expected in zip(parameters, clipped, strict=True):
        np.testing.assert_allclose(parameter.grad, expected, atol=1e-6)


def test_by_unit_gives_the_published_numbers():
    names = [key.removeprefix("grad/") for key in ORACLE if key.startswith("grad/")]
    parameters = []
    for name in names:
        parameters.append(torch.tensor(ORACLE[f"weight/{name}"], requires_grad=True))
        parameters[-1].grad = torch.tensor(ORACLE[f"grad/{name}"])
    clip_gradients_(parameters, 0.01, "unit", eps=1e-3)
    for name, parameter in zip(names, parameters, strict=True):
        np.testing.assert_allclose(parameter.grad, ORACLE[f"clipped/{name}"], rtol=0, atol=1e-9)


def test_by_unit_a_weight_of_zeros_keeps_learning():
    (weight,) = weights([[3.0, 4.0], [0.0, 0.0]])
    weight.data.zero_()
    clip_gradients_(weight, 0.01, "unit")
    np.testing.assert_allclose(weight.grad, [[0.6e-5, 0.8e-5], [0.0, 0.0]], rtol=1e-12)


def test_by_parameter_and_unit_the_bound_is_exact_in_float64():
    for by, bound in (("parameter", 0.1), ("unit", 0.1 * math.sqrt(2))):
        (weight,) = weights([[3.0, 4.0]])
        clip_gradients_(weight, 0.1, by)
        assert total([weight]) == pytest.approx(bound, rel=1e-14)


gradients = st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), min_size=1, max_size=4)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(gradients, st.floats(1e-2, 1e2))
def test_a_clipped_norm_is_the_bound_and_keeps_its_direction(given, limit):
    parameters = weights(*given)
    before = torch.stack([p.grad.clone() for p in parameters])
    norm = clip_gradients_(parameters, limit).item()
    after = torch.stack([p.grad for p in parameters])
    assert total(parameters) == pytest.approx(min(norm, limit), abs=1.1e-6)
    torch.testing.assert_close(after * norm, before * total(parameters))


@pytest.mark.parametrize("by", ["norm", "value", "parameter", "unit"])
def test_what_is_within_its_bound_keeps_its_bits(by):
    parameters = weights([0.1, 0.2], [[0.3, -0.7], [0.0, 0.0]], dtype=torch.float32)
    before = [p.grad.clone() for p in parameters]
    clip_gradients_(parameters, 1.0, by)
    assert all(torch.equal(p.grad, b) for p, b in zip(parameters, before, strict=True))


@pytest.mark.parametrize("by", ["norm", "value", "parameter", "unit"])
@pytest.mark.parametrize("number", [1e30, math.inf])
def test_an_infinite_limit_measures_only(by, number):
    parameters = weights([number, 1.0], [2.0])
    assert clip_gradients_(parameters, math.inf, by).item() == number
    assert [p.grad.tolist() for p in parameters] == [[number, 1.0], [2.0]]


@pytest.mark.parametrize("by", EVERY_WAY)
def test_parameters_without_gradients_are_passed_over(by):
    history = []
    assert clip_gradients_([torch.ones(2, requires_grad=True)], 1.0, by, history=history) == 0
    assert clip_gradients_([], 1.0, by, history=history) == 0
    assert history == []


units = st.lists(st.integers(1, 4), min_size=1, max_size=4)
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(units, dtypes, st.integers(0, 99), st.floats(0.01, 10), st.floats(1e-3, 1))
def test_by_unit_no_units_gradient_is_longer_than_its_share_of_the_weights(
    shape, dtype, seed, factor, eps
):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    weight[0] = 0.0
    weight.requires_grad_()
    weight.grad = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    before = weight.grad.clone()
    clip_gradients_(weight, factor, "unit", eps=eps)
    tolerance = 4 * torch.finfo(dtype).eps
    for w, g, b in zip(*(t.detach().double() for t in units_of(weight, before)), strict=True):
        bound = factor * max(w.norm().item(), eps)
        assert g.norm() <= bound * (1 + tolerance)
        scale = min(1.0, bound / b.norm().item()) if b.norm() else 1.0
        torch.testing.assert_close(g, b * scale, rtol=4 * tolerance, atol=0)


def units_of(weight, before):
    """The units of a weight, of its gradient and of that before: rows, or all of a vector."""
    rows = len(weight) if weight.ndim > 1 else 1
    return (t.reshape(rows, -1) for t in (weight, weight.grad, before))


# What is not finite


@pytest.mark.parametrize("by", EVERY_WAY)
@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_what_is_not_finite_is_an_error_before_anything_is_written(by, number):
    parameters, history = weights([number, 5.0], [2.0]), [1.0]
    with pytest.raises(FloatingPointError, match=r"must be finite, got .*not_finite='skip'"):
        clip_gradients_(parameters, 0.1, by, history=history)
    assert str([p.grad.tolist() for p in parameters]) == str([[number, 5.0], [2.0]])
    assert history == [1.0]


def in_training(kind, **options):
    """Two weights and an optimizer with a state, in mid-training."""
    parameters = weights([1.0, 2.0], [[3.0]], dtype=torch.float32)
    optimizer = kind(parameters, **options)
    optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("by", EVERY_WAY)
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_skipped_update_changes_neither_weights_nor_the_optimizers_state(kind, options, by):
    if kind is torch.optim.SGD:
        options = {**options, "momentum": 0.9}
    parameters, optimizer = in_training(kind, lr=0.1, weight_decay=0.1, **options)
    before = str([parameters, optimizer.state_dict()])
    parameters[0].grad[0] = math.inf
    history = [1.0]
    norm = clip_gradients_(parameters, 0.1, by, history=history, not_finite="skip")
    assert norm.item() == math.inf
    assert history == [1.0]
    optimizer.step()
    assert str([parameters, optimizer.state_dict()]) == before


@pytest.mark.parametrize("by", EVERY_WAY)
@pytest.mark.parametrize("fused", [False, True])
def test_under_a_loss_scaler_an_overflow_is_skipped_and_the_rest_is_as_without(fused, by):
    results = []
    for enabled in (False, True):
        (weight,) = weights([0.0, 0.0], dtype=torch.float32)
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=enabled)
        history = deque(maxlen=2)
        for slope in (3.0, 4.0, math.inf, 5.0):
            optimizer.zero_grad()
            scaler.scale((weight * slope).sum()).backward()
            scaler.unscale_(optimizer)
            clip_gradients_([weight], 0.5, by, history=history, not_finite="skip")
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == (2.0**11 if enabled else 1.0)
        results.append((weight.tolist(), list(history)))
    assert results[0] == results[1]


def test_after_dropped_gradients_a_chain_does_nothing():
    for where in ("gradient", "gradient_and_decay", "update"):
        model = nn.Linear(3, 2)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        clipping = Clipping(by="quantile", warmup=1)
        loss = model(torch.full((1, 3), math.inf)).sum()
        loss.backward()
        assert not check_gradients_(model.parameters(), "skip").isfinite()
        Chain(Flooding(), Centralization(where), clipping).gradients(model, optimizer, loss)
        optimizer.step()
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        assert clipping.state_dict() == {"norms": []}
        assert clipping.report() == {}


def test_the_check_gives_the_norm_and_knows_two_policies():
    parameters = weights([3.0, 4.0], [12.0])
    assert check_gradients_(parameters).item() == 13.0
    assert [p.grad.tolist() for p in parameters] == [[3.0, 4.0], [12.0]]
    with pytest.raises(ValueError, match="not_finite must be error or skip, got 'ignore'"):
        check_gradients_(parameters, "ignore")


def norms_by_quantile(trick, sequence):
    """The norms that are left of gradients of these norms, one update after another."""
    left = []
    for norm in sequence:
        parameters = weights([norm])
        clip(trick, parameters)
        left.append(total(parameters))
    return left


def test_the_quantile_is_that_of_the_earlier_norms_after_the_warm_up():
    trick = Clipping(by="quantile", quantile=0.5, warmup=2)
    left = norms_by_quantile(trick, [1.0, 5.0, 4.0, 9.0, 1.0])
    # medians of (1, 5), (1, 5, 4), (1, 5, 4, 9): the raw norms count, not the clipped ones
    assert left == pytest.approx([1.0, 5.0, 3.0, 4.0, 1.0], abs=1e-5)
    assert trick.report() == {"norm": 1.0, "clipped_share": 0.0, "threshold": 4.5}


def test_the_plain_form_by_quantile_keeps_its_norms_in_the_list_it_is_given():
    history = []
    for norm, left in ((4.0, 4.0), (8.0, 4.0), (8.0, 6.0)):
        (weight,) = weights([norm])
        assert clip_gradients_([weight], 0.5, "quantile", history=history).item() == norm
        assert total([weight]) == pytest.approx(left, abs=1e-5)
    assert history == [4.0, 8.0, 8.0]


def test_before_the_warm_up_is_over_there_is_no_threshold_and_a_quantile_of_0_is_the_least():
    trick = Clipping(by="quantile", quantile=0.0, warmup=2)
    assert "threshold" not in clip(trick, weights([4.0]))
    clip(trick, weights([2.0]))
    parameters = weights([8.0])
    assert clip(trick, parameters)["threshold"] == 2.0
    assert total(parameters) == pytest.approx(2.0, abs=1e-5)
    (weight,) = weights([8.0])
    clip_gradients_(weight, 0.0, "quantile", history=[4.0, 2.0])
    assert total([weight]) == pytest.approx(2.0, abs=1e-5)


def test_a_saved_history_is_that_of_its_moment():
    trick = Clipping(by="quantile", warmup=1)
    clip(trick, weights([1.0]))
    state = trick.state_dict()
    clip(trick, weights([2.0]))
    assert state == {"norms": [1.0]}
    with pytest.raises(ValueError, match="must hold norms"):
        trick.load_state_dict({"norms": [], "more": 1})


def test_the_norms_of_one_training_do_not_clip_the_next():
    trick = Clipping(by="quantile", quantile=1.0, warmup=2)
    norms_by_quantile(trick, [1.0, 1.0, 1.0])
    trick.model(nn.Identity())
    assert trick.state_dict() == {"norms": []}
    assert trick.report() == {}
    assert norms_by_quantile(trick, [9.0, 7.0]) == [9.0, 7.0]


def test_only_a_quantile_reads_and_writes_the_history():
    (weight,), history = weights([8.0]), [1.0]
    clip_gradients_(weight, 4.0, "norm", history=history)
    assert history == [1.0]
    assert total([weight]) == pytest.approx(4.0, abs=1e-5)


def test_what_was_dropped_is_reported_no_more():
    trick = Clipping()
    parameters = weights([3.0])
    assert clip(trick, parameters)["norm"] == 3.0
    parameters[0].grad = None
    assert clip(trick, parameters) == {}


def test_a_module_in_place_of_parameters_is_told_what_to_write():
    with pytest.raises(TypeError, match=r"got a module\. Write model\.parameters\(\)"):
        clip_gradients_(nn.Linear(1, 1))


def test_only_the_last_norms_count():
    trick = Clipping(by="quantile", quantile=1.0, history=2, warmup=1)
    left = norms_by_quantile(trick, [100.0, 1.0, 2.0, 50.0])
    assert left == pytest.approx([100.0, 1.0, 2.0, 2.0], abs=1e-5)


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_norm_that_is_not_finite_never_enters_the_history(number):
    trick = Clipping(by="quantile", quantile=1.0, warmup=1)
    clip(trick, weights([1.0]))
    clip(trick, weights([number]))
    assert trick.state_dict() == {"norms": [1.0]}


def test_the_history_goes_on_from_its_state():
    straight = Clipping(by="quantile", warmup=1)
    norms_by_quantile(straight, [3.0, 1.0])
    resumed = Clipping(by="quantile", warmup=1)
    resumed.load_state_dict(straight.state_dict())
    assert norms_by_quantile(resumed, [7.0, 5.0]) == norms_by_quantile(straight, [7.0, 5.0])
    assert Clipping().state_dict() == {}
    with pytest.raises(ValueError, match="must hold norms"):
        resumed.load_state_dict({})
    with pytest.raises(ValueError, match="has no state"):
        Clipping().load_state_dict(straight.state_dict())


@pytest.mark.parametrize(
    ("options", "gradient", "share"),
    [
        ({}, [3.0, 4.0], 1.0),
        ({}, [0.3, 0.4], 0.0),
        ({"max_norm": math.inf}, [3.0, 4.0], 0.0),
        ({"by": "value", "max_value": 3.5}, [3.0, 4.0], 1.0),
        ({"by": "value", "max_value": 4.5}, [3.0, 4.0], 0.0),
        ({"by": "parameter", "max_parameter_norm": 4.5}, [3.0, 4.0], 1.0),
        ({"by": "parameter", "max_parameter_norm": 5.5}, [3.0, 4.0], 0.0),
        ({"by": "unit", "factor": 2.0}, [[0.1, 0.1], [3.0, 4.0]], 1.0),
        ({"by": "unit", "factor": 4.0}, [[0.1, 0.1], [3.0, 4.0]], 0.0),
    ],
)
def test_an_update_counts_as_clipped_just_when_a_bound_was_exceeded(options, gradient, share):
    parameters = weights(gradient)
    before = parameters[0].grad.clone()
    trick = Clipping(**options)
    assert trick.report() == {}
    assert clip(trick, parameters)[trick.activity] == share
    assert torch.equal(parameters[0].grad, before) == (share == 0.0)


def test_by_unit_the_classifier_is_left_alone_and_yet_counted_in_the_norm():
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 1), nn.Linear(2, 2))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    report = clip(Clipping(by="unit"), list(model.parameters()), model)
    assert report["norm"] == pytest.approx(math.sqrt(18))
    assert all((p.grad == 1).all() for p in model[2].parameters())
    assert all((p.grad < 0.1).all() for layer in model[:2] for p in layer.parameters())


def test_gradients_that_the_optimizer_does_not_use_are_left_alone():
    used, other = weights([3.0, 4.0], [30.0, 40.0])
    report = clip(Clipping(), [used], nn.ParameterList([used, other]))
    assert report["norm"] == pytest.approx(5.0)
    assert other.grad.tolist() == [30.0, 40.0]


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_scaler_that_was_unscaled_first_changes_nothing(fused):
    results = []
    for enabled in (False, True):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=enabled)
        weight = torch.tensor([3.0, 4.0], requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=1.0, fused=fused)
        scaler.scale(weight.square().sum()).backward()
        scaler.unscale_(optimizer)
        Clipping().gradients(nn.Identity(), optimizer, torch.tensor(25.0))
        scaler.step(optimizer)
        results.append(weight.tolist())
    assert results[0] == results[1] == pytest.approx([2.4, 3.2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": -1}, r"Clipping\.max_norm must be > 0, got -1\. Use \.inf to measure only"),
        ({"max_norm": math.nan}, r"Clipping\.max_norm must be > 0, got nan"),
        ({"by": "value", "max_value": 0.0}, r"Clipping\.max_value must be > 0, got 0\.0"),
        ({"by": "unit", "eps": 0.0}, r"Clipping\.eps must be > 0 and finite, got 0\.0"),
        ({"by": "quantile", "quantile": 1.5}, r"Clipping\.quantile must be from 0 to 1, got 1\.5"),
        ({"by": "quantile", "history": 5}, r"Clipping\.warmup must be from 1 to history, got 20"),
        ({"by": "agc"}, r"Clipping\.by must be one of norm, .*, got 'agc'"),
        ({"by": "value", "max_norm": 0.1}, r"max_norm must stay 1\.0 where by=value.*max_value"),
    ],
)
def test_a_value_out_of_its_range_or_never_read_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Clipping(**options)


@pytest.mark.parametrize(
    ("limit", "by", "message"),
    [
        (0.0, "norm", "limit must be > 0, got 0.0. Use math.inf"),
        (math.nan, "value", "limit must be > 0, got nan"),
        (1.5, "quantile", "limit must be from 0 to 1"),
        (0.5, "quantile", "must be given a history"),
        (0.5, "agc", "by must be one of"),
    ],
)
def test_the_plain_form_refuses_the_same(limit, by, message):
    with pytest.raises(ValueError, match=message):
        clip_gradients_(weights([1.0]), limit, by)
