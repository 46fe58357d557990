"""Launchers that need another package, without it: a line before anything is planned."""

import sys

import pytest
import yaml

from runner.__main__ import main
from runner.cli import plugins
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "examples/cluster/conf/hydra/launcher").glob("*.yaml"))
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


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_to_copy_has_settings_that_its_launcher_knows(monkeypatch, capsys, file):
    where = ("--config-dir", str(ROOT / "examples/cluster/conf"), f"hydra/launcher={file.stem}")
    monkeypatch.setattr(sys, "argv", ["biscuits", *where, "--cfg", "hydra", "-p", "hydra.launcher"])
    main()
    composed = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load(file.read_text())
    assert given.pop("defaults")
    assert {key: composed[key] for key in given} == given
    known = {**plugins.RAY, **plugins.SLURM, "n_jobs": -1}
    assert given.keys() <= known.keys()
