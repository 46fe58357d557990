"""Clipping of gradients that are not finite: an error, or a skipped update."""

import math
from collections import deque

import pytest
import torch
from torch import nn

from tests.tricks.clipping import EVERY_WAY, clip, weights
from tricks import Centralization, Chain, Clipping, Flooding, check_gradients_, clip_gradients_


@pytest.mark.parametrize("by", EVERY_WAY)
@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_what_is_not_finite_is_an_error_before_anything_is_written(by, number):
    parameters, history = weights([number, 5.0], [2.0]), [1.0]
    with pytest.raises(FloatingPointError, match=r"is (inf|nan), not finite.*not_finite='skip'"):
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


def test_dropped_gradients_are_not_reported():
    trick = Clipping()
    parameters = weights([3.0])
    assert clip(trick, parameters)["norm"] == 3.0
    parameters[0].grad = None
    assert clip(trick, parameters) == {}


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_stopped_though_its_gradients_are(number):
    for loss in (number, torch.tensor(number), torch.tensor(number, requires_grad=True)):
        parameters = weights([3.0, 4.0])
        with pytest.raises(FloatingPointError, match=rf"The loss is {number}, not finite"):
            check_gradients_(parameters, loss=loss)
        assert parameters[0].grad.tolist() == [3.0, 4.0]
        assert check_gradients_(parameters, "skip", loss).isnan()
        assert parameters[0].grad is None
    assert check_gradients_(weights([3.0, 4.0]), loss=torch.tensor(1.0)).item() == 5.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("by", "limit", "clipped"),
    [
        ("norm", 1.0, 300 / 76800),
        ("value", 2.0, 2.0),
        ("parameter", 1.0, 300 / 76800),
        ("unit", 0.1, 0.1),
        ("quantile", 0.5, 300 / 76800),
    ],
)
@pytest.mark.parametrize("adapter", [False, True])
def test_a_norm_beyond_the_range_of_float16_is_a_norm(dtype, by, limit, clipped, adapter):
    parameter = torch.ones(65536, dtype=dtype, requires_grad=True)
    parameter.grad = torch.full_like(parameter, 300)
    if adapter:
        name = {"norm": "max_norm", "value": "max_value", "unit": "factor", "quantile": "quantile"}
        options = {name.get(by, "max_parameter_norm"): limit}
        trick = Clipping(by=by, **options, **({"warmup": 1} if by == "quantile" else {}))
        if by == "quantile":
            trick.load_state_dict({"norms": [1.0]})
        report = clip(trick, [parameter])
        norm, share = report["norm"], report["clipped_share"]
        assert share == 1.0
    else:
        assert check_gradients_(parameter, "skip").item() == pytest.approx(76800, rel=1e-3)
        norm = clip_gradients_(parameter, limit, by, history=[1.0]).item()
    assert norm == pytest.approx(76800, rel=1e-3)
    assert parameter.grad.dtype == dtype
    torch.testing.assert_close(parameter.grad, torch.full_like(parameter, clipped))


@pytest.mark.parametrize("by", ["parameter", "unit", "norm"])
def test_in_float16_a_factor_below_its_range_is_no_zero(by):
    parameter = torch.zeros(1, 2500, dtype=torch.float16, requires_grad=True)
    parameter.grad = torch.full_like(parameter, 60000)
    limit = {"parameter": 1e-2, "norm": 1e-2, "unit": 10.0}[by]
    norm = clip_gradients_(parameter, limit, by)
    assert norm.item() == pytest.approx(3e6, rel=1e-3)
    torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 2e-4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("by", ["norm", "parameter", "unit", "quantile"])
def test_on_a_card_too_factors_are_not_rounded_to_float16(by, dtype):
    parameter = torch.zeros(1, 65536, dtype=dtype, device="cuda", requires_grad=True)
    parameter.grad = torch.full_like(parameter, 60000)
    limit = {"quantile": 0.5, "unit": 10.0}.get(by, 1e-2)
    clip_gradients_(parameter, limit, by, history=[1e-2])
    expected = torch.full_like(parameter, 1e-2 / 256)
    torch.testing.assert_close(parameter.grad, expected, rtol=0.01, atol=0)


def test_by_unit_weights_of_zero_keep_learning_in_float16():
    parameter = torch.zeros(1, 8, dtype=torch.float16, requires_grad=True)
    parameter.grad = torch.full_like(parameter, 1000)
    clip_gradients_(parameter, 0.01, "unit")
    expected = torch.full_like(parameter, 1e-5 / 8**0.5)
    torch.testing.assert_close(parameter.grad, expected, rtol=0.02, atol=0)


def test_the_norm_of_many_tensors_and_of_several_types_is_that_of_the_vector():
    parameters = weights(*[[1000.0] * 1000] * 10, dtype=torch.float16)
    parameters += weights([3e5, 4e5], dtype=torch.float32)
    expected = (10 * 1000 * 1000.0**2 + 5e5**2) ** 0.5
    assert check_gradients_(parameters).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("by", "limit", "clipped"),
    [("norm", 1.0, 0.5), ("value", 2.0, 2.0), ("parameter", 1.0, 0.5), ("unit", 0.1, 0.1)],
)
def test_finite_gradients_are_clipped_although_their_squares_are_out_of_range(by, limit, clipped):
    for adapter in (False, True):
        parameters = weights([1e30] * 4, dtype=torch.float32)
        if adapter:
            name = {"norm": "max_norm", "value": "max_value", "unit": "factor"}
            report = clip(Clipping(by, **{name.get(by, "max_parameter_norm"): limit}), parameters)
            assert report == {"norm": pytest.approx(2e30), "clipped_share": 1.0}
        else:
            assert clip_gradients_(parameters, limit, by).item() == pytest.approx(2e30)
        torch.testing.assert_close(parameters[0].grad, torch.full((4,), clipped))


@pytest.mark.parametrize("by", ["norm", "value", "parameter", "unit"])
def test_gradients_that_become_nan_count_as_clipped(by):
    parameters = weights([math.nan, 0.1])
    report = clip(Clipping(by), parameters)
    assert math.isnan(report["norm"])
    assert report["clipped_share"] == 1.0
