"""The arrows of the house: conf -> runner -> tricks -> torch; and a command that starts fast."""

import ast
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def test_the_library_imports_torch_and_nothing_of_the_project():
    code = (
        "import sys; before = set(sys.modules); import torch; torch_alone = set(sys.modules)\n"
        "import tricks\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - torch_alone}\n"
        "print(sorted(new & {'runner', 'hydra', 'omegaconf', 'tensorboard', 'pydantic'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "tricks").glob("*.py")), ids=lambda f: f.name)
def test_no_trick_imports_another_module_of_the_project_than_the_library(file):
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not [n for n in names if n.split(".")[0] in ("runner", "hydra", "omegaconf")]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-sc", "query=bash"], ["tricks.cliping.enabled=true"]]
)
def test_help_completion_and_typos_never_import_torch(arguments):
    code = (
        "import sys; from runner.__main__ import main\n"
        "sys.argv = ['biscuits', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    environment = {**os.environ, "COMP_LINE": "biscuits mod", "COMP_POINT": "12"}
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert found.returncode == 0, found.stderr


def test_every_module_says_its_job_first_and_stays_readable():
    for file in [*ROOT.glob("tricks/*.py"), *ROOT.glob("runner/**/*.py")]:
        text = file.read_text()
        if not text:
            continue
        assert len(text.splitlines()) <= 300, f"{file} has more than 300 lines"
        tree = ast.parse(text)
        assert ast.get_docstring(tree), f"{file} needs a first line that says its job"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                documented = len((ast.get_docstring(node, clean=False) or "").splitlines())
                length = node.end_lineno - node.lineno + 1 - documented
                assert length <= 50, f"{file}: {node.name} is too long to follow"
