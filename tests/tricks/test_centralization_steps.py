"""Centralization in training: weight decay, the update, optimizers, closures, loss scalers."""

import pytest
import torch
from torch.nn.utils import get_total_norm

from tests.tricks.centralization import backward, network
from tricks import Centralization, Chain, Clipping, centralize_


@pytest.mark.parametrize("where", ["gradient_and_decay", "update"])
def test_a_weight_without_a_gradient_keeps_its_bits(where):
    """Frozen from the beginning, or dropped by another between the trick and the step."""
    for drop in (False, True):
        model, trick = network(), Centralization(where)
        model[4].weight.requires_grad_(drop)
        before = model[4].weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        backward(model, 0)
        trick.gradients(model, optimizer, torch.tensor(1.0))
        if drop:
            model[4].weight.grad = None
        optimizer.step()
        assert torch.equal(model[4].weight, before)


def means(model):
    convolution, transposed, linear = (model[i].weight.detach() for i in (0, 2, 4))
    return [
        convolution.mean((1, 2, 3)),
        transposed.reshape(2, 3, 2, 3, 3).mean((1, 3, 4)),
        linear.mean(1),
    ]


def drift(trick, kind=torch.optim.SGD, steps=10, **options):
    """Train; give back the most that the mean of a unit has moved."""
    model = trick.model(network())
    optimizer = trick.optimizer(kind(model.parameters(), **options), model)
    start = means(model)
    for step in range(steps):
        backward(model, step)
        trick.gradients(model, optimizer, torch.tensor(1.0))
        optimizer.step()
    return max((a - b).abs().max().item() for a, b in zip(means(model), start, strict=True))


def test_with_clipping_the_norm_is_the_bound_and_the_means_of_the_filters_stand_still():
    chain = Chain(Centralization(), Clipping(max_norm=1e-2))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    start = means(model)
    for step in range(30):
        backward(model, step, scale=100.0)
        chain.gradients(model, optimizer, torch.tensor(1.0))
        norm = get_total_norm([p.grad for p in model.parameters()])
        assert norm.item() == pytest.approx(1e-2, abs=1e-6)
        optimizer.step()
    for now, then in zip(means(model), start, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=1e-15)


@pytest.mark.parametrize("form", ["foreach", "fused"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_with_decay_in_the_gradient_the_means_stand_still_in_every_form_of_sgd(kind, options, form):
    options = {"lr": 0.1, "weight_decay": 0.05, **options}
    for on in (False, True):
        assert drift(Centralization(), kind, **options, **{form: on}) < 1e-15


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("where", ["gradient_and_decay", "update"])
def test_gradients_made_within_the_step_give_what_those_made_before_it_give(where, by_name):
    results = []
    for within in (False, True):
        model, trick = network(), Centralization(where)
        optimizer = trick.optimizer(
            torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05), model
        )
        start = means(model)
        for step in range(3):

            def closure(model=model, trick=trick, optimizer=optimizer, step=step):
                backward(model, step)
                trick.gradients(model, optimizer, torch.tensor(1.0))
                return torch.tensor(float(step))

            if not within:
                closure()
                optimizer.step()
            elif by_name:
                assert optimizer.step(closure=closure).item() == step
            else:
                assert optimizer.step(closure).item() == step
        for now, then in zip(means(model), start, strict=True):
            torch.testing.assert_close(now, then, rtol=0, atol=1e-15)
        results.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_the_gradient_alone_lets_weight_decay_move_the_means():
    assert drift(Centralization("gradient"), lr=0.1, weight_decay=0.05) > 1e-4
    assert drift(Centralization("gradient"), lr=0.1) < 1e-15


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_the_decay_of_each_group_is_taken_off_with_its_own_sign(kind, maximize):
    """Checked against the gradient that a plain optimizer without decay would have to be given."""
    model, plain, trick = network(), network(), Centralization()
    decays = [0.05, 0.0, 0.2]
    groups = zip((model[0], model[2], model[4]), decays, strict=True)
    options = {"lr": 0.01, "maximize": maximize}
    optimizer = kind([{"params": m.parameters(), "weight_decay": d} for m, d in groups], **options)
    expected = kind(plain.parameters(), **options)
    for step in range(3):
        for each in (model, plain):
            backward(each, step)
        trick.gradients(model, optimizer, torch.tensor(1.0))
        optimizer.step()
        sign = -1 if maximize else 1
        for layer, decay in zip((plain[0], plain[2], plain[4]), decays, strict=True):
            layer.weight.grad.add_(layer.weight.detach(), alpha=sign * decay)
            layer.bias.grad.add_(layer.bias.detach(), alpha=sign * decay)
        centralize_(plain)
        expected.step()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.05}),
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "foreach": True}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "fused": True}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.Adam, {"weight_decay": 0.05, "foreach": True}),
        (torch.optim.NAdam, {}),
        (torch.optim.Adafactor, {}),
        (torch.optim.Adagrad, {"fused": True}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.AdamW, {"weight_decay": 0.1, "fused": True}),
        (torch.optim.RMSprop, {"weight_decay": 0.1}),
        (torch.optim.Rprop, {}),
    ],
)
def test_the_update_keeps_the_means_with_any_optimizer(kind, options):
    assert drift(Centralization("update"), kind, lr=0.01, **options) < 1e-14


def test_the_update_changes_nothing_else():
    model, plain = network(), network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    expected = torch.optim.Adam(plain.parameters(), lr=0.01)
    backward(model, 0)
    backward(plain, 0)
    Centralization("update").gradients(model, optimizer, torch.tensor(1.0))
    optimizer.step()
    expected.step()
    change = model[4].weight - plain[4].weight
    torch.testing.assert_close(change, change.mean(1, keepdim=True).expand_as(change))
    assert torch.equal(model[4].bias, plain[4].bias)


@pytest.mark.parametrize("where", ["gradient_and_decay", "update"])
def test_one_hook_serves_a_whole_training(where):
    model, trick = network(), Centralization(where)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        trick.gradients(model, optimizer, torch.tensor(1.0))
        optimizer.step()
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    assert sum(map(len, hooks)) == 1


def after_steps(where, act):
    model, trick = network(), Centralization(where)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    for step in range(3):
        backward(model, step)
        act(trick, model, optimizer)
        optimizer.step()
    return list(model.parameters())


@pytest.mark.parametrize("where", ["gradient_and_decay", "update"])
def test_a_step_left_out_in_between_changes_nothing(where):
    def once(trick, model, optimizer):
        trick.gradients(model, optimizer, torch.tensor(1.0))

    def twice(trick, model, optimizer):
        once(trick, model, optimizer)  # whose step is left out
        once(trick, model, optimizer)

    for one, other in zip(after_steps(where, once), after_steps(where, twice), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)


@pytest.mark.parametrize("where", ["gradient_and_decay", "update"])
def test_a_step_without_the_trick_is_the_optimizers_own(where):
    model, plain = network(), network()
    trick = Centralization(where)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.05)
    backward(model, 0)
    trick.gradients(model, optimizer, torch.tensor(1.0))
    optimizer.step()
    plain.load_state_dict(model.state_dict())
    expected = torch.optim.SGD(plain.parameters(), lr=0.1, weight_decay=0.05)
    for each, its in ((model, optimizer), (plain, expected)):
        backward(each, 1)
        its.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True)
    )


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("where", ["gradient", "gradient_and_decay", "update"])
def test_a_loss_scaler_changes_nothing_also_over_an_overflow(where, fused):
    results = []
    for scale in (None, 2.0**10):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        model, trick = network(), Centralization(where)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05, fused=fused
        )
        for step in range(4):
            backward(model, step, scale=scaler.scale(torch.ones(())))
            if step == 2:
                if scale is None:
                    continue
                model[0].weight.grad[0, 0, 0, 0] = torch.inf
            scaler.unscale_(optimizer)
            trick.gradients(model, optimizer, torch.tensor(1.0))
            scaler.step(optimizer)
            scaler.update()
        results.append(list(model.parameters()))
    for plain, scaled in zip(*results, strict=True):
        torch.testing.assert_close(plain, scaled, rtol=0, atol=1e-15)


class OwnSGD(torch.optim.SGD):
    """An optimizer that may do anything with its weight decay."""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.AdamW, {}),
        (torch.optim.Adam, {"weight_decay": 0.01, "decoupled_weight_decay": True}),
        (torch.optim.RAdam, {"weight_decay": 0.01, "decoupled_weight_decay": True}),
        (torch.optim.Adafactor, {"weight_decay": 0.01}),
        (OwnSGD, {"lr": 0.1, "weight_decay": 0.01}),
    ],
)
def test_a_weight_decay_that_is_not_known_to_be_coupled_is_refused_by_name(kind, options):
    model = network()
    optimizer = kind(model.parameters(), **options)
    message = rf"needs a weight decay .* got 0\.01 in {kind.__name__}, .* where=update"
    with pytest.raises(ValueError, match=message):
        Centralization().optimizer(optimizer, model)
    with pytest.raises(ValueError, match=message):
        Centralization().gradients(model, optimizer, torch.tensor(1.0))
    for where in ("gradient", "update"):
        assert Centralization(where).optimizer(optimizer, model) is optimizer


def test_without_weight_decay_any_optimizer_will_do():
    assert drift(Centralization(), OwnSGD, lr=0.1, weight_decay=0.0) < 1e-15
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    Centralization().optimizer(optimizer, model)
