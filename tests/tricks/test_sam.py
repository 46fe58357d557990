"""SAM: the formulas, weights and statistics to the bit, micro-batches, a scaler, refusals."""

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from runner.train import Training
from tricks import Batch, Chain, Flooding, Sam, sharpness_aware


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(norm=True, dropout=0.0):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.Tanh()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Flatten(), nn.Linear(64, 3)).double()


INPUTS = torch.randn(12, 1, 6, 6, generator=seeded(1)).double()
IDS = torch.randint(3, (12,), generator=seeded(2))


def passing(model, sizes=(12,), scale=1.0, losses=None):
    """What a loop has as its gradients: zeroed, all micro-batches, forward and backward."""

    def compute():
        model.zero_grad()
        loss = torch.zeros(())
        for inputs, ids in zip(INPUTS.split(sizes), IDS.split(sizes), strict=True):
            mean = F.cross_entropy(model(inputs), ids) * (len(ids) / len(IDS))
            (mean * scale).backward()
            loss = loss + mean.detach()
        if losses is not None:
            losses.append(loss)
        return loss

    return compute


def gradients(model):
    return [p.grad for p in model.parameters()]


def by_the_papers(model, rho, adaptive, eta=0.01):
    """The gradients at w + e, as the papers' formulas have them, on a copy."""
    model = copy.deepcopy(model)
    passing(model)()
    named = [(name, p) for name, p in model.named_parameters() if p.grad is not None]
    t = [
        p.abs() + eta if adaptive and "weight" in name else torch.ones_like(p) for name, p in named
    ]
    norm = torch.cat([(s * p.grad).flatten() for s, (_, p) in zip(t, named, strict=True)]).norm()
    with torch.no_grad():
        for s, (_, p) in zip(t, named, strict=True):
            p += rho * s**2 * p.grad / norm
    loss = passing(model)()
    return gradients(model), loss


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_the_gradients_are_those_of_the_papers_formulas(rho, adaptive):
    model = network()
    expected, worst = by_the_papers(model, rho, adaptive)
    plain = passing(copy.deepcopy(model))()
    loss, there = sharpness_aware(passing(model), model, rho, adaptive=adaptive)
    assert loss == plain
    torch.testing.assert_close(there, worst)
    assert there > loss
    torch.testing.assert_close(gradients(model), expected)
    trick, other = Sam(rho, adaptive), network()
    assert trick.backward(passing(other), other) == plain
    torch.testing.assert_close(gradients(other), expected)
    assert trick.report()["sharpness"] == pytest.approx((worst - plain).item())


class AuthorsStep:
    """The ascent step of the authors' adaptive code: t is applied to the gradient twice."""

    def __init__(self, model, rho, eta):
        weights = {p for name, p in model.named_parameters() if "weight" in name}
        given = [p for p in model.parameters() if p.grad is not None]
        t = {p: p.detach().abs() + eta if p in weights else 1.0 for p in given}
        norm = torch.stack([(p.grad * t[p]).norm() for p in given]).norm()
        self.e = {p: p.grad * t[p] * t[p] * (rho / norm) for p in given}


def test_adaptive_the_biases_are_scaled_by_one_and_the_weights_of_norms_by_themselves():
    model = network()
    before = copy.deepcopy(model.state_dict())
    moves = []

    def compute():
        moves.append({n: p.detach() - before[n] for n, p in model.named_parameters()})
        return passing(model)()

    passing(model)()
    expected = AuthorsStep(model, 0.5, 0.01).e
    sharpness_aware(compute, model, 0.5, adaptive=True)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(moves[1][name], expected[parameter])


def test_the_weight_that_a_parametrization_is_made_of_is_a_weight_and_a_bias_in_any_module_is_not():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.weighted = nn.Linear(2, 2)
            self.normed = parametrizations.weight_norm(nn.Linear(2, 2))

        def forward(self, x):
            return self.normed(self.weighted(x))

    model, eta = Part(), 5.0
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moved = {}

    def compute():
        model.zero_grad()
        moved.update({n: (p.detach() - before[n]) for n, p in model.named_parameters()})
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        return loss.detach()

    compute()
    slopes = {name: p.grad.clone() for name, p in model.named_parameters()}
    sharpness_aware(compute, model, 0.1, adaptive=True, eta=eta)
    step = moved["weighted.bias"] / slopes["weighted.bias"]
    for name, bias in ((n, "bias" in n.rsplit(".", 1)[-1]) for n in before):
        t = 1.0 if bias else before[name].abs() + eta
        torch.testing.assert_close(
            moved[name], step.mean() * t**2 * slopes[name], atol=1e-5, rtol=1e-3
        )


@pytest.mark.parametrize("norm", [False, True])
def test_weights_and_buffers_are_those_of_one_plain_pass_to_the_bit(norm):
    model, plain = network(norm).float(), network(norm).float()
    inputs = INPUTS.float()

    def compute(of):
        of.zero_grad()
        loss = F.cross_entropy(of(inputs), IDS)
        loss.backward()
        return loss.detach()

    for _ in range(3):
        compute(plain)
        sharpness_aware(lambda: compute(model), model, 0.3)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def popular_update(model):
    """The gradients of davda54/sam and of Composer: w + e - e, and no word of batch norm."""
    for ascends in (True, False):
        model.zero_grad()
        F.cross_entropy(model(INPUTS.float()), IDS).backward()
        if ascends:
            norm = nn.utils.get_total_norm(gradients(model))
            moves = [0.05 * p.grad / norm for p in model.parameters()]
        with torch.no_grad():
            for parameter, move in zip(model.parameters(), moves, strict=True):
                parameter.add_(move if ascends else -move)


def test_the_popular_form_takes_the_statistics_twice_and_moves_the_weights_by_rounding():
    popular, plain = network().float(), network().float()
    popular_update(popular)
    plain(INPUTS.float())
    for name, buffer in plain.named_buffers():
        assert not torch.equal(buffer, popular.get_buffer(name)), name
    pairs = zip(plain.parameters(), popular.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)


def test_a_second_pass_that_fails_leaves_the_weights_and_statistics_as_they_were():
    model, plain = network(), network()
    passing(plain)()
    calls = []

    def compute():
        calls.append(passing(model)())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return calls[0]

    with pytest.raises(KeyboardInterrupt):
        sharpness_aware(compute, model)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize("adaptive", [False, True])
def test_an_update_in_micro_batches_has_the_perturbation_of_the_whole(adaptive):
    whole, parts = network(norm=False), network(norm=False)
    for model, sizes in ((whole, 12), (parts, [5, 5, 2])):
        sharpness_aware(passing(model, sizes), model, 0.5, adaptive=adaptive)
    torch.testing.assert_close(gradients(parts), gradients(whole))


@pytest.mark.parametrize("scale", [2.0**16, 2.0**-10, 1e150, 1e-150])
def test_a_scale_of_the_gradients_changes_neither_direction_nor_size(scale):
    scaled, plain = network(), network()
    sharpness_aware(passing(scaled, scale=scale), scaled, 0.5)
    sharpness_aware(passing(plain), plain, 0.5)
    torch.testing.assert_close([g / scale for g in gradients(scaled)], gradients(plain))


@pytest.mark.parametrize("scale", [math.inf, math.nan, 0.0])
def test_of_gradients_that_overflowed_or_are_0_there_is_no_second_pass(scale):
    model, losses = network(), []
    before = copy.deepcopy(model[5].weight)
    loss, worst = sharpness_aware(passing(model, scale=scale, losses=losses), model)
    assert len(losses) == 1
    assert loss == worst == losses[0]
    assert torch.equal(model[5].weight, before)
    assert scale == 0 or not all(g.isfinite().all() for g in gradients(model))
    for number in (math.inf, -math.inf, math.nan):  # one alone

        def compute(number=number):
            loss = passing(model, losses=losses)()
            model[5].bias.grad[1] = number
            return loss

        losses.clear()
        sharpness_aware(compute, model)
        assert len(losses) == 1
    frozen = network().requires_grad_(False)
    constant = torch.tensor(1.5)
    assert sharpness_aware(lambda: constant, frozen) == (constant, constant)


def test_both_passes_have_the_same_dropout_and_the_global_generator_moves_as_by_one():
    model, plain = network(dropout=0.5), network(dropout=0.5)
    masks = []
    model[3].register_forward_hook(lambda *given: masks.append(given[-1] == 0))
    torch.manual_seed(3)
    passing(plain)()
    expected = torch.rand(3)
    torch.manual_seed(3)
    sharpness_aware(passing(model), model, 0.05)
    assert torch.equal(*masks)
    assert torch.equal(torch.rand(3), expected)


def test_within_one_autocast_the_second_pass_alone_sees_the_perturbed_weights():
    """As in an autocast for each pass; it holds the weights that it has cast."""
    losses = []
    for around in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))

        def compute(model=model, around=around):
            model.zero_grad()
            with nullcontext() if around else torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(INPUTS.float()).float(), IDS)
            loss.backward()
            return loss.detach()

        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            losses.append((*sharpness_aware(compute, model, 0.5), compute()))
    assert losses[0] == losses[1]
    assert losses[0][2] == losses[0][0]
    assert losses[0][1] > losses[0][0] + 0.1


def test_bfloat16_parameters_are_perturbed_and_come_back():
    model = network(norm=False).bfloat16()
    before = copy.deepcopy(model.state_dict())

    def compute():
        model.zero_grad()
        loss = F.cross_entropy(model(INPUTS.bfloat16()).float(), IDS)
        loss.backward()
        return loss.detach()

    loss, worst = sharpness_aware(compute, model, 1.0, adaptive=True)
    assert worst > loss
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def run(*tricks, **options):
    model = network().float().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Training(model, optimizer, Chain(*tricks), lambda _: 1.0, 4, **options)


def batch(scale=1.0):
    return Batch(scale * INPUTS.float(), IDS, 3)


def test_flooding_and_the_log_see_the_loss_at_the_weights_as_they_are():
    plain, sharp = run(), run(Sam(0.5), Flooding(level=5.0))
    for each in (plain, sharp):
        each.step(batch())
    assert sharp.recent.means()["train/loss"] == plain.recent.means()["train/loss"]
    assert sharp.recent.means()["tricks/sam/sharpness"] > 0
    reference = run(Sam(0.5))
    reference.step(batch())
    first = network().float().state_dict()["5.weight"]
    up, down = (each.model.state_dict()["5.weight"] - first for each in (sharp, reference))
    torch.testing.assert_close(up, -down)  # flooded once, by the sign of the update


def test_an_update_that_overflowed_is_left_out_and_the_next_is_made():
    training = run(Sam(), not_finite="skip")
    state = copy.deepcopy(training.model.state_dict())
    training.step(batch(math.inf))
    assert training.skipped == 1
    assert all(torch.equal(v, state[k]) for k, v in training.model.state_dict().items())
    training.step(batch())
    assert training.skipped == 1
    assert not torch.equal(training.model[5].weight, state["5.weight"])


def test_the_paper_finds_a_flatter_minimum_than_plain_descent():
    """Of a sharp valley and a flat one, plain descent ends in the sharp one, where it began."""

    def valley(x):
        return 1 - torch.exp(-200 * x**2) - 0.9 * torch.exp(-((x - 0.6) ** 2) / 0.2)

    ends = []
    for rho in (None, 0.3):
        place = nn.Linear(1, 1, bias=False)
        nn.init.constant_(place.weight, 0.02)
        optimizer = torch.optim.SGD(place.parameters(), lr=0.004)

        def compute(place=place):
            place.zero_grad()
            loss = valley(place.weight).sum()
            loss.backward()
            return loss.detach()

        for _ in range(300):
            compute() if rho is None else sharpness_aware(compute, place, rho)
            optimizer.step()
        ends.append(place.weight.item())
    assert abs(ends[0]) < 0.05
    assert ends[1] > 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 0.0}, r"Sam\.rho must be > 0 and finite, got 0\.0"),
        ({"rho": math.inf}, r"Sam\.rho must be > 0 and finite, got inf"),
        ({"adaptive": True, "eta": -0.1}, r"Sam\.eta must be >= 0 and finite, got -0\.1"),
        ({"eta": 0.1}, r"Sam\.eta must stay 0\.01 where adaptive is false.*Set adaptive to true"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sam(**options)


def test_the_plain_form_refuses_a_size_out_of_its_range():
    with pytest.raises(ValueError, match=r"^rho must be > 0"):
        sharpness_aware(lambda: torch.zeros(()), network(), -1)
