"""Gradient clipping: each way by hand and against the published numbers, and what is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.tricks.clipping import EVERY_WAY, clip, total, weights
from tricks import Clipping, clip_gradients_

ORACLE = np.load(Path(__file__).parent.parent / "data" / "adaptive_clipping.npz")


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


def test_a_module_in_place_of_parameters_is_refused():
    with pytest.raises(TypeError, match=r"got a module\. Write model\.parameters\(\)"):
        clip_gradients_(nn.Linear(1, 1))


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
        (0.5, "quantile", "needs a history"),
        (0.5, "agc", "by must be one of"),
    ],
)
def test_the_plain_form_refuses_the_same(limit, by, message):
    with pytest.raises(ValueError, match=message):
        clip_gradients_(weights([1.0]), limit, by)
