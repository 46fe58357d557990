"""Configs from somebody who means ill: each is refused in one line, and nothing was executed.

A payload, such as `open(MARK, "w")`, is carried along a route, such as a callback in an experiment
file. Whether a payload bites is shown with plain Hydra, whether a route carries with a good one.
"""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import hydra.utils
import joblib
import pytest
import torch
import yaml

import runner.__main__ as command
from runner.allowed import locate
from runner.cli.plain_yaml import LARGEST, check_yaml
from runner.errors import UserError
from runner.sweep.settings import literal
from tests.conftest import ROOT, settings
from tests.test_main import biscuits

EVIL = """
import os, pathlib
mark = pathlib.Path(os.environ["EVIL_MARK"])
mark.write_text("imported")
def touch(*_, **__):
    mark.write_text("called")
class Evil:
    def __init__(self, *_, **__):
        touch()
    def __getattr__(self, name):
        return lambda **_: None
"""
RESULT = {"test/accuracy": 0.5, "test/loss": 1.0, "test/shift_consistency": 0.5, "inactive": []}


class Bite:
    """Touches a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


class Lair:
    """A folder to run the command in, with what payloads need; and the mark that none may leave."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.mark = folder, folder / "mark"
        self.bad = folder / "bad.pickle"
        self.bad.write_bytes(pickle.dumps(Bite(self.mark)))
        torch.save(Bite(self.mark), folder / "bad.pt")
        joblib.dump(Bite(self.mark), folder / "bad.joblib")
        (folder / "hub").mkdir()
        (folder / "hub" / "hubconf.py").write_text(EVIL)
        (folder / "evil").mkdir()
        (folder / "evil" / "__init__.py").write_text(EVIL)
        (folder / "evil" / "sub.py").write_text(EVIL)
        monkeypatch.setenv("EVIL_MARK", str(self.mark))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.chdir(folder)
        monkeypatch.setattr("runner.run.attempt.attempt", lambda *_, **__: RESULT)
        self.monkeypatch = monkeypatch

    def path(self):
        return {"_target_": "pathlib.Path", "_args_": [str(self.mark)]}

    def write(self, name, content):
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(file.parent)

    def experiment(self, content, *arguments):
        """Carry a config in an experiment of a --config-dir."""
        self.write("cd/experiment/x.yaml", "# @package _global_\n" + yaml.safe_dump(content))
        return ("-cd", "cd", "experiment=x", *arguments)

    def option(self, group, content, *arguments):
        """Carry a config as an option of a group."""
        self.write(f"cd/{group}/x.yaml", content)
        return ("-cd", "cd", f"{group}=x", *arguments)

    def saved(self, **changes):
        """Carry a config as the saved one of a run."""
        plain = json.loads(json.dumps(settings().to_dict()))
        self.write("run/config.yaml", {**plain, "name": "x", **changes})
        return "-cp", "run", "-cn", "config"

    def run(self, *arguments):
        """Run the command in this process; give back its last line, None if it succeeded."""
        self.monkeypatch.setattr(sys, "argv", ["biscuits", *arguments])
        try:
            command.main()
        except SystemExit as error:
            return error.code
        return None

    def refuses(self, *arguments):
        line = self.run(*arguments)
        assert isinstance(line, str), (arguments, line)
        assert line.strip(), arguments
        assert line.isprintable(), (arguments, line)
        assert not self.mark.exists(), (arguments, line)
        assert not list(self.folder.glob("outputs/*")), (arguments, line)
        forget()
        return line


def forget():
    """Have the next import of what is evil execute it again."""
    for name in ("evil", "evil.sub"):
        sys.modules.pop(name, None)


@pytest.fixture
def lair(tmp_path, monkeypatch):
    yield Lair(tmp_path, monkeypatch)
    forget()


def payloads(lair):
    """What an attacker would name, and how it would have to be called to leave the mark."""
    mark, bad = str(lair.mark), str(lair.bad)
    touch = f"import pathlib; pathlib.Path({mark!r}).touch()"
    plain = {
        "builtins.open": {"file": mark, "mode": "w"},
        "builtins.exec": {"_args_": [touch]},
        "builtins.eval": {"_args_": [f"open({mark!r}, 'w')"]},
        "builtins.__import__": {"name": "evil"},
        "builtins.setattr": {"_args_": [{"_target_": "evil.Evil"}, "x", 1]},
        "builtins.getattr": {"_args_": [{"_target_": "evil.Evil"}, "touch"]},
        "builtins.print": {
            "_args_": ["x"],
            "file": {"_target_": "builtins.open", "file": mark, "mode": "w"},
        },
        "io.open": {"file": mark, "mode": "w"},
        "io.FileIO": {"file": mark, "mode": "w"},
        "os.system": {"command": f"touch {mark}"},
        "os.popen": {"cmd": f"touch {mark}"},
        "os.mkdir": {"path": mark},
        "os.makedirs": {"name": mark},
        "os.symlink": {"src": bad, "dst": mark},
        "os.link": {"src": bad, "dst": mark},
        "os.mkfifo": {"path": mark},
        "os.execv": {"_args_": ["/bin/touch", ["touch", mark]]},
        "os.putenv": {"_args_": ["BISCUITS_ALLOW", "evil.touch"]},
        "posix.system": {"command": f"touch {mark}"},
        "subprocess.run": {"args": ["touch", mark]},
        "subprocess.Popen": {"args": ["touch", mark]},
        "subprocess.check_output": {"args": ["touch", mark]},
        "subprocess.getoutput": {"cmd": f"touch {mark}"},
        "pathlib.Path.touch": {"self": lair.path()},
        "pathlib.Path.write_text": {"self": lair.path(), "data": "x"},
        "pathlib.Path.mkdir": {"self": lair.path()},
        "pathlib.Path.unlink": {"self": lair.path()},
        "shutil.copy": {"src": bad, "dst": mark},
        "shutil.copyfile": {"src": bad, "dst": mark},
        "shutil.copytree": {"src": "hub", "dst": mark},
        "shutil.make_archive": {"base_name": mark, "format": "zip", "root_dir": "hub"},
        "shutil.rmtree": {"path": "evil"},
        "tempfile.mkdtemp": {"prefix": "mark", "dir": str(lair.folder)},
        "pickle.load": {"file": {"_target_": "builtins.open", "file": bad, "mode": "rb"}},
        "pickle.loads": {"_args_": ["x"]},
        "_pickle.loads": {"_args_": ["x"]},
        "cloudpickle.load": {"file": {"_target_": "builtins.open", "file": bad, "mode": "rb"}},
        "marshal.loads": {"_args_": ["x"]},
        "shelve.open": {"filename": mark},
        "dbm.open": {"file": mark, "flag": "c"},
        "sqlite3.connect": {"database": mark},
        "joblib.load": {"filename": "bad.joblib"},
        "joblib.dump": {"value": 1, "filename": mark},
        "pandas.read_pickle": {"filepath_or_buffer": bad},
        "pandas.eval": {"expr": "1"},
        "numpy.load": {"file": bad, "allow_pickle": True},
        "numpy.save": {"file": mark, "arr": [1]},
        "numpy.savetxt": {"fname": mark, "X": [1]},
        "torch.load": {"f": "bad.pt", "weights_only": False},
        "torch.save": {"obj": 1, "f": mark},
        "torch.jit.load": {"f": "bad.pt"},
        "torch.hub.load": {"repo_or_dir": "hub", "model": "touch", "source": "local"},
        "torch.hub.load_state_dict_from_url": {"url": "http://127.0.0.1:9/x"},
        "torch.hub.download_url_to_file": {"url": "http://127.0.0.1:9/x", "dst": mark},
        "torch.utils.cpp_extension.load": {"name": "x", "sources": [bad]},
        "torch.ops.load_library": {"path": bad},
        "torch.multiprocessing.spawn": {"fn": "evil.touch"},
        "torchvision.models.get_model": {"name": "resnet18", "weights": "DEFAULT"},
        "torchvision.datasets.utils.download_url": {"url": "http://127.0.0.1:9/x", "root": "."},
        "timm.create_model": {"model_name": "resnet18", "checkpoint_path": "bad.pt"},
        "timm.models.load_checkpoint": {"model": 1, "checkpoint_path": "bad.pt"},
        "urllib.request.urlopen": {"url": "http://127.0.0.1:9/x"},
        "urllib.request.urlretrieve": {"url": f"file://{bad}", "filename": mark},
        "socket.create_connection": {"address": ["127.0.0.1", 9]},
        "http.server.test": {"port": 0},
        "multiprocessing.Process": {"target": "evil.touch"},
        "threading.Timer": {"interval": 0, "function": "evil.touch"},
        "importlib.import_module": {"name": "evil"},
        "importlib.reload": {"module": "evil"},
        "runpy.run_path": {"path_name": "evil/__init__.py"},
        "runpy.run_module": {"mod_name": "evil"},
        "code.interact": {"local": {}},
        "ctypes.CDLL": {"name": bad},
        "logging.FileHandler": {"filename": mark},
        "logging.config.dictConfig": {"config": {"version": 1}},
        "logging.config.fileConfig": {"fname": bad},
        "functools.partial": {"_args_": ["evil.touch"]},
        "functools.reduce": {"_args_": ["evil.touch", [1, 2]]},
        "operator.methodcaller": {"_args_": ["touch"]},
        "operator.attrgetter": {"_args_": ["touch"]},
        "hydra.utils.instantiate": {"config": {"_target_": "evil.touch"}},
        "hydra.utils.call": {"config": {"_target_": "evil.touch"}},
        "hydra.utils.get_method": {"path": "evil.touch"},
        "hydra.utils.get_class": {"path": "evil.Evil"},
        "hydra.utils.get_object": {"path": "evil.touch"},
        "hydra.experimental.callbacks.PickleJobInfoCallback": {},
        "hydra.main": {"config_path": "."},
        "omegaconf.OmegaConf.load": {"file_": bad},
        "omegaconf.OmegaConf.register_new_resolver": {"name": "x", "resolver": "evil.touch"},
        "omegaconf.OmegaConf.save": {"config": {}, "f": mark},
        "submitit.AutoExecutor": {"folder": mark},
        "submitit.helpers.CommandFunction": {"command": ["touch", mark]},
        "yaml.unsafe_load": {"stream": "x"},
        "webbrowser.open": {"url": "http://127.0.0.1:9/x"},
        "sys.exit": {"_args_": [0]},
        "gc.collect": {},
        "runner.models.load_weights": {"model": 1, "file": "bad.pt"},
        "runner.store.files.write_text": {"path": mark, "text": "x"},
        "runner.run.status.clear": {"folder": "hub"},
        "runner.build.build": {"settings": 1},
        "runner.data.cache.default_folder": {},
        "runner.models.os.system": {"command": f"touch {mark}"},
        "runner.data.npz.__globals__": {},
        "torch.optim.sgd.os.system": {"command": f"touch {mark}"},
        "torch.optim.Optimizer.register_optimizer_step_pre_hook": {},
        "tricks.Chain": {},
        "tricks.trick.os.mkdir": {"path": mark},
        "evil.touch": {},
        "evil.Evil": {},
        "evil.sub.touch": {},
    }
    return [{"_target_": target, **arguments} for target, arguments in plain.items()]


def known(group, **more):
    """A node that the group may have, to carry what it may not."""
    target = {
        "data": "runner.data.digits",
        "model": "runner.models.cifar_resnet",
        "optimizer": "torch.optim.SGD",
        "scheduler": "runner.schedulers.Constant",
    }
    return {"_target_": target[group], **more}


SWEEP = ("seed=0,1", "-m")


def handler(node):
    arguments = {k: v for k, v in node.items() if k != "_target_" and k != "_args_"}
    return {"()": node["_target_"], **arguments}


ROUTES = {
    "data": lambda lair, node: lair.experiment({"data": node}),
    "model": lambda lair, node: lair.option("model", node),
    "optimizer": lambda lair, node: lair.experiment({"optimizer": node}),
    "scheduler": lambda lair, node: lair.option("scheduler", node),
    "typed": lambda _, node: (f"++optimizer={literal(node)}",),
    "typed target": lambda _, node: (f"model._target_={node['_target_']}",),
    "trick": lambda lair, node: lair.option("tricks", {"clipping": {"enabled": True, **node}}),
    "trick that is off": lambda lair, node: (
        *lair.option("tricks", {"clipping": {"enabled": True, **node}}),
        "tricks.clipping.enabled=false",
    ),
    "parameter of a trick": lambda lair, node: lair.experiment(
        {"tricks": {"clipping": {"enabled": True, "max_norm": node}}}
    ),
    "nested": lambda lair, node: lair.experiment({"model": {"width": node}}),
    "nested in a list": lambda lair, node: lair.experiment({"data": {"augment": {"crop": [node]}}}),
    "weights": lambda lair, node: lair.experiment({"model": {"weights": node}}),
    "partial": lambda lair, node: lair.experiment({"optimizer": {**node, "_partial_": True}}),
    "arguments": lambda lair, node: lair.experiment({"optimizer": {"_args_": [node]}}),
    "alias": lambda lair, node: lair.option(
        "model", f"width: &x {json.dumps(node)}\n{yaml.safe_dump(known('model'))}depth: *x\n"
    ),
    "interpolation": lambda lair, node: lair.experiment(
        {"data": {"root": node}, "optimizer": {"_target_": "${data.root._target_}"}}
    ),
    "top": lambda lair, node: lair.experiment({"x": node, "epochs": "${x}"}),
    "launcher": lambda lair, node: lair.option("hydra/launcher", node, *SWEEP),
    "parameter of a launcher": lambda lair, node: lair.option(
        "hydra/launcher", {"defaults": ["local"], "timeout": node}, *SWEEP
    ),
    "typed parameter of a launcher": lambda _, node: (
        "hydra/launcher=local",
        f"++hydra.launcher.timeout={literal(node)}",
        *SWEEP,
    ),
    "sweeper": lambda lair, node: lair.option("hydra/sweeper", node, *SWEEP),
    "parameter of a sweeper": lambda lair, node: lair.experiment(
        {"hydra": {"sweeper": {"params": {"epochs": node}}}}, *SWEEP
    ),
    "sweeper of an ablation": lambda lair, node: lair.experiment(
        {"hydra": {"sweeper": node}}, "+ablation=calibration"
    ),
    "callback": lambda lair, node: lair.experiment({"hydra": {"callbacks": {"x": node}}}),
    "typed callback": lambda _, node: (f"+hydra.callbacks.x={literal(node)}",),
    "callback of a sweep": lambda lair, node: lair.option("hydra/callbacks", {"x": node}, *SWEEP),
    "logging": lambda lair, node: lair.experiment(
        {"hydra": {"job_logging": {"handlers": {"x": handler(node)}, "root": {"handlers": ["x"]}}}}
    ),
    "typed logging": lambda _, node: (
        f"+hydra.hydra_logging.handlers.x={literal(handler(node))}",
        "hydra.hydra_logging.root.handlers=[x]",
    ),
    "environment": lambda _, node: (
        f"+hydra.job.env_set.BISCUITS_ALLOW={node['_target_']}",
        f"optimizer._target_={node['_target_']}",
    ),
    "searchpath": lambda _, node: (
        f"hydra.searchpath=['pkg://{node['_target_'].rpartition('.')[0]}']",
    ),
    "searchpath of a -cn file": lambda lair, node: (
        lair.write(
            "cd/x.yaml",
            {"hydra": {"searchpath": [f"pkg://{node['_target_'].rpartition('.')[0]}"]}},
        )
        and ("-cd", "cd", "-cn", "x")
    ),
    "saved": lambda lair, node: lair.saved(optimizer=node),
    "saved trick that is off": lambda lair, node: lair.saved(
        tricks={"x": {"enabled": False, **node}}
    ),
    "saved callback": lambda lair, node: lair.saved(hydra={"callbacks": {"x": node}}),
    "saved defaults": lambda lair, node: (
        lair.write("run/evil.yaml", node) and lair.saved(defaults=["evil@optimizer", "_self_"])
    ),
    "package header": lambda lair, node: (
        lair.write("run/x.yaml", "# @package hydra.callbacks.x\n" + yaml.safe_dump(node))
        and ("-cp", "run", "-cn", "x")
    ),
    "shadowed launcher": lambda lair, node: (
        lair.saved()[0],
        lair.write("run/hydra/launcher/local.yaml", node).removesuffix("/hydra/launcher"),
        "hydra/launcher=local",
        *SWEEP,
    ),
    "shadowed Hydra": lambda lair, node: (
        *("-cd", lair.write("cd/hydra/config.yaml", {"callbacks": {"x": node}}) + "/.."),
    ),
    "factor": lambda lair, node: lair.experiment(
        {"ablation": {"factors": {"optimizer._target_": ["torch.optim.SGD", node["_target_"]]}}},
        "ablation=one_at_a_time",
    ),
    "level": lambda lair, node: lair.experiment(
        {"ablation": {"factors": {"x": {"a": {"model.width": 8}, "b": {"model": node}}}}},
        "ablation=one_at_a_time",
    ),
    "factor of Hydra": lambda lair, node: lair.experiment(
        {"ablation": {"factors": {"+hydra.callbacks.x": [node, node]}}},
        "ablation=one_at_a_time",
    ),
    "parameters of a sweep": lambda lair, node: lair.experiment(
        {"hydra": {"sweeper": {"params": {"+hydra.callbacks.x": literal(node)}}}}, *SWEEP
    ),
    "tag": lambda lair, node: lair.option(
        "model", f"_target_: !!python/object/apply:{node['_target_']} [{lair.mark}]\n"
    ),
    "tag in a saved config": lambda lair, node: (
        lair.write("run/x.yaml", f"name: !!python/name:{node['_target_']} x\n")
        and ("-cp", "run", "-cn", "x")
    ),
}

STEP = 30  # each route carries every so manieth payload, each from another one on


def carry(lair, route, nodes):
    for node in nodes:
        lair.refuses(*ROUTES[route](lair, node))
    return len(nodes)


@pytest.mark.parametrize("route", ROUTES)
def test_a_hostile_config_is_one_line_and_executes_nothing(lair, route, faults):
    nodes = payloads(lair)[list(ROUTES).index(route) % STEP :: STEP]
    faults("hostile configs", carry(lair, route, nodes))


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_more_payloads_along_each_route(lair, route, faults):
    faults("hostile configs", carry(lair, route, payloads(lair)[::4]))


def test_there_are_enough_of_them(lair):
    targets = {node["_target_"] for node in payloads(lair)}
    carried = sum(len(range(i % STEP, len(targets), STEP)) for i in range(len(ROUTES)))
    assert len(targets) >= 60
    assert len(ROUTES) >= 10
    assert carried >= 150  # in the default tests; beside them those that are typed, or no YAML


BITING = [
    *("builtins.open", "pathlib.Path.touch", "torch.load", "torch.hub.load", "joblib.load"),
    *("pandas.read_pickle", "shutil.copy", "evil.touch", "logging.FileHandler", "numpy.savetxt"),
]


@pytest.mark.parametrize("target", BITING)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_payloads_bite_where_hydra_instantiates_them(lair, target):
    (node,) = (node for node in payloads(lair) if node["_target_"] == target)
    with contextlib.suppress(Exception):
        hydra.utils.instantiate(node)
    assert lair.mark.exists()


LIVE = {
    "callback": "joblib.load",
    "typed callback": "evil.touch",
    "callback of a sweep": "evil.touch",
    "typed parameter of a launcher": "evil.Evil",  # an object, at which the launcher stops
    "parameter of a launcher": "evil.Evil",
    "parameter of a sweeper": "pandas.read_pickle",
    "searchpath": "evil.sub.touch",
    "searchpath of a -cn file": "evil.sub.touch",
    "saved callback": "evil.touch",
    "package header": "evil.touch",
    "shadowed launcher": "evil.Evil",
}


def live(lair, route):
    """Give back the command that carries a payload along the route to where it bites."""
    (node,) = (node for node in payloads(lair) if node["_target_"] == LIVE[route])
    return ROUTES[route](lair, {"timeout": node} if route == "shadowed launcher" else node)


@pytest.mark.parametrize("route", LIVE)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_routes_carry_where_nobody_is_on_guard(lair, route):
    lair.monkeypatch.setattr(command, "guarded", contextlib.nullcontext)
    with contextlib.suppress(Exception):
        lair.run(*live(lair, route))
    assert lair.mark.exists()


@pytest.mark.parametrize("route", LIVE)
def test_the_same_carry_nothing_where_somebody_is(lair, route, faults):
    lair.refuses(*live(lair, route))
    faults("hostile configs")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_option_of_ours_cannot_become_another_launcher(lair, faults):
    for target in ("evil.Evil", "hydra_plugins.evil.Evil"):
        lair.write("cd/hydra/launcher/local.yaml", {"_target_": target})
        line = lair.refuses("-cd", "cd", "hydra/launcher=local", *SWEEP)
        assert "hydra.launcher._target_ must be left as it is" in line
        faults("hostile configs")


def test_a_factor_cannot_be_of_hydras_own(lair, faults):
    factors = {"hydra.searchpath": [["/"], ["/x"]]}
    arguments = lair.experiment({"ablation": {"factors": factors}}, "ablation=one_at_a_time")
    assert "A run of a sweep must leave Hydra alone" in lair.refuses(*arguments)
    faults("hostile configs")


GOOD = {
    "data": {"_target_": "runner.data.digits"},
    "model": {"_target_": "runner.models.cifar_resnet", "depth": 8, "width": 4},
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "scheduler": {"_target_": "runner.schedulers.Constant"},
    "typed": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "typed target": {"_target_": "runner.models.cifar_resnet"},
    "trick": {"_target_": "tricks.Clipping"},
    "trick that is off": {"_target_": "tricks.Clipping"},
    "launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
    "sweeper": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"},
    "parameter of a launcher": 100,
    "typed parameter of a launcher": None,
    "parameter of a sweeper": 2,
    "saved": {"_target_": "torch.optim.SGD", "lr": 0.1},
}


@pytest.mark.parametrize(("route", "node"), GOOD.items(), ids=GOOD)
def test_the_routes_carry_what_is_good(lair, route, node):
    if route == "sweeper":
        node = {**node, "max_batch_size": 1}
    arguments = ROUTES[route](lair, node)
    if "launcher" in route and route != "launcher":
        arguments = *arguments[:-2], "--cfg", "job"  # no workers for this
    assert lair.run(*arguments) is None


def test_a_class_that_the_user_trusts_may_be_a_callback_or_a_launcher(lair):
    lair.monkeypatch.setattr("runner.cli.guard.USERS", {"evil.Evil"})
    lair.run("+hydra.callbacks.x={_target_: evil.Evil, a: 1}")
    assert lair.mark.read_text() == "called"
    lair.mark.unlink()
    shutil.rmtree("outputs")
    lair.refuses("+hydra.callbacks.x={_target_: evil.Evil, a: {_target_: evil.touch}}")
    lair.refuses("+hydra.callbacks.x={_target_: evil.Evil}", "+hydra.callbacks.y={a: 1}")


OPTIONS = {
    ("--experimental-rerun", "bad.pickle"): "would unpickle",
    ("--experimental-rerun=bad.pickle",): "would unpickle",
    ("--experimental-re", "bad.pickle"): "would unpickle",
    ("--exp=bad.pickle",): "would unpickle",
    ("--config-pa", "nowhere"): "--config-path must be a folder",
    ("-cpnowhere",): "invalid choice",
    ("-cp", "pkg://evil"): "--config-path must be a folder",
    ("-cn", "../run/config"): "must lie in the folder",
    ("-cn", "{folder}/run/config"): "must lie in the folder",
    ("-cd", "run", "-cn", "../run/config"): "must lie in the folder",
    ("data=../../run/config",): "must lie in the folder",
    ("-cd", "nowhere"): "not found",
    ("model=\x1b[31mx",): "",
    ("model='\u202ex'",): "",
    ("+x\u202e=1",): "",
    ("--bogus",): "unrecognized arguments: --bogus",
    ("-m", "--cfg", "job"): "multirun and cfg at once",
    ("--resolve",): "--resolve without --cfg",
    ("--cfg", "bogus"): "invalid choice",
    ("hydra.searchpath=[structured://]",): "hydra.searchpath must be left",
    ("hydra.job.env_copy=[PATH]",): "hydra.job.env_set.PATH must be left as it is",
    ("+hydra.job.env_set.X=1",): "hydra.job.env_set.X must be left as it is, got 1. Set it",
    ("hydra.job.chdir=true",): "hydra.job.chdir must be left as it is, got True. Name the runs",
    ("hydra.job.name=../../x", "hydra/job_logging=default"): "hydra.job.name must be left",
    ("hydra.overrides.hydra=[a]",): "hydra.overrides must be left",
    ("~hydra/job_logging",): "must be left",
    ("hydra=null",): "must be",
    ("hydra.launcher=null",): "must be left",
}


@pytest.mark.parametrize(("arguments", "told"), OPTIONS.items(), ids=str)
def test_what_is_typed_cannot_lead_hydra_astray_either(lair, arguments, told, faults):
    lair.saved(hydra={"callbacks": {"x": {"_target_": "evil.touch"}}})
    line = lair.refuses(*(argument.format(folder=lair.folder) for argument in arguments))
    assert told in line
    faults("hostile configs")


CONFIG_PATHS = [
    *(("-cp", "run"), ("-cp=run",), ("--config-path", "run"), ("--config-path=run",)),
    *(("--config-p", "run"), ("-cp", "./run/../run"), ("-cp", "run", "-cn", "config.yaml")),
    *(("-cp", ".", "-cn", "run/config"), ("-cd", "run", "-cp", "run")),
]


@pytest.mark.parametrize("arguments", CONFIG_PATHS, ids=str)
def test_a_saved_config_is_judged_however_it_is_named(lair, arguments):
    lair.saved(hydra={"callbacks": {"x": {"_target_": "evil.touch"}}})
    assert "must be the config of one run, got one with hydra" in lair.refuses(*arguments)


LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
FILES = {
    "laughs": ("a0: &a0 x\n" + LAUGHS, "at most 10000 values"),
    "itself": ("a: &a [*a]\n", "without the alias"),
    "deep": ("a: " + "[" * 100 + "]" * 100, "30 deep"),
    "deep mapping": ("".join(" " * i + "a:\n" for i in range(100)), "30 deep"),
    "tag": ("a: !!python/object/apply:os.system [x]\n", "must have no tags"),
    "path tag": ("a: !!python/object/apply:pathlib.Path [x]\n", "must have no tags"),
    "binary": ("a: !!binary aGk=\n", "must have no tags"),
    "own tag": ("a: !x y\n", "must have no tags"),
    "twice": ("a: 1\na: 2\n", "duplicate key"),
    "large": ("a: " + "x" * LARGEST, "at most 200000 bytes"),
    "many": ("a: [" + "1," * 20_000 + "]", "at most 10000 values"),
    "NUL": ("a: x\0y\n", "must be YAML in UTF-8"),
    "latin": (b"a: \xe9\n", "must be YAML in UTF-8"),
    "open": ("a: [1, 2\n", "must be YAML in UTF-8"),
    "list": ("- a\n", "must be a mapping"),
    "word": ("a\n", "must be a mapping"),
    "two": ("a: 1\n---\nb: 2\n", "expected a single document"),
    "keys": ("1: a\n", ""),
    "no keys": ("[1, 2]: a\n", ""),
    "null": ("~: a\n", ""),
    "interpolations": (
        "a: ['${b}${b}']\n"
        + "b: {}\n"
        + "".join(f"x{i}: '${{x{i - 1}}}${{x{i - 1}}}'\n" for i in range(11)),
        "a ${...} counts as 480",
    ),
    "escaped": ('a: "' + "\\x24{b}" * 21 + '"\n', "a ${...} counts as 480"),
    "repeated": ("a: &a '${b}${b}'\nc: [" + "*a," * 20 + "]\n", "a ${...} counts as 480"),
    "digits": ("a: 0x" + "f" * 6000 + "\n", "at most 1000 characters in a value without quotes"),
}


@pytest.mark.parametrize(("content", "told"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("way", ["saved", "experiment", "trick"])
def test_a_file_that_is_no_plain_yaml_is_one_line(lair, content, told, way, faults):
    name = {"saved": "run/config.yaml", "experiment": "cd/experiment/x.yaml"}.get(
        way, "cd/tricks/x.yaml"
    )
    arguments = {"saved": ("-cp", "run"), "experiment": ("-cd", "cd", "experiment=x")}
    lair.write(name, "")
    data = content if isinstance(content, bytes) else content.encode()
    head = b"# @package _global_\n" if way == "experiment" else b""
    (lair.folder / name).write_bytes(head + data)
    line = lair.refuses(*arguments.get(way, ("-cd", "cd", "tricks=[x]")))
    assert told in line or way == "trick" or ("alias" in line and way == "saved")
    faults("hostile configs")


SAVED = {
    "alias": ("name: &a x\nvariant: *a\n", "without the alias *a"),
    "environment": ("name: ${oc.env:HOME}\n", "got one with ${oc.env:HOME}"),
    "interpolation": ("name: x-${seed}\n", "got one with ${seed}"),
    "escape": ('name: "\\x24{oc.env:HOME}"\n', "got one with ${oc.env:HOME}"),
    "header": ("# @package _global_\nname: x\n", "got one with # @package _global_"),
    "defaults": ("defaults: []\n", "got one with defaults"),
}


@pytest.mark.parametrize(("content", "told"), SAVED.values(), ids=SAVED)
def test_a_saved_config_is_plain_values(lair, content, told, faults):
    lair.write("run/config.yaml", content)
    assert told in lair.refuses("-cp", "run", "-cn", "config")
    faults("hostile configs")


def test_a_users_own_folder_may_hold_anchors_defaults_and_a_cluster(lair):
    lair.write(
        "cd/experiment/mine.yaml",
        "# @package _global_\n"
        "defaults: [{override /model: resnet20}, {override /hydra/launcher: mine}]\n"
        "epochs: &n 3\nevaluate_every: *n\n"
        "hydra: {sweeper: {params: {seed: '0,1'}}}\n",
    )
    lair.write(
        "cd/hydra/launcher/mine.yaml",
        {"defaults": ["submitit_slurm"], "partition": "gpu", "mem_gb": 16, "timeout_min": 600},
    )
    assert lair.run("-cd", "cd", "experiment=mine", "--cfg", "all") is None
    arguments = "-cd", "cd", "experiment=mine", "hydra.launcher.setup=[a b]", "--cfg", "all"
    assert lair.run(*arguments) is None
    for setting in (
        {"setup": ["touch x"]},
        {"partition": "gpu\ntouch x"},
        {"submitit_folder": "/x"},
    ):
        lair.write("cd/hydra/launcher/mine.yaml", {"defaults": ["submitit_slurm"], **setting})
        line = lair.refuses("-cd", "cd", "experiment=mine")
        assert f"hydra.launcher.{next(iter(setting))}" in line


PLACES = {
    ("name=../x",): "name must be the name of a folder below outputs",
    ("name=a/../../x",): "name must be the name",
    ("name={folder}/x",): "name must be the name",
    ("name=.",): "name must be the name",
    ("name=",): "name must be the name",
    ("name=' '",): "name must be the name",
    ("name=a//b",): "name must be the name",
    ("name=a/",): "name must be the name",
    ("name=3",): "name must be the name",
    ("name=null",): "name must be the name",
    ("name=[a]",): "name must be the name",
    ("name='a\nb'",): "name must be the name",
    ("name='a\0b'",): "name must be the name",
    ("name=" + 300 * "a",): "name must be at most 200 bytes, got 300",
    ("name=" + "/".join(300 * "a"),): "name must be at most 200 bytes",
    ("name=" + 90 * "\u2603",): "",
    ("name='\u202eabc'",): "name must be the name",
    ("name=${{oc.env:HOME}}/x",): "name must be the name",
    ("seed=../../x",): "seed must be a whole number",
    ("seed='1/../../../x'",): "seed must be a whole number",
    ("seed=true",): "seed must be a whole number",
    ("seed=-1",): "seed must be a whole number",
    ("variant=../../x",): "variant must be the name",
    ("variant=a/b",): "variant must be the name",
    ("variant=..",): "variant must be the name",
    ("variant=",): "variant must be the name",
    ("variant={folder}",): "variant must be the name",
    ("hydra.run.dir={folder}/x",): "hydra.run.dir must be left as it is",
    ("hydra.run.dir=../x",): "Name the runs (name=NAME)",
    ("++hydra.run.dir=x",): "hydra.run.dir must be",
    ("hydra.output_subdir=../../x",): "hydra.output_subdir must be left",
    ("hydra.output_subdir=.hydra",): "hydra.output_subdir must be left",
    ("-m", "seed=0,1", "hydra.sweep.dir=../x"): "hydra.sweep.dir must be left",
    ("-m", "seed=0,1", "hydra.sweep.subdir=../x"): "hydra.sweep.subdir must be left",
    ("-m", "seed=0,1", "name=../x"): "name must be the name",
    ("-m", "name=a,../x"): "name must be the name",
    ("-m", "seed=0,'../../../x'"): "seed must be a whole number",
    ("-m", "variant=a,../../x"): "variant must be the name",
    ("-m", "seed=0,1", "hydra/launcher=local", "variant=../../x"): "variant must be the name",
    ("ablation=calibration", "name=../x"): "name must be the name",
    ("ablation=calibration", "name={folder}/x", "ablation.dry_run=true"): "name must be the name",
}


@pytest.mark.parametrize(("arguments", "told"), PLACES.items(), ids=str)
def test_no_name_leads_out_of_the_outputs(lair, arguments, told, faults):
    before = sorted(lair.folder.parent.rglob("*"))
    line = lair.run(*(a.format(folder=lair.folder) for a in arguments))
    assert told in line
    assert line.isprintable()
    after = sorted(lair.folder.parent.rglob("*"))
    assert [p for p in after if not p.is_relative_to(lair.folder / "outputs")] == before
    assert not list(lair.folder.glob("outputs/**/seed=*"))
    faults("paths that lead out")


@pytest.mark.parametrize("link", ["mine", "mine/baseline", "mine/baseline/seed=0", "loop"])
@pytest.mark.parametrize("more", [(), SWEEP], ids=["run", "sweep"])
def test_no_link_below_the_outputs_leads_out(lair, link, more, faults):
    elsewhere = lair.folder / "elsewhere"
    elsewhere.mkdir()
    place = lair.folder / "outputs" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(place if link == "loop" else elsewhere)
    lair.monkeypatch.setattr(lair, "folder", elsewhere)  # nothing may be in there
    line = lair.refuses("name=loop" if link == "loop" else "name=mine", *more)
    assert ("must be a folder" if link == "loop" else "got a link to") in line
    assert not list(elsewhere.iterdir())
    faults("paths that lead out")


def test_the_outputs_may_be_a_link_and_a_name_may_have_groups(lair):
    (lair.folder / "disk").mkdir()
    (lair.folder / "outputs").symlink_to(lair.folder / "disk")
    assert lair.run("name=a/b c/con...", "seed=3") is None
    assert (lair.folder / "disk/a/b c/con.../baseline/seed=3").is_dir()


@pytest.mark.parametrize("kind", ["file", "dangling"])
def test_outputs_that_are_no_folder_are_one_line(lair, kind):
    place = lair.folder / "outputs"
    place.write_text("x") if kind == "file" else place.symlink_to(lair.folder / "gone" / "there")
    line = lair.run("epochs=1")
    assert isinstance(line, str)
    assert line.isprintable()


def test_a_key_of_a_file_cannot_lead_out_either(lair, faults):
    for key in ("../../x", "/tmp/x", "a\nb", "x" * 300):
        lair.refuses(*lair.experiment({"optimizer": {key: 1}}))
        faults("paths that lead out")


ALONE = ("typed", "trick that is off", "typed callback", "logging", "searchpath", "package header")


@pytest.mark.slow
@pytest.mark.parametrize(
    "route", [*ALONE, "environment", "factor", "typed parameter of a launcher"]
)
def test_a_process_of_its_own_executes_nothing(lair, route, faults):
    arguments = ROUTES[route](lair, {"_target_": "evil.touch"})
    code, out, line = biscuits(
        lair.folder, *arguments, PYTHONPATH=f"{ROOT}:{lair.folder}", EVIL_MARK=str(lair.mark)
    )
    assert code == 1
    assert out == ""
    assert len(line.strip().splitlines()) == 1
    assert "Traceback" not in line
    assert not lair.mark.exists()
    faults("hostile configs")


def test_no_config_can_widen_what_is_allowed_for_a_later_run(lair):
    lair.monkeypatch.setenv("BISCUITS_ALLOW", "evil.touch")  # as if one had got through
    assert "If you trust it" in lair.refuses("optimizer._target_=evil.touch")


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "pipe", "folder"])
@pytest.mark.parametrize("swept", ["seed=0,1", "name=mine,other"])
def test_the_sweepers_file_is_not_written_through_what_was_planted(lair, kind, swept):
    theirs = lair.folder / "bashrc"
    theirs.write_text("mine")
    name = "mine" if "seed" in swept else "digits-resnet8"
    place = lair.folder / "outputs" / name / "multirun.yaml"
    place.parent.mkdir(parents=True)
    {
        "link": lambda: place.symlink_to(theirs),
        "dangling": lambda: place.symlink_to(lair.mark),
        "hard link": lambda: place.hardlink_to(theirs),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
    }[kind]()
    line = lair.run("-m", swept, *(["name=mine"] if "seed" in swept else []))
    assert theirs.read_text() == "mine"
    assert not lair.mark.exists()
    if kind == "folder":
        assert "multirun.yaml cannot be used" in line
    else:
        assert line is None
        assert place.is_file()
        assert not place.is_symlink()


def test_a_file_alone_starts_no_sweep(lair):
    swept = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"seed": "0,1"}}}}
    arguments = lair.experiment(swept)
    assert "hydra.mode must be left as it is, got MULTIRUN" in lair.refuses(*arguments)
    hidden = lair.experiment({"hydra": {"mode": "${data.x}"}, "data": {"x": "MULTIRUN"}})
    assert "hydra.mode must be left as it is, got MULTIRUN" in lair.refuses(*hidden)
    arguments = lair.experiment(swept)
    for typed in ("-m", "hydra.mode=MULTIRUN"):
        assert lair.run(*arguments, typed) is None
        assert len(list(lair.folder.glob("outputs/*/*/seed=*"))) == 2
        shutil.rmtree("outputs")
    assert lair.run(*arguments, "hydra.mode=RUN") is None
    assert len(list(lair.folder.glob("outputs/*/*/seed=*"))) == 1


def test_an_ablation_needs_no_typed_mode(lair):
    assert lair.run("experiment=demo", "ablation.dry_run=true") is None
    assert lair.run("ablation=calibration", "ablation.dry_run=true") is None


@pytest.mark.parametrize("value", [7, None, {}, [1, {"a": "b"}], [True], {0: "a"}, "${seed}"])
def test_verbose_is_a_switch_or_names(lair, value):
    line = lair.refuses(*lair.experiment({"hydra": {"verbose": value}}))
    assert "hydra.verbose must be left" in line
    assert lair.run(*lair.experiment({"hydra": {"verbose": ["a", "b"]}})) is None


def test_completion_prints_only_plain_words(lair, capsys):
    name = f"$(touch {lair.mark.name})"
    for file in (name, "`touch mark`", "plain_é-1.npz", "a b;c"):
        lair.write(f"stranger/{file}", "")
    line = "biscuits data=npz data.root=./stranger/"
    lair.monkeypatch.setenv("COMP_LINE", line)
    for shell in ("bash", "fish"):
        assert lair.run("-sc", f"query={shell}") is None
        assert "./stranger/plain_é-1.npz" in (words := capsys.readouterr().out)
        assert not set(words) & set("$`();")
    if not (bash := shutil.which("bash")):
        return
    lair.run("-sc", "install=bash")
    script = capsys.readouterr().out
    biscuits_here = f'#!/bin/sh\nexec {sys.executable} -m runner "$@"\n'
    lair.write("bin/biscuits", biscuits_here)
    (lair.folder / "bin/biscuits").chmod(0o755)
    press = f"""COMP_LINE={line!r} COMP_POINT={len(line)} COMP_CWORD=2
hydra_bash_completion; echo "${{COMPREPLY[@]}}" """
    paths = {"PATH": f"{lair.folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [bash, "-c", f"{script}\n{press}"],
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "data.root=./stranger/plain_é-1.npz" in done.stdout, done.stderr
    assert not lair.mark.exists()


def test_a_pipe_among_the_files_does_not_hang(lair):
    lair.write("cd/tricks/y.yaml", "")
    os.mkfifo("cd/tricks/x.yaml")
    assert "got one that is no file" in lair.refuses("-cd", "cd", "seed=1")
    with pytest.raises(FileNotFoundError):
        check_yaml(lair.folder / "gone.yaml")


def test_blank_lines_of_a_saved_config_are_read_in_no_time(lair):
    lair.write("run/config.yaml", "name: x\n" + "\n" * 150_000)
    began = time.monotonic()
    check_yaml(lair.folder / "run/config.yaml", saved=True)
    assert time.monotonic() - began < 2


WRONG = {"scheduler": ["builtins.dict", "math.sqrt"], "tricks": ["builtins.dict", "math.sqrt"]}


@pytest.mark.parametrize("group", [*WRONG, "data", "model", "optimizer"])
def test_a_class_of_the_users_is_of_the_groups_kind(monkeypatch, group):
    for target in WRONG.get(group, ["math.pi"]):
        monkeypatch.setattr("runner.allowed.USERS", {target})
        told = "must be a subclass of" if group in WRONG else "must be callable"
        with pytest.raises(UserError, match=told):
            locate(target, group, group)
    good = {
        "scheduler": ["torch.optim.lr_scheduler.StepLR", "runner.schedulers.Cosine"],
        "tricks": ["tricks.Chain"],
    }
    for target in good.get(group, ["builtins.dict"]):
        monkeypatch.setattr("runner.allowed.USERS", {target})
        assert callable(locate(target, group, group))
