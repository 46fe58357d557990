"""The examples run as their first lines say, and what they show is what happens."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT

EXAMPLES = sorted(file.stem for file in ROOT.glob("examples/*.py"))
NEEDED = {"lightning_module": "lightning"}
RATES = {0: 0.0, 1: 0.05, 2: 0.1, 6: 0.05, 10: 0.0, 12: 0.1, 20: 0.05, 28: 0.0}
"""By hand: cycles of 10 and 18 updates, of which 2 are the warm-up; half-way down is half."""

BOTH = """
import contextlib, io, runpy, sys, torch

results = {}
for name in ("plain_loop", "lightning_module"):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        names = runpy.run_module(f"examples.{name}")
    shape = list(names["model"][:5](names["inputs"]).shape)
    results[name] = [names["model"].state_dict(), shape, printed.getvalue()]
torch.save(results, sys.argv[1])
"""


def run(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def require(name):
    needed = NEEDED.get(name)
    if needed and not importlib.util.find_spec(needed):
        pytest.skip(f"{needed} is not installed: examples/{name}.py was not run")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n == "lightning_module" else ()) for n in EXAMPLES],
)
def test_an_example_runs_and_its_rates_restart_where_it_says(name):
    require(name)
    lines = run("-m", f"examples.{name}").splitlines()
    rates = [float(line.split()[-1]) for line in lines]
    assert len(rates) == 30
    assert {update: rates[update] for update in RATES} == RATES


def test_each_trick_takes_at_most_three_lines_of_an_example():
    for name in EXAMPLES:
        source = (ROOT / f"examples/{name}.py").read_text()
        body = source.partition("from tricks import")[2].partition("\n")[2]
        for trick in ("anti_alias", "centralize_", "clip_gradients_", "flood", "warm_restarts"):
            assert len(re.findall(rf"(?<!`)\b{trick}\(", body)) == 1, (name, trick)


@pytest.mark.slow
def test_the_lightning_module_equals_the_plain_loop_to_the_bit(tmp_path):
    """With all five tricks at work, so each hook stands where it belongs."""
    require("lightning_module")
    run("-c", BOTH, str(tmp_path / "results"))
    results = torch.load(tmp_path / "results", weights_only=True)
    (plain, shape, printed), (other, *rest) = results["plain_loop"], results["lightning_module"]
    assert rest == [shape, printed]
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[key], other[key]) for key in plain)

    assert shape == [64, 16, 8, 8], "the blur must stride in place of the convolution"
    lines = [line.split() for line in printed.splitlines()]
    losses, norms = ([float(line[column]) for line in lines] for column in (3, 5))
    assert max(losses) > 2.26 > min(losses) < max(losses[-5:]), "below the level it must rise"
    assert max(norms) > 0.1, "some updates must be clipped"
    start = initial()
    for key in ("0.weight", "2.weight", "7.weight"):
        change = plain[key] - start[key]
        assert change.abs().max() > 1e-3
        assert change.flatten(1).mean(1).abs().max() < 1e-7, "centralized filters keep their mean"


def initial():
    torch.manual_seed(0)
    layers = {"0": torch.nn.Conv2d(1, 8, 3), "2": torch.nn.Conv2d(8, 16, 3)}
    layers["7"] = torch.nn.Linear(16, 10)
    return {f"{n}.weight": layer.weight.detach() for n, layer in layers.items()}
