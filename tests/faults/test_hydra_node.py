"""Hydra's own node: its launchers, callbacks and mode stay as they are, whatever a file says."""

import os
import shutil

import pytest
import yaml

from runner import allowed
from runner.sweep.settings import literal
from tests.conftest import few
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
    assert "configures Hydra, which one run of a sweep cannot" in sandbox.refuses(*arguments)
    faults("hostile configs")


def test_a_class_that_the_user_trusts_may_be_a_callback_or_a_launcher(sandbox):
    sandbox.monkeypatch.setattr(allowed, "USERS", {"evil.Evil"})
    sandbox.run("+hydra.callbacks.x={_target_: evil.Evil, a: 1}")
    assert sandbox.mark.read_text() == "called"
    sandbox.mark.unlink()
    shutil.rmtree("outputs")
    sandbox.refuses("+hydra.callbacks.x={_target_: evil.Evil, a: {_target_: evil.touch}}")
    sandbox.refuses("+hydra.callbacks.x={_target_: evil.Evil}", "+hydra.callbacks.y={a: 1}")


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_ablation_needs_no_typed_mode(sandbox):
    assert sandbox.run("experiment=demo", "ablation.dry_run=true") is None
    assert sandbox.run("ablation=calibration", "ablation.dry_run=true") is None


@pytest.mark.parametrize(
    "value",
    few([7, None, {}, [1, {"a": "b"}], [True], {0: "a"}, "${seed}"], [[1, {"a": "b"}], "${seed}"]),
)
def test_verbose_is_a_switch_or_names(sandbox, value):
    line = sandbox.refuses(*sandbox.experiment({"hydra": {"verbose": value}}))
    assert "hydra.verbose" in line
    assert "must be left as it is" in line
    assert sandbox.run(*sandbox.experiment({"hydra": {"verbose": ["a", "b"]}})) is None


BITE = {"_target_": "evil.touch"}
GLOBAL = "# @package _global_\n"
IN_HYDRA = {"hydra": {"callbacks": {"x": BITE}}}
ADDITIONS = {
    "a package in a defaults list": (
        {"experiment/x": (GLOBAL, {"defaults": ["/evil@hydra.callbacks.x"]}), "evil": ("", BITE)},
        ("experiment=x",),
    ),
    "a group's package in a defaults list": (
        {
            "experiment/x": (GLOBAL, {"defaults": [{"/data@hydra.callbacks.x": "x"}]}),
            "data/x": ("", BITE),
        },
        ("experiment=x",),
    ),
    "a file behind a file": (
        {
            "experiment/x": (GLOBAL, {"defaults": ["/a"]}),
            "a": (GLOBAL, {"defaults": ["b"]}),
            "b": (GLOBAL, IN_HYDRA),
        },
        ("experiment=x",),
    ),
    "a header": ({"data/x": ("# @package hydra.callbacks.x\n", BITE)}, ("data=x",)),
    "a header with brackets": ({"data/x": ("# @package hydra[callbacks].x\n", BITE)}, ("data=x",)),
    "a header of two": (
        {"data/x": ("# @package hydra\n", {"callbacks": {"x": BITE}})},
        ("data=x",),
    ),
    "a merged key": ({"data/x": (f"{GLOBAL}<<: {IN_HYDRA}\n", None)}, ("data=x",)),
    "a key with dots": ({"data/x": (GLOBAL, {"hydra.callbacks.x": BITE})}, ("data=x",)),
    "an interpolation": ({"data/x": (GLOBAL, {"hydra": "${model}"})}, ("data=x",)),
    "nothing": ({"data/x": (GLOBAL, {"hydra": None})}, ("data=x",)),
    "a group of Hydra": (
        {
            "experiment/x": (GLOBAL, {"defaults": [{"override /hydra/callbacks": "x"}]}),
            "hydra/callbacks/x": ("", {"x": BITE}),
        },
        ("experiment=x",),
    ),
    "Hydra's settings, empty": ({"hydra/config": ("", {})}, ()),
    "Hydra's settings, elsewhere": ({"hydra/config": ("# @package a\n", {"b": 1})}, ()),
    "a launcher for a sweeper": (
        {
            "data/x": (
                GLOBAL,
                {"hydra": {"sweeper": {"_target_": "hydra_plugins.biscuits.LocalLauncher"}}},
            )
        },
        ("data=x", *SWEEP),
    ),
    "no launcher": (
        {"experiment/x": (GLOBAL, {"defaults": [{"override /hydra/launcher": None}]})},
        ("experiment=x", *SWEEP),
    ),
    "an environment": (
        {"data/x": (GLOBAL, {"hydra": {"job": {"env_set": {"A": "1"}}}})},
        ("data=x",),
    ),
    "a folder": ({"data/x": (GLOBAL, {"hydra": {"run": {"dir": "mark"}}})}, ("data=x",)),
    "aliases": ({"x": ("", {"hydra": {"aliases": {"seed": "+hydra.callbacks.x"}}})}, ("-cn", "x")),
    "a typed package": ({"data/x": ("", BITE)}, ("+data@hydra.callbacks.x=x",)),
    "a typed package of ours": ({}, ("+model@hydra.callbacks.x=resnet8",)),
    "a typed package of Hydra's": ({}, ("+hydra/launcher@hydra.callbacks.x=basic",)),
    "typed and taken away": ({}, ("~hydra.run.dir",)),
    "all at once": ({}, (f"hydra={literal(IN_HYDRA['hydra'])}",)),
    "without a key": ({}, (f"+={literal(IN_HYDRA)}",)),
}


def test_hydras_own_files_come_before_others_of_their_names(sandbox, faults):
    for name, content in (
        ("output/default", "# @package hydra\nrun: {dir: elsewhere}\n"),
        ("env/default", "# @package hydra.job.env_set\nBISCUITS_ALLOW: evil.touch\n"),
        ("job_logging/none", "handlers: {x: {(): evil.touch}}\nroot: {handlers: [x]}\n"),
    ):
        sandbox.write(f"cd/hydra/{name}.yaml", content)
        faults("hostile configs")
    assert sandbox.run("-cd", "cd") is None
    assert not sandbox.mark.exists()
    assert [path.name for path in sandbox.folder.glob("outputs/*/*")] == ["baseline"]
    assert "BISCUITS_ALLOW" not in os.environ


QUICK = (
    *("a package in a defaults list", "a file behind a file", "a header", "a merged key"),
    *("a key with dots", "an interpolation", "a group of Hydra", "Hydra's settings, empty"),
    *("no launcher", "aliases", "a typed package", "typed and taken away", "all at once"),
)


@pytest.mark.parametrize("way", few(ADDITIONS, QUICK))
def test_whatever_way_it_takes_nothing_is_added_to_hydras_node(sandbox, faults, way):
    files, arguments = ADDITIONS[way]
    (sandbox.folder / "cd").mkdir()
    for name, (head, content) in files.items():
        sandbox.write(f"cd/{name}.yaml", head + ("" if content is None else yaml.dump(content)))
    sandbox.refuses("-cd", "cd", *arguments)
    faults("hostile configs")


def test_what_is_made_has_no_class_of_another_node(sandbox, faults):
    sandbox.monkeypatch.setattr(allowed, "USERS", {"collections.OrderedDict"})
    callback = {"_target_": "collections.OrderedDict", "a": "${data.x}"}
    line = sandbox.refuses(
        *sandbox.experiment({"data": {"x": BITE}, "hydra": {"callbacks": {"x": callback}}})
    )
    assert "hydra.callbacks.x.a must be left as it is, got ${data.x}" in line
    sandbox.experiment({"data": {"x": BITE}})
    for typed in ("hydra.launcher.timeout=${data.x}", "hydra.launcher.timeout=${ data.x }"):
        line = sandbox.refuses("-cd", "cd", "experiment=x", "hydra/launcher=local", typed, *SWEEP)
        assert "hydra.launcher.timeout must be left as it is" in line
    faults("hostile configs", 3)
