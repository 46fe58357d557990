"""Hydra's own node: its launchers, callbacks and mode stay as they are, whatever a file says."""

import shutil

import pytest

from runner import allowed
from tests.faults.routes import SWEEP


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_option_of_ours_cannot_become_another_launcher(sandbox, faults):
    for target in ("evil.Evil", "hydra_plugins.evil.Evil"):
        sandbox.write("cd/hydra/launcher/local.yaml", {"_target_": target})
        line = sandbox.refuses("-cd", "cd", "hydra/launcher=local", *SWEEP)
        assert "hydra.launcher._target_ must be left as it is" in line
        faults("hostile configs")


def test_a_factor_cannot_be_of_hydras_own(sandbox, faults):
    factors = {"hydra.searchpath": [["/"], ["/x"]]}
    arguments = sandbox.experiment({"ablation": {"factors": factors}}, "ablation=one_at_a_time")
    assert "A run of a sweep must leave Hydra alone" in sandbox.refuses(*arguments)
    faults("hostile configs")


def test_a_class_that_the_user_trusts_may_be_a_callback_or_a_launcher(sandbox):
    sandbox.monkeypatch.setattr(allowed, "USERS", {"evil.Evil"})
    sandbox.run("+hydra.callbacks.x={_target_: evil.Evil, a: 1}")
    assert sandbox.mark.read_text() == "called"
    sandbox.mark.unlink()
    shutil.rmtree("outputs")
    sandbox.refuses("+hydra.callbacks.x={_target_: evil.Evil, a: {_target_: evil.touch}}")
    sandbox.refuses("+hydra.callbacks.x={_target_: evil.Evil}", "+hydra.callbacks.y={a: 1}")


def test_a_file_alone_starts_no_sweep(sandbox):
    swept = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"seed": "0,1"}}}}
    arguments = sandbox.experiment(swept)
    assert "hydra.mode must be left as it is, got MULTIRUN" in sandbox.refuses(*arguments)
    hidden = sandbox.experiment({"hydra": {"mode": "${data.x}"}, "data": {"x": "MULTIRUN"}})
    assert "hydra.mode must be left as it is, got ${data.x}" in sandbox.refuses(*hidden)
    arguments = sandbox.experiment(swept)
    for typed in ("-m", "hydra.mode=MULTIRUN"):
        assert sandbox.run(*arguments, typed) is None
        assert len(list(sandbox.folder.glob("outputs/*/*/seed=*"))) == 2
        shutil.rmtree("outputs")
    assert sandbox.run(*arguments, "hydra.mode=RUN") is None
    assert len(list(sandbox.folder.glob("outputs/*/*/seed=*"))) == 1


def test_an_ablation_needs_no_typed_mode(sandbox):
    assert sandbox.run("experiment=demo", "ablation.dry_run=true") is None
    assert sandbox.run("ablation=calibration", "ablation.dry_run=true") is None


@pytest.mark.parametrize("value", [7, None, {}, [1, {"a": "b"}], [True], {0: "a"}, "${seed}"])
def test_verbose_is_a_switch_or_names(sandbox, value):
    line = sandbox.refuses(*sandbox.experiment({"hydra": {"verbose": value}}))
    assert "hydra.verbose" in line
    assert "must be left as it is" in line
    assert sandbox.run(*sandbox.experiment({"hydra": {"verbose": ["a", "b"]}})) is None
