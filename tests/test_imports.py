"""A command imports what it uses, and nothing else: so it starts at once."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT, few_of

COMPILER = ("sympy", "triton", "torch._dynamo", "torch._inductor", "torch.distributed.tensor")
TABLES = ("networkx", "pandas", "scipy", "scipy.stats", "sklearn")
DRAWING = ("jinja2", "matplotlib", "rich")
OTHERS = ("IPython", "lightning", "onnx", "timm", "torch.onnx", "torchvision")
NEEDLESS = (*COMPILER, *TABLES, *DRAWING, *OTHERS)
"""What takes long to import, and a run does without; importing torch imports none of it."""

SMALL = ("epochs=1", "model.width=2", "threads=1", "name=n", "variant=v")
RUN = "outputs/n/v/seed=0"


def imported(folder, module, *arguments):
    """Give the modules that any process of a command imports; its workers inherit the variable."""
    found = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return set(re.findall(r"^import time: *\d+ \| *\d+ \| *(\S+)$", found.stderr, re.MULTILINE))


RUNS = {
    "a run": SMALL,
    "the core tricks": (*SMALL, "tricks=core"),
    "another optimizer": (*SMALL, "optimizer=adamw", "model=resnet20"),
}


@pytest.mark.parametrize(("_", "arguments"), few_of(RUNS, ["the core tricks"]), ids=RUNS)
def test_a_run_imports_neither_the_compiler_nor_what_draws_or_does_statistics(
    tmp_path, _, arguments
):
    modules = imported(tmp_path, "runner", *arguments)
    assert "torch" in modules
    assert sorted(modules & {*NEEDLESS}) == []


@pytest.mark.slow
def test_a_warm_worker_imports_no_compiler(tmp_path):
    modules = imported(tmp_path, "runner", "-m", *SMALL[:4], "seed=0,1", "hydra.launcher.workers=1")
    assert "torch" in modules
    assert sorted(modules & {*COMPILER, *OTHERS}) == []


def test_the_first_run_of_an_ablation_waits_for_no_statistics_and_no_drawing(tmp_path):
    code = (
        "import sys\n"
        "from runner.__main__ import main\n"
        "from runner.sweep.composed import ComposedLauncher\n"
        "def launch(self, jobs, first):\n"
        "    print(len(jobs), *sys.modules)\n"
        "    raise SystemExit\n"
        "ComposedLauncher.launch = launch\n"
        "main()\n"
    )
    asked = (*SMALL[:4], "ablation=one_at_a_time", "tricks=[clipping]", "ablation.seeds=2")
    found = subprocess.run(
        [sys.executable, "-c", code, *asked],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    count, *modules = found.stdout.splitlines()[-1].split()
    assert count == "4", found.stderr
    late = {"torch._dynamo", "scipy.stats", "sklearn", "pandas", "matplotlib"}
    assert sorted({*modules} & late) == []


@pytest.mark.slow
def test_what_is_done_with_a_run_imports_what_it_uses(tmp_path):
    imported(tmp_path, "runner", *SMALL)
    for module, arguments, needed in (
        ("runner.verify", (RUN,), ("scipy",)),
        ("runner.export", (RUN, "--to", "state_dict", "w.pt"), ()),
    ):
        modules = imported(tmp_path, module, *arguments)
        assert sorted(modules & {*NEEDLESS} - {*needed}) == [], module


COMMANDS = {
    "runner": ("torch", "pydantic", "tensorboard"),
    "runner.export": ("torch",),
    "runner.judge": ("torch", "hydra", "tensorboard"),
    "runner.predict": ("torch",),
    "runner.report": ("torch", "hydra", "tensorboard"),
}


@pytest.mark.parametrize(("module", "more"), few_of(COMMANDS, ["runner.report"]), ids=COMMANDS)
def test_help_imports_no_torch(tmp_path, module, more):
    modules = imported(tmp_path, module, "--help")
    assert sorted(modules & {*COMPILER, *OTHERS, *more}) == []
