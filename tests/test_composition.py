"""Tricks alone, in pairs and all together: micro-batches, scaling, compilers, optimizers, resumes.

The loop here is one that a reader might have; it uses nothing of `runner`.
"""

import io
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tricks
from runner.ranks import Parts
from runner.train import Training
from tests.loop import CLASSES, KINDS, PER_EPOCH, UPDATES, Loop, batch
from tests.test_laws import CHAINS, NODES, class_of, make, same
from tricks import Centralization, Flooding, flood

CORE = (
    *("anti_aliasing", "centralization", "clipping", "flooding", "label_smoothing"),
    "warm_restarts",
)
LEFT_OUT = {
    **dict.fromkeys(("cutmix", "mixup", "selective_backward"), "depends on the micro-batch"),
    **dict.fromkeys(("squeeze_excite", "stochastic_depth", "zero_init"), "needs residual blocks"),
    **dict.fromkeys(("bias_rate", "ghost_batch_norm", "weight_standardization"), "needs norms"),
}
"""What is not the same however an update is cut, or does not act on the network here; and why."""

SINGLE = {name: CHAINS[name] for name in NODES if name not in LEFT_OUT}
ALL = [make(kind.name) for kind in tricks.in_order([class_of(name) for name in CORE])]
TOGETHER = {"quantile": CHAINS["quantile"], "core": ALL} | {
    name: [trick for trick in chain if trick.name not in LEFT_OUT]
    for name, chain in CHAINS.items()
    if name.startswith("company")
}
PAIRS = {
    f"{one}+{other}": [
        make(kind.name) for kind in tricks.in_order([class_of(one), class_of(other)])
    ]
    for one, other in itertools.combinations(CORE, 2)
}
slow = pytest.mark.slow


def tried(*chains, but=()):
    """By default many tricks together, and one with a history; all but some of these."""
    chains = {name: chain for each in chains for name, chain in each.items()}
    quick = TOGETHER.keys() - {*but}
    return pytest.mark.parametrize(
        "chain",
        [
            pytest.param(chain, id=name, marks=() if name in quick else slow)
            for name, chain in chains.items()
        ],
    )


every_composition = tried(SINGLE, TOGETHER, PAIRS)

FORMS = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def network(norm=False):
    """Without batch norm in float64: micro-batches are exact there; with it in float32."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.Tanh(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16) if norm else nn.Identity(),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).to(torch.float32 if norm else torch.float64)


def exact(chain, updates=3, **options):
    return Loop(chain, network(), **options).after(updates)


def normed(chain, updates=3, **options):
    return Loop(chain, network(norm=True), **options).after(updates)


def assert_close(one, other, tolerance=1e-12):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def all_for(kind):
    """All tricks; AdamW does not add its weight decay to the gradient, which one must know."""
    return [
        replace(trick, where="update")
        if isinstance(trick, Centralization) and kind == "adamw"
        else trick
        for trick in ALL
    ]


@every_composition
@pytest.mark.parametrize("size", [1, 5])
def test_micro_batches_also_a_ragged_last_one_are_the_whole_batch(chain, size):
    assert_close(exact(chain, size=size), exact(chain))


@every_composition
@pytest.mark.parametrize("scale", [2.0**8, 2.0**16])
def test_scaling_changes_no_bit(chain, scale):
    assert same(normed(chain, scale=scale), normed(chain))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_all_together_scaling_changes_no_bit_with_any_optimizer(kind, form):
    chain, options = all_for(kind), {"kind": kind, "size": 5, **FORMS[form]}
    assert same(normed(chain, scale=2.0**12, **options), normed(chain, **options))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["foreach", "fused"])
def test_all_together_the_forms_of_an_optimizer_agree(kind, form):
    plain, other = (exact(all_for(kind), kind=kind, **FORMS[f]) for f in ("plain", form))
    assert not same(plain, network().state_dict())
    assert_close(plain, other)


@tried(SINGLE, TOGETHER, but=("quantile",))
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=slow)])
def test_a_compiled_model_trains_alike(chain, backend):
    torch._dynamo.reset()
    compiled = Loop(chain, network(), size=6)
    compiled.model.compile(backend=backend)  # in place, as the runner does
    assert_close(compiled.after(3), exact(chain, size=6))


@every_composition
@pytest.mark.parametrize("size", [None, 5])
def test_a_plain_loop_with_a_chain_equals_the_runner_to_the_bit(chain, size):
    loop, other = Loop(chain, network(norm=True), size=size), Loop(chain, network(norm=True))
    known = {"updates": UPDATES, "classes": CLASSES, "parts": Parts(size)}
    run = Training(other.model, other.optimizer, other.chain, lambda _: 0.5, PER_EPOCH, **known)
    loop.after(3)
    for update in range(3):
        run.step(batch(update, other.chain))
    assert same(loop.model.state_dict(), run.model.state_dict())
    momenta, others = (x.optimizer.state_dict()["state"] for x in (loop, run))
    assert momenta.keys() == others.keys()
    assert all(same(momenta[key], others[key]) for key in momenta)


@every_composition
def test_a_plain_loop_resumes_bit_identically(chain):
    straight = Loop(chain, network(norm=True), size=5)
    straight.after(2)
    torch.save(straight.state_dict(), file := io.BytesIO())
    straight.after(2)
    file.seek(0)
    stopped = Loop(chain, network(norm=True), size=5)
    stopped.load_state_dict(torch.load(file, weights_only=True), updates=2)
    stopped.after(2)
    assert same(straight.model.state_dict(), stopped.model.state_dict())
    assert straight.chain.report() == stopped.chain.report()


class Noted(tricks.Trick):
    """Keeps the gradients and the mean loss of the last update."""

    def gradients(self, model, optimizer, loss):  # noqa: ARG002
        Noted.last = [p.grad.clone() for p in model.parameters()], loss.item()


def noted(chain, model, **options):
    Loop([*chain, Noted()], model, **options).after(1)
    return Noted.last


SHARES = [0.999, 1.001]
"""Levels just below and above the mean loss, and so between the losses of the micro-batches."""


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("size", [1, 5, 7, 12])
@pytest.mark.parametrize("scale", [None, 2.0**16])
def test_flooding_in_any_micro_batches_gives_the_gradient_of_the_flooded_whole(share, size, scale):
    model, whole = network(), batch(0)
    loss = F.cross_entropy(model(whole.inputs.double()), whole.targets)
    level = share * loss.item()
    expected = torch.autograd.grad(flood(loss, level), [*model.parameters()])
    gradients, _ = noted([Flooding(level)], model, size=size, scale=scale)
    assert_close(gradients, [*expected], 1e-13)


@pytest.mark.parametrize("share", SHARES)
def test_under_batch_norm_flooding_is_the_sign_on_the_accumulated_gradient(share):
    accumulated, mean = noted([], network(norm=True), size=5)
    flooded, _ = noted([Flooding(share * mean)], network(norm=True), size=5)
    sign = 1.0 if share < 1 else -1.0
    assert all(torch.equal(sign * g, f) for g, f in zip(accumulated, flooded, strict=True))
    assert any(g.any() for g in accumulated)
