"""Compiled networks: runs of a process share them, and each has the bits that it has alone."""

import re

import pytest
import torch
from torch import nn

from runner.build import build
from runner.compiled import compile_model, forget
from runner.errors import UserError
from runner.evaluate import evaluate
from runner.run.fingerprint import digest_tensors
from runner.run.process import isolated, read_flags
from runner.sweep.compiling import does_compiling_pay
from tests.conftest import settings
from tests.runner.test_budget import maker
from tests.test_laws import NODES

SHORT = ("epochs=2", "batch_size=500", "model.width=2")
BLOCKS = ("tricks=[stochastic_depth,squeeze_excite]",)
"""Their hooks are all that tells the network from the baseline's."""


@pytest.fixture
def made(monkeypatch):
    """The graphs that were made, as torch would compute them without a compiler."""
    graphs = []

    def backend(graph, inputs, **_):
        graphs.append(inputs)
        return graph

    _use(monkeypatch, backend)
    yield graphs
    forget()


def _use(monkeypatch, backend):
    plain = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda m, **more: plain(m, backend=backend, **more))
    forget()


def weights(*given):
    """The digest of the weights after an update."""
    bench = build(settings(*SHORT, *given))
    bench.training.step(next(bench.batches.epoch(0)))
    return digest_tensors(bench.training.model.state_dict())


def test_runs_of_a_process_share_graphs_and_each_network_has_its_own(made):
    counts = []
    for seed, kind in enumerate(((), BLOCKS, (), BLOCKS)):
        made.clear()
        compiled = weights("compile=true", f"seed={seed}", *kind)
        counts.append(len(made))
        assert compiled == weights(f"seed={seed}", *kind)
    assert counts == [1, 1, 0, 0]


def test_weights_that_are_shared_make_another_network(made):
    class Pair(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.one = nn.Linear(2, 2, bias=False)
            self.other = self.one if shared else nn.Linear(2, 2, bias=False)

        def forward(self, x):
            return self.other(self.one(x))

    x = torch.ones(1, 2)
    for shared in (True, False, True):
        model = Pair(shared)
        expected = model(x)
        compile_model(model)
        assert torch.equal(model(x), expected)
    assert len(made) == 2


def test_so_many_networks_are_kept(made, monkeypatch):
    monkeypatch.setattr("runner.compiled.NETWORKS", 2)
    for width in (1, 2, 1, 3, 1):
        model = nn.Linear(1, width)
        compile_model(model)
        model(torch.zeros(1, 1))
    assert [len(graph[0]) for graph in made] == [1, 2, 3, 1]  # the third network drops two


REFUSED = {
    ("compile=cuda_graphs",): "compile=cuda_graphs needs a CUDA card, and the device is cpu",
    ("compile=cuda_graphs", "micro_batch_size=10"): "compile=cuda_graphs cannot add up gradients",
    ("compile=graphs",): "compile must be",
    ("tf32=all",): "tf32=all needs a CUDA card, and the device is cpu",
    ("tf32=none", "precision=bfloat16"): "tf32=none is about float32",
}


@pytest.mark.parametrize(("given", "complaint"), REFUSED.items())
def test_what_needs_a_card_is_refused_in_one_line(given, complaint):
    with pytest.raises(UserError, match=f"^{re.escape(complaint)}[^\n]*$"):
        build(settings(*SHORT, "device=cpu", *given))


@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_the_precision_of_one_kind_of_product_is_put_back(precision):
    before = read_flags()
    with isolated():
        torch.backends.cuda.matmul.fp32_precision = precision
        torch.backends.cudnn.conv.fp32_precision = precision
        within = read_flags()
        assert within != before
        with isolated():
            torch.set_float32_matmul_precision("medium")
        assert read_flags() == within
    assert read_flags() == before


GRAPHS = []
NEEDED = {"flooding": ("tricks.flooding.level=0.8",), "look_ahead": ("tricks.look_ahead.k=2",)}


def autograd(graph, inputs, **_):
    """Compile forwards and backwards, as for machine code; the same object finds its graphs."""
    from torch._dynamo.backends.registry import lookup_backend  # takes a second to import

    GRAPHS.append(graph)
    return lookup_backend("aot_eager")(graph, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", NODES)
def test_every_trick_trains_alike_when_compiled_and_its_runs_share_a_network(name, monkeypatch):
    plain = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda m, **more: plain(m, backend=autograd, **more))
    first = ("epochs=1", "batch_size=600", "drop_last=true", "model.width=2")
    given = (*first, f"tricks=[{name}]", *NEEDED.get(name, ()))

    def trained(*more):
        GRAPHS.clear()
        bench = build(settings(*given, *more))
        bench.training.epoch(bench.batches.epoch(0))
        with bench.training.evaluation():
            tested = evaluate(bench.training.predictor, bench.test)
        return {**bench.training.model.state_dict(), "logits": tested.logits}, len(GRAPHS)

    trained("compile=true")
    shared, made = trained("compile=true", "seed=1")
    assert made == 0
    forget()
    alone, made = trained("compile=true", "seed=1")
    assert 0 < made < 10
    uncompiled, _ = trained("seed=1")
    for key, tensor in uncompiled.items():
        assert torch.equal(shared[key], alone[key])
        torch.testing.assert_close(shared[key], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_machine_code_from_the_disk_gives_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    found = set()
    for name in ("nothing", "memory", "disk"):
        if name != "memory":
            forget()
        found.add(weights("compile=true"))
    assert len(found) == 1


@pytest.mark.slow
def test_a_dry_run_measures_whether_compiling_pays(made):
    plan = maker("ablation=calibration", *SHORT)()
    assert does_compiling_pay(plan, 0.0) == []
    one, other = does_compiling_pay(maker("ablation=calibration", "compile=true", *SHORT)(), 0.0)
    assert made
    assert re.match(r"compile=true: an epoch of .* takes \d+\.\d\d s, and .* compiling took", one)
    assert other.startswith("it ")
