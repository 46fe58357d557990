"""Configs from somebody who means ill: each is refused in one line, and nothing was executed.

A payload, such as `open(MARK, "w")`, is carried along a route, such as a callback in an experiment
file. Whether a payload bites is shown with plain Hydra, whether a route carries with a good one.
"""

import contextlib

import hydra.utils
import pytest
from hydra._internal.config_repository import ConfigRepository

from runner import allowed
from runner.allowed import locate
from runner.cli import application, guard, hydra_internals
from runner.cli.plugins import IS_1_3
from runner.errors import UserError
from tests.conftest import ROOT, biscuits, few, few_of
from tests.faults.payloads import targets
from tests.faults.routes import LIVE, ROUTES, live

STEP = 30  # each route carries every so manieth payload, each from another one on
QUICK = [route for route in ROUTES if route not in LIVE]  # by default with one payload each


def carry(sandbox, route, nodes):
    for node in nodes:
        sandbox.refuses(*ROUTES[route](sandbox, node))
    return len(nodes)


def payloads(sandbox, route):
    return targets(sandbox)[list(ROUTES).index(route) % STEP :: STEP]


@pytest.mark.parametrize("route", QUICK)
def test_a_hostile_config_is_one_line_and_executes_nothing(sandbox, route, faults):
    nodes = payloads(sandbox, route)
    which = QUICK.index(route) % len(nodes)
    faults("hostile configs", carry(sandbox, route, nodes[which : which + 1]))


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_several_payloads_along_each_route(sandbox, route, faults):
    faults("hostile configs", carry(sandbox, route, payloads(sandbox, route)))


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_more_payloads_along_each_route(sandbox, route, faults):
    faults("hostile configs", carry(sandbox, route, targets(sandbox)[::4]))


@pytest.mark.parametrize("group", ["data", "model", "optimizer", "scheduler", "tricks"])
def test_no_payload_is_on_the_list_of_what_may_be_imported(sandbox, group):
    for node in targets(sandbox):
        with pytest.raises(UserError, match=r"_target_ (must be of|names) "):
            locate(node["_target_"], group, group)
    assert not sandbox.mark.exists()


def test_there_are_enough_of_them(sandbox):
    named = {node["_target_"] for node in targets(sandbox)}
    carried = sum(len(payloads(sandbox, route)) for route in ROUTES)
    assert len(named) >= 60
    assert len(ROUTES) >= 10
    assert carried >= 150  # beside them those that are typed, or no YAML


BITING = [
    *("builtins.open", "pathlib.Path.touch", "torch.load", "torch.hub.load", "joblib.load"),
    *("pandas.read_pickle", "shutil.copy", "evil.touch", "logging.FileHandler", "numpy.savetxt"),
]


UNCHECKED = {} if IS_1_3 else {"_execution_whitelist_": hydra.utils.UNSAFE_DISABLE_EXECUTION_CHECKS}


@pytest.mark.parametrize("target", BITING)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_payloads_bite_where_hydra_instantiates_them(sandbox, target):
    (node,) = (node for node in targets(sandbox) if node["_target_"] == target)
    with contextlib.suppress(Exception):
        hydra.utils.instantiate(node, **UNCHECKED)
    assert sandbox.mark.exists()


WITHIN_PLUGINS = (
    *("typed parameter of a launcher", "parameter of a launcher", "parameter of a sweeper"),
    "shadowed launcher",
)


BITES = ("callback", "parameter of a launcher", "searchpath", "saved callback", "package header")


@pytest.mark.parametrize("route", few(LIVE, BITES))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_routes_carry_where_nobody_is_on_guard(sandbox, route):
    if route in WITHIN_PLUGINS and not IS_1_3:
        pytest.skip("Hydra 1.4 makes nothing that is named within the settings of a plugin")
    for check in ("check_addition", "check_plugins"):
        sandbox.monkeypatch.setattr(guard, check, lambda *_: None)
    sandbox.monkeypatch.setattr(hydra_internals, "Repository", ConfigRepository)
    sandbox.monkeypatch.setattr(application, "_allow_classes", contextlib.nullcontext)
    with contextlib.suppress(Exception):
        sandbox.run(*live(sandbox, route))
    assert sandbox.mark.exists()


@pytest.mark.parametrize("route", LIVE)
def test_the_same_carry_nothing_where_somebody_is(sandbox, route, faults):
    sandbox.refuses(*live(sandbox, route))
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


WORKS = ("model", "typed", "trick", "launcher", "parameter of a sweeper", "saved")


@pytest.mark.parametrize(("route", "node"), few_of(GOOD, WORKS), ids=GOOD)
def test_the_routes_carry_what_is_good(sandbox, route, node):
    if route == "sweeper":
        node = {**node, "max_batch_size": 1}
    arguments = ROUTES[route](sandbox, node)
    if "launcher" in route and route != "launcher":
        arguments = *arguments[:-2], "--cfg", "job"  # no workers for this
    assert sandbox.run(*arguments) is None


def test_a_users_own_folder_may_hold_anchors_defaults_and_a_cluster(sandbox):
    sandbox.write(
        "cd/experiment/mine.yaml",
        "# @package _global_\n"
        "defaults: [{override /model: resnet20}, {override /hydra/launcher: mine}]\n"
        "epochs: &n 3\nevaluate_every: *n\n"
        "hydra: {sweeper: {params: {seed: '0,1'}}}\n",
    )
    sandbox.write(
        "cd/hydra/launcher/mine.yaml",
        {"defaults": ["submitit_slurm"], "partition": "gpu", "mem_gb": 16, "timeout_min": 600},
    )
    assert sandbox.run("-cd", "cd", "experiment=mine", "--cfg", "all") is None
    arguments = "-cd", "cd", "experiment=mine", "hydra.launcher.setup=[a b]", "--cfg", "all"
    assert sandbox.run(*arguments) is None
    for setting in (
        {"setup": ["touch x"]},
        {"partition": "gpu\ntouch x"},
        {"submitit_folder": "/x"},
        {"address": "a.stranger:6379"},
    ):
        sandbox.write("cd/hydra/launcher/mine.yaml", {"defaults": ["submitit_slurm"], **setting})
        line = sandbox.refuses("-cd", "cd", "experiment=mine")
        assert f"hydra.launcher.{next(iter(setting))}" in line


ALONE = ("typed", "trick that is off", "typed callback", "logging", "searchpath", "package header")


@pytest.mark.slow
@pytest.mark.parametrize(
    "route", [*ALONE, "environment", "factor", "typed parameter of a launcher"]
)
def test_a_process_of_its_own_executes_nothing(sandbox, route, faults):
    arguments = ROUTES[route](sandbox, {"_target_": "evil.touch"})
    code, out, line = biscuits(
        sandbox.folder,
        *arguments,
        PYTHONPATH=f"{ROOT}:{sandbox.folder}",
        EVIL_MARK=str(sandbox.mark),
    )
    assert code == 1
    assert out == ""
    assert len(line.strip().splitlines()) == 1
    assert "Traceback" not in line
    assert not sandbox.mark.exists()
    faults("hostile configs")


def test_no_config_can_widen_what_is_allowed_for_a_later_run(sandbox):
    sandbox.monkeypatch.setenv("BISCUITS_ALLOW", "evil.touch")  # as if one had got through
    assert "If you trust it" in sandbox.refuses("optimizer._target_=evil.touch")


WRONG = {"scheduler": ["builtins.dict", "math.sqrt"], "tricks": ["builtins.dict", "math.sqrt"]}


@pytest.mark.parametrize("group", [*WRONG, "data", "model", "optimizer"])
def test_a_class_of_the_users_is_of_the_groups_kind(monkeypatch, group):
    for target in WRONG.get(group, ["math.pi"]):
        monkeypatch.setattr(allowed, "USERS", {target})
        told = "must be a subclass of" if group in WRONG else "must be callable"
        with pytest.raises(UserError, match=told):
            locate(target, group, group)
    good = {
        "scheduler": ["torch.optim.lr_scheduler.StepLR", "runner.schedulers.Cosine"],
        "tricks": ["tricks.Chain"],
    }
    for target in good.get(group, ["builtins.dict"]):
        monkeypatch.setattr(allowed, "USERS", {target})
        assert callable(locate(target, group, group))
