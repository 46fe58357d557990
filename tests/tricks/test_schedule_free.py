"""Schedule-free training: the authors' numbers, the average in place and out, and what it needs."""

import copy
import io
import pickle
from contextlib import nullcontext

import pytest
import schedulefree
import torch
from torch import nn

from runner.models import cifar_resnet
from tests.tricks.optimizers import filled, quadratic, seeded
from tricks import Chain, ScheduleFree, Time, WarmUp, at_averages, schedule_free

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
INPUTS = [torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def network():
    return seeded(lambda: cifar_resnet(depth=8, width=2, channels=1, classes=3))


def test_the_formula_by_hand():
    weight = torch.tensor([1.0], requires_grad=True)
    optimizer = schedule_free(SGD([weight], lr=0.1, weight_decay=0.5), beta=0.9)
    x = z = y = 1.0
    for t in range(1, 5):
        weight.grad = weight.detach().clone()
        optimizer.step()
        z -= 0.1 * (y + 0.5 * y)
        x += (z - x) / t
        y = 0.1 * z + 0.9 * x
        assert weight.item() == pytest.approx(y, abs=1e-6)
        (average,) = optimizer.averages().values()
        assert average.item() == pytest.approx(x, abs=1e-6)


FORMS = {
    "sgd": (SGD, {"momentum": 0.8, "nesterov": True}, schedulefree.SGDScheduleFree, {}),
    "adamw": (
        ADAMW,
        {"betas": (0.8, 0.99), "eps": 1e-6},
        schedulefree.AdamWScheduleFree,
        {"eps": 1e-6},
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("power", [(0.0, 2.0), (1.5, 0.5)])
@pytest.mark.parametrize("warm_up", [0, 4])
def test_ten_updates_give_the_authors_weights_and_averages(form, power, warm_up):
    kind, given, reference, options = FORMS[form]
    ours, theirs = quadratic(), quadratic()
    shared = {"lr": 0.05, "weight_decay": 0.1}
    r, weight_power = power
    optimizer = schedule_free(
        kind(ours.parameters(), **shared, **given), 0.95, 1.0, r, weight_power
    )
    betas = {"momentum": 0.95} if form == "sgd" else {"betas": (0.95, 0.99)}
    powers = {"r": r, "weight_lr_power": weight_power, "warmup_steps": warm_up}
    other = reference(theirs.parameters(), **shared, **betas, **options, **powers)
    other.train()
    for update in range(10):
        factor = min(1.0, (update + 1) / warm_up) if warm_up else 1.0
        falls = 0.5 if update > 7 else 1.0
        optimizer.param_groups[0]["lr"] = 0.05 * factor * falls
        other.param_groups[0]["lr"] = 0.05 * falls
        for model, stepped in ((ours, optimizer), (theirs, other)):
            stepped.zero_grad()
            model.loss().backward()
            stepped.step()
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=1e-12)
    other.eval()
    averages = optimizer.averages()
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(averages[mine], their.detach(), rtol=0, atol=1e-12)


def test_in_float32_it_is_the_authors_to_rounding():
    ours, theirs = quadratic().float(), quadratic().float()
    optimizer = schedule_free(ADAMW(ours.parameters(), lr=0.01, weight_decay=0.1))
    other = schedulefree.AdamWScheduleFree(theirs.parameters(), lr=0.01, weight_decay=0.1)
    other.train()
    for seed in range(20):
        filled(ours, seed)
        filled(theirs, seed)
        optimizer.step()
        other.step()
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=1e-6)


def test_gradients_are_left_as_they_are():
    model = filled(quadratic())
    before = [p.grad.clone() for p in model.parameters()]
    for kind in (SGD, ADAMW):
        schedule_free(kind(model.parameters(), lr=0.1, weight_decay=0.1)).step()
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize(
    ("kind", "options", "rate", "expected"),
    [
        (SGD, {"momentum": 0.9}, None, 1.0),
        (SGD, {}, None, 0.1),
        (SGD, {"momentum": 0.9, "dampening": 0.5}, None, 0.5),
        (ADAM, {}, None, 0.1),
        (SGD, {"momentum": 0.9}, 3.0, 0.3),
        (ADAMW, {}, 3.0, 0.3),
    ],
)
def test_the_learning_rate_is_that_of_steps_of_the_same_length(kind, options, rate, expected):
    optimizer = schedule_free(kind(quadratic().parameters(), lr=0.1, **options), rate=rate)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_groups_keep_their_options():
    model = quadratic()
    weight, bias = model.parameters()
    groups = [{"params": [weight]}, {"params": [bias], "lr": 0.2, "weight_decay": 0.0}]
    optimizer = schedule_free(SGD(groups, lr=0.1, weight_decay=0.3))
    options = [(g["lr"], g["weight_decay"], *g["params"]) for g in optimizer.param_groups]
    assert options == [(0.1, 0.3, weight), (0.2, 0.0, bias)]


def test_the_average_is_nearer_to_the_minimum_than_the_weights_that_jump_around_it():
    errors = []
    for averaged in (True, False):
        weight = torch.full((50,), 3.0, dtype=torch.float64, requires_grad=True)
        noise = torch.Generator().manual_seed(0)
        optimizer = SGD([weight], lr=0.3)
        optimizer = schedule_free(optimizer) if averaged else optimizer
        for _ in range(300):
            weight.grad = weight.detach() + torch.randn(50, generator=noise, dtype=torch.float64)
            optimizer.step()
        (found,) = optimizer.averages().values() if averaged else (weight.detach(),)
        errors.append(found.norm().item())
    assert errors[0] < 0.5 * errors[1]


def trained(trick, model, updates=3, kind=SGD):
    model = trick.model(model).train()
    optimizer = trick.optimizer(kind(model.parameters(), lr=0.05), model)
    go_on(model, optimizer, range(updates))
    return model, optimizer


def go_on(model, optimizer, seeds):
    for seed in seeds:
        optimizer.zero_grad()
        model(INPUTS[seed % 3]).square().sum().backward()
        optimizer.step()


def test_evaluation_puts_average_and_statistics_in_place_and_out_to_the_bit():
    trick, seen = ScheduleFree(), []
    model, optimizer = trained(trick, network())
    before = copy.deepcopy(model.state_dict())
    averages = optimizer.averages()
    with trick.evaluation(model, INPUTS):
        assert all(torch.equal(p, averages[p]) for p in model.parameters())
        model.eval()
        inside = copy.deepcopy(model.state_dict())
        model.conv.register_forward_hook(lambda _, __, output: seen.append(output))
        for inputs in INPUTS:
            model(inputs)
        model.train()
    means = torch.stack([output.detach().mean((0, 2, 3)) for output in seen])
    torch.testing.assert_close(inside["norm.running_mean"], means.mean(0))
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not torch.equal(inside["norm.running_mean"], before["norm.running_mean"])


def test_statistics_are_those_of_so_many_batches():
    means = []
    for batches, inputs in ((2, INPUTS), (50, INPUTS[:2])):
        trick = ScheduleFree(batches=batches)
        model, _ = trained(trick, network())
        with trick.evaluation(model, inputs):
            means.append(model.norm.running_mean.clone())
    assert torch.equal(*means)


def test_an_evaluation_changes_no_later_bit():
    runs = []
    for evaluates in (True, False):
        trick = ScheduleFree()
        model, optimizer = trained(trick, network())
        with trick.evaluation(model, INPUTS) if evaluates else nullcontext():
            pass
        go_on(model, optimizer, range(3))
        runs.append(model.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_before_the_first_update_the_average_is_the_first_weights():
    trick, model = ScheduleFree(), network()
    before = copy.deepcopy(model.state_dict())
    trick.optimizer(SGD(trick.model(model).parameters(), lr=0.1), model)
    with trick.evaluation(model, []):
        assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_without_an_optimizer_there_is_no_average():
    trick, model = ScheduleFree(), network()
    refused = pytest.raises(ValueError, match="no average before its hook `optimizer`")
    with refused, trick.evaluation(model, INPUTS):
        pass
    trained(trick, model)
    trick.model(model)  # a new training
    with refused, trick.evaluation(model, INPUTS):
        pass


@pytest.mark.parametrize("kind", [SGD, ADAMW])
@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
def test_training_goes_on_to_the_bit_and_so_does_evaluation(way, kind):
    trick = ScheduleFree()
    model, optimizer = trained(trick, network(), kind=kind)
    if way == "state_dict":
        other, again = ScheduleFree(), copy.deepcopy(model)
        stepped = other.optimizer(kind(other.model(again).parameters(), lr=0.05), again)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        stepped.load_state_dict(torch.load(file, weights_only=True))
    else:
        parts = model, optimizer, trick
        copied = copy.deepcopy(parts) if way == "deepcopy" else pickle.loads(pickle.dumps(parts))
        again, stepped, other = copied
    states = []
    for each, steps, one in ((model, optimizer, trick), (again, stepped, other)):
        go_on(each, steps, (3, 4))
        with one.evaluation(each, INPUTS):
            states.append(copy.deepcopy(each.state_dict()))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_a_compiled_model_is_evaluated_by_its_own_names():
    trick = ScheduleFree()
    model, optimizer = trained(trick, network())
    averages = optimizer.averages()
    with trick.evaluation(torch.compile(model, backend="eager"), INPUTS):
        assert torch.equal(model.conv.weight, averages[model.conv.weight])


def test_what_has_no_gradient_stays():
    model = network()
    model.conv.requires_grad_(False)
    before = model.conv.weight.clone()
    model, optimizer = trained(ScheduleFree(), model)
    assert torch.equal(model.conv.weight, before)
    with at_averages(optimizer, model, INPUTS):
        assert torch.equal(model.conv.weight, before)


def test_the_schedule_is_constant_but_for_a_warm_up():
    trick = ScheduleFree()
    factors = [trick.schedule(0.3, Time(update, 2, 8)) for update in range(8)]
    assert factors == [1.0] * 8
    chain = Chain(trick, WarmUp(length=4, start=0.0, unit="update"))
    factors = [chain.schedule(0.3, Time(update, 2, 8)) for update in range(6)]
    assert factors == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_a_first_update_at_a_rate_of_zero_counts_nothing():
    model = filled(quadratic())
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = schedule_free(SGD(model.parameters(), lr=0.1))
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    averages = optimizer.averages()
    for parameter, first in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, first)
        torch.testing.assert_close(averages[parameter], first)


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        (torch.optim.RMSprop, {}, "needs a torch.optim.SGD, Adam or AdamW, got RMSprop. Use optim"),
        (torch.optim.NAdam, {}, "got NAdam"),
        (SGD, {"maximize": True}, "no form of SGD with maximize=True"),
        (ADAM, {"amsgrad": True}, "no form of Adam with amsgrad=True"),
        (SGD, {"momentum": 1.0}, "needs a momentum < 1 in SGD, got 1.0"),
    ],
)
def test_an_optimizer_without_such_a_form_is_refused(kind, options, told):
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=told):
        ScheduleFree().optimizer(kind(model.parameters(), lr=0.1, **options), model)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"beta": 1.0}, "ScheduleFree.beta must be > 0 and < 1, got 1.0"),
        ({"beta": 0.0}, "ScheduleFree.beta must be > 0 and < 1, got 0.0"),
        ({"rate": 0.0}, "ScheduleFree.rate must be > 0 and finite, or None, got 0.0"),
        ({"r": -1.0}, "ScheduleFree.r must be >= 0"),
        ({"weight_power": float("inf")}, "ScheduleFree.weight_power must be >= 0 and finite"),
        ({"batches": 0}, "ScheduleFree.batches must be >= 1, got 0"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        ScheduleFree(**options)
