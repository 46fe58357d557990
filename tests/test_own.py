"""The page about parts of one's own: its files are made, and its commands do what it says."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from venv import EnvBuilder

import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import cohen_kappa_score

from runner.__main__ import main
from runner.cli.hydra_internals import Loader
from runner.cli.task import register
from runner.config import check
from runner.errors import UserError
from tests.conftest import ROOT, settings

PAGE = (ROOT / "docs/own.md").read_text()


@pytest.fixture
def project(tmp_path):
    """The files of the page."""
    for text in re.findall(r"```(?:python|yaml)\n(#.*?)```", PAGE, re.DOTALL):
        name = re.search(r"# (\S+\.(?:py|yaml))", text)[1]
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as out:
            out.write(text)
    return tmp_path


@pytest.fixture
def commands():
    """The command lines of the page, and what it exports."""
    lines = re.findall(r"^biscuits (.*)$", PAGE, re.MULTILINE)
    return [shlex.split(line) for line in lines], re.search(r"export (\w+)=(\S+)", PAGE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with Biscuits from its wheel; what it depends on is taken from here."""
    folder = tmp_path_factory.mktemp("wheel")
    isolated = [] if find_spec("hatchling") is None else ["--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", *isolated, "-w", str(folder), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if built.returncode and isolated == []:
        pytest.skip(f"hatchling cannot be had: {built.stderr[-300:]}")
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    EnvBuilder(with_pip=False).create(folder / "venv")
    python = folder / "venv/bin/python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    (packages,) = (folder / "venv").glob("lib/*/site-packages")
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "others.pth").write_text("\n".join(others))
    return folder / "venv/bin"


@pytest.mark.slow
def test_the_page_works_literally_from_a_wheel_in_an_empty_folder(project, commands, installed):
    block = re.search(r"```\n(export .*?)```", PAGE, re.DOTALL)[1]
    assert len(commands[0]) == 4
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", commands[1][1])}
    here = "python -c 'import runner; print(runner.__file__)'\n"
    done = subprocess.run(
        ["bash", "-ec", here + block],
        cwd=project,
        env={**environment, "PATH": f"{installed}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed.parent)), done.stdout[:200]
    results = {
        str(path.parent.relative_to(project)): json.loads(path.read_text())
        for path in project.rglob("result.json")
    }
    assert {*results} == {
        "outputs/squares-tiny/focal_loss+smoothed+scheduler=warm_up+epochs=2/seed=0",
        "outputs/squares-tiny/baseline+optimizer=sign_sgd+loss=focal+epochs=2"
        "+metrics=mine.cohen_kappa,/seed=0",
        "outputs/first/focal_loss/seed=0",
    }
    measured = [result.get("test/cohen_kappa") for result in results.values()]
    assert [type(value) for value in measured].count(float) == 2
    assert "first: one_at_a_time, 2 variants" in done.stdout


@pytest.fixture
def mine(project, monkeypatch):
    """The module of the page."""
    monkeypatch.syspath_prepend(project)
    yield import_module("mine")
    del sys.modules["mine"]


def test_the_loss_and_the_metric_of_the_page_are_what_they_say(mine):
    logits, ids = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    shares = torch.nn.functional.one_hot(ids, 3).float()
    losses = torch.nn.functional.cross_entropy(logits, ids, reduction="none")
    assert torch.allclose(mine.focal(logits, ids, gamma=0.0), losses)
    expected = (1 - (-losses).exp()) ** 2 * losses
    assert torch.allclose(mine.focal(logits, ids), expected)
    assert torch.allclose(mine.focal(logits, shares), expected)
    found = mine.cohen_kappa(logits, ids)
    assert found == pytest.approx(cohen_kappa_score(ids, logits.argmax(1)))


@pytest.mark.parametrize("named", ["", "mine.squares", "mine.*,mine.squares"])
def test_all_names_that_are_missing_are_told_at_once(project, commands, monkeypatch, named):
    """What the line says to set is enough."""
    monkeypatch.chdir(project)
    monkeypatch.setattr("runner.allowed.USERS", frozenset(filter(None, named.split(","))))
    monkeypatch.setattr(sys, "argv", ["biscuits", *commands[0][0], "data.validation=2"])
    with pytest.raises(SystemExit) as ended:
        main()
    line = str(ended.value)
    assert ("add them: BISCUITS_ALLOW=mine.squares" if named else "set BISCUITS_ALLOW=") in line
    assert ("mine.* names nothing" in line) == ("*" in named)
    allowed = re.search(r"BISCUITS_ALLOW=(\S+)", line)[1]
    monkeypatch.setattr("runner.allowed.USERS", frozenset(allowed.split(",")))
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert str(ended.value) == "data.validation must be < 1 or auto, got 2.0."
    register()


@pytest.fixture
def checked(project, monkeypatch):
    """Check the config of a run in the project."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", [*sys.path])
    register([project / "conf"])

    def checked(*overrides):
        config = Loader([project / "conf"]).compose(["threads=1", *overrides])
        return check(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]), overrides)

    yield checked
    register()


def test_a_trick_that_is_off_needs_no_leave_and_is_no_part_of_the_run(checked):
    assert checked("memory_format=contiguous").to_dict() == settings().to_dict()
    with pytest.raises(UserError, match="gamma is set to 1, but focal_loss is off"):
        checked("tricks.focal_loss.gamma=1")


def test_a_trick_that_a_stopped_run_would_forget_is_refused(project, checked, monkeypatch):
    text = (project / "mine.py").read_text()
    (project / "forgets.py").write_text(text.replace("def state_dict", "def no_state_dict"))
    monkeypatch.setattr("runner.allowed.USERS", {"mine.Smoothed", "forgets.Smoothed"})
    assert checked("tricks=[smoothed]").tricks["smoothed"]["enabled"]
    with pytest.raises(UserError, match="Smoothed is not frozen and has no state_dict"):
        checked("tricks=[smoothed]", "tricks.smoothed._target_=forgets.Smoothed")
