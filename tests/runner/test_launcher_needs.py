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


WHOLE = "a whole number >="
NUMBERS = {
    ("submitit_local", "workers=0"): f"workers must be auto or {WHOLE} 1, got 0.",
    ("submitit_local", "per_card=true"): f"per_card must be {WHOLE} 1, got true.",
    ("submitit_local", "cpus_per_task=x"): f"cpus_per_task must be null or {WHOLE} 1, got x.",
    ("submitit_local", "timeout_min=0"): f"timeout_min must be {WHOLE} 1, got 0.",
    ("submitit_local", "timeout_min=null"): f"timeout_min must be {WHOLE} 1, got null.",
    ("submitit_local", "mem_gb=0"): "mem_gb must be a number > 0, got 0.",
    ("submitit_slurm", "gpus_per_node=1.5"): f"gpus_per_node must be null or {WHOLE} 0, got 1.5.",
    ("submitit_slurm", "signal_delay_s=-1"): f"signal_delay_s must be {WHOLE} 0, got -1.",
    ("submitit_slurm", "array_parallelism=all"): f"array_parallelism must be {WHOLE} 1, got all.",
    ("ray", "workers=0"): f"workers must be auto or {WHOLE} 1, got 0.",
    ("ray", "cpus_per_job=x"): f"cpus_per_job must be {WHOLE} 1, got x.",
    ("ray", "resources.a100=0"): "resources.a100 must be a number > 0, got 0.",
    ("ray", "resources.a100=many"): "resources.a100 must be a number > 0, got many.",
}


@pytest.mark.parametrize(("given", "line"), NUMBERS.items(), ids=map(" ".join, NUMBERS))
def test_a_number_that_is_none_is_told_before_anything_is_sent(monkeypatch, tmp_path, given, line):
    option, override = given
    pytest.importorskip("ray" if option == "ray" else "submitit")
    said = complaint(
        monkeypatch, tmp_path, f"hydra/launcher={option}", f"++hydra.launcher.{override}"
    )
    assert said == f"hydra.launcher.{line}"
