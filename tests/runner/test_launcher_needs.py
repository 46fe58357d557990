"""Launchers that need another package, without it: a line before anything is planned."""

import sys

import pytest

from runner.__main__ import main
from runner.cli import plugins

RUN = ("ablation=one_at_a_time", "tricks=[clipping]", "name=mine")


def complaint(monkeypatch, tmp_path, *arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["biscuits", *RUN, *arguments])
    with pytest.raises(SystemExit) as error:
        main()
    assert not (tmp_path / "outputs").exists()
    return str(error.value.code)


@pytest.mark.parametrize(
    ("option", "package", "extra"), [*plugins.NEEDS.values()], ids=[*plugins.NEEDS]
)
def test_a_launcher_whose_package_is_missing_says_what_to_install(
    monkeypatch, tmp_path, option, package, extra
):
    monkeypatch.setattr(plugins, "find_spec", lambda _: None)
    assert complaint(monkeypatch, tmp_path, f"hydra/launcher={option}") == (
        f"hydra/launcher={option} needs {package}, which is not installed. "
        f"Run pip install 'biscuits-bench[{extra}]'."
    )


def test_a_folder_that_is_called_as_a_package_is_not_taken_for_it(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(plugins.NEEDS, "RayLauncher", ("ray", "folder", "ray"))
    (tmp_path / "folder").mkdir()
    said = complaint(monkeypatch, tmp_path, "hydra/launcher=ray")
    assert said.startswith("hydra/launcher=ray needs folder, which is not installed.")
