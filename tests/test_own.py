"""The page about parts of one's own: its files are made, and its commands do what it says."""

import os
import re
import shlex
import subprocess
import sys
import textwrap

import pytest
from omegaconf import OmegaConf

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


@pytest.mark.slow
def test_the_commands_of_the_page_run_from_an_installed_command(project, commands):
    """One process does all of them; it starts as an installed script does, without its folder."""
    lines, export = commands
    assert len(lines) == 4
    script = project / "bin/biscuits.py"
    script.parent.mkdir()
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.append({str(ROOT)!r})
        from runner.__main__ import main
        for line in {lines!r}:
            sys.argv = ["biscuits", *line]
            main()
        """)
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=project,
        env={**environment, export[1]: export[2]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = {str(path.parent.relative_to(project)) for path in project.rglob("result.json")}
    assert runs == {
        "outputs/squares-tiny/baseline+optimizer=sign_sgd+loss=focal+epochs=2"
        "+metrics=mine.cohen_kappa,/seed=0",
        "outputs/squares-tiny/focal_loss+smoothed+scheduler=warm_up+epochs=2/seed=0",
        "outputs/first/focal_loss/seed=0",
    }
    assert "first: one_at_a_time, 2 variants" in done.stdout


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
    assert checked().to_dict() == settings().to_dict()
    with pytest.raises(UserError, match="gamma is set to 1, but focal_loss is off"):
        checked("tricks.focal_loss.gamma=1")


def test_a_trick_that_a_stopped_run_would_forget_is_refused(project, checked, monkeypatch):
    text = (project / "mine.py").read_text()
    (project / "forgets.py").write_text(text.replace("def state_dict", "def no_state_dict"))
    monkeypatch.setattr("runner.allowed.USERS", {"mine.Smoothed", "forgets.Smoothed"})
    assert checked("tricks=[smoothed]").tricks["smoothed"]["enabled"]
    with pytest.raises(UserError, match="Smoothed is not frozen and has no state_dict"):
        checked("tricks=[smoothed]", "tricks.smoothed._target_=forgets.Smoothed")
