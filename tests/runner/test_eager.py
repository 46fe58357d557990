"""Optimizers work without the compiler, to the same bits, and with it as torch has it."""

import subprocess
import sys
import textwrap

import pytest

from tests.conftest import ROOT

SET_UP = """
import sys
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from runner.eager import CACHE, COMPILER, do_without_compiler

STEPPING = [c for c in vars(torch.optim).values() if isinstance(c, type)
            and issubclass(c, Optimizer) and c.__name__ not in ("Optimizer", "LBFGS", "SparseAdam")]
GUARDED = [f.__wrapped__ for f in vars(Optimizer).values()
           if getattr(f, "__code__", None) and f.__code__.co_freevars == ("fn", "recursive")]

def trained(make, compile=False):
    torch.manual_seed(0)
    model = nn.Linear(3, 3, bias=False)
    run = torch.compile(model, backend="eager") if compile else model
    optimizer = make(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        run(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
        assert torch.is_grad_enabled()
    optimizer.load_state_dict(optimizer.state_dict())
    return model.weight.detach().clone()
"""


def check(code):
    code = SET_UP + textwrap.dedent(code)
    command = [sys.executable, "-W", "error", "-c", code]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_every_optimizer_makes_the_same_steps_without_the_compiler_and_again_with_it():
    check("""
        do_without_compiler()
        do_without_compiler()
        assert len(GUARDED) >= 4 and all(hasattr(f, CACHE) for f in GUARDED)
        alone = [trained(make) for make in STEPPING]
        assert COMPILER not in sys.modules
        broken = SGD([nn.Parameter(torch.zeros(1))])
        broken.param_groups = [{}]
        try:
            broken.step()
        except KeyError:
            assert torch.is_grad_enabled()

        compiled = trained(SGD, compile=True)  # as a user's own model may do
        assert COMPILER in sys.modules
        # the compiler is asked again, and its answers are kept
        assert all(getattr(f, CACHE, None) is not f for f in GUARDED)
        assert not [f for f in sys.meta_path if type(f).__module__ == "runner.eager"]
        assert torch.equal(compiled, alone[STEPPING.index(SGD)])
        for make, weight in zip(STEPPING, alone, strict=True):
            assert torch.equal(trained(make), weight), make
        do_without_compiler()
        assert all(getattr(f, CACHE, None) is not f for f in GUARDED)
        step = torch.compile(broken.step, backend="eager")  # a step may be compiled too
        broken.param_groups = SGD([nn.Parameter(torch.zeros(1))]).param_groups
        step()
    """)


@pytest.mark.slow
def test_what_torch_has_changed_is_left_as_it_is():
    check("""
        def zero_grad(self, set_to_none=True):
            pass
        def step(self, closure=None):
            import torch._dynamo
        Optimizer.zero_grad, SGD.step = zero_grad, step
        do_without_compiler()
        assert Optimizer.zero_grad is zero_grad and SGD.step is step
        assert not hasattr(zero_grad, CACHE)
        trained(SGD)
        assert COMPILER in sys.modules
    """)
