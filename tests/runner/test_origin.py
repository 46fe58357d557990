"""The hash of all that a plan is composed from: the same again, and another when any of it is."""

import dataclasses
import sys

import pytest
from hydra.types import RunMode

from runner.__main__ import main
from runner.ablation.plan import load_plan, save_plan
from runner.cli.hydra_internals import Loader
from runner.sweep import origin
from runner.sweep.origin import find_origin, seal
from runner.sweep.sweeper import AblationSweeper
from tests.builders import write_run
from tests.runner.test_freeze import planned

TYPED = ("ablation=one_at_a_time", "tricks=[clipping]")


def found(*overrides, folder=None):
    loader = Loader([folder] if folder else [])
    typed = [*TYPED, *overrides]
    master = loader.load_configuration("config", typed, RunMode.MULTIRUN)
    return find_origin(master, typed, loader.folders())


def test_it_is_the_same_for_the_same_command_and_another_for_any_other():
    commands = [(), ("epochs=3",), ("epochs=3.0",), ("ablation.margin=0.1",), ("seed=1",)]
    hashes = [found(*command) for command in commands]
    assert hashes == [found(*command) for command in commands]
    assert len({*hashes}) == len(hashes)
    assert None not in hashes


def test_a_file_that_changes_or_joins_changes_it(tmp_path):
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "mine.yaml"  # no command names it: a variant may
    seen = [found(folder=tmp_path)]
    for text in ("width: 8\n", "width: 9\n"):
        file.write_text(text)
        seen += [found(folder=tmp_path)]
    file.unlink()
    assert len({*seen}) == 3
    assert found(folder=tmp_path) == seen[0]


def test_code_versions_variables_and_what_is_allowed_change_it(tmp_path, monkeypatch):
    seen = [found("data=cifar10")]
    monkeypatch.setenv("BISCUITS_DATA", "elsewhere")
    seen += [found("data=cifar10"), found()]  # which another variant may read
    monkeypatch.setattr(origin, "version_of", lambda name: f"{name} 2")
    seen += [found()]
    (tmp_path / "more.py").touch()
    monkeypatch.setattr(origin, "CODE", (*origin.CODE, tmp_path))
    seen += [found()]
    (tmp_path / "more.py").write_text("pass")
    seen += [found()]
    monkeypatch.setattr(origin, "USERS", frozenset({"json.JSONEncoder"}))
    seen += [found()]
    assert len({*seen}) == len(seen)


@pytest.mark.parametrize("value", ["${now:%s}", "${oc.env:${variant}}", "${oc.env:A.B}"])
def test_what_has_no_end_has_no_origin(tmp_path, value):
    (tmp_path / "some.yaml").write_text(f"name: {value}\n")
    assert found(folder=tmp_path) is None
    assert seal(None, None) == ""


def test_too_many_files_have_none(monkeypatch):
    monkeypatch.setattr(origin, "MOST", 3)
    assert found() is None


def test_the_same_command_composes_no_variant_again_and_a_changed_plan_is_found_out(
    tmp_path, monkeypatch
):
    plan, _ = planned(*TYPED, "name=mine", "ablation.seeds=2", "memory_format=contiguous")
    root = tmp_path / "outputs" / "mine"
    root.mkdir(parents=True)
    save_plan(root, plan)
    for seed, variant in plan.runs():
        write_run(root, variant, seed, accuracy=0.9)
    monkeypatch.chdir(tmp_path)
    composed, compose = [], AblationSweeper._compose

    def counted(*arguments):
        composed.append(arguments)
        return compose(*arguments)

    monkeypatch.setattr(AblationSweeper, "_compose", counted)

    def ablate(*more):
        again = [*TYPED, "name=mine", "ablation.seeds=2", "memory_format=contiguous", *more]
        monkeypatch.setattr(sys, "argv", ["biscuits", *again])
        main()
        return len(composed)

    assert ablate() == 1  # an older plan, without a hash
    first = (root / "report.json").read_text()
    assert ablate() == 1
    assert (root / "report.json").read_text() == first
    save_plan(root, dataclasses.replace(load_plan(root), config={**plan.config, "epochs": 3}))
    with pytest.raises(SystemExit, match="epochs is 3, not 15"):
        ablate()
