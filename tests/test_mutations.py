"""Subtle faults, put into a copy of a trick one by one: its own tests must find each of them.

Each is an entry of tests/mutations/NAME.toml: a text that stands once in a file, what it becomes,
and what is then wrong.
"""

import os
import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT

MUTATIONS = [
    (file.stem, fault)
    for file in sorted((ROOT / "tests/mutations").glob("*.toml"))
    for fault in tomllib.loads(file.read_text())["mutation"]
]
each = pytest.mark.parametrize(
    ("name", "fault"), MUTATIONS, ids=[f"{name}-{fault['why']}" for name, fault in MUTATIONS]
)


@each
def test_the_text_to_change_stands_once_in_its_file(name, fault):
    assert fault["file"].startswith(("tricks/", "runner/"))
    assert (ROOT / fault["file"]).read_text().count(fault["old"]) == 1
    assert fault["new"] != fault["old"]
    assert (ROOT / f"tests/tricks/test_{name}.py").exists()


@each
@pytest.mark.slow
def test_the_tests_of_the_trick_fail(name, fault, tmp_path):
    project, shared = tmp_path / "project", ROOT.parent / "shared"
    for folder in ("tricks", "runner", "conf", "tests", "examples"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pyc*"))
    shutil.copy(ROOT / "pyproject.toml", project)
    if shared.exists():
        (tmp_path / "shared").symlink_to(shared)
    file = project / fault["file"]
    file.write_text(file.read_text().replace(fault["old"], fault["new"]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-qx", "-n0", "-m", "", f"tests/tricks/test_{name}.py"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "PYTEST_ADDOPTS": "-p no:cacheprovider"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert " failed" in done.stdout, done.stdout[-2000:]
