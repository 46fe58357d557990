"""The routes along which a config reaches the command, each a function of a sandbox and a payload.

The payload is a node, such as `{_target_: builtins.open}`; a route gives back the command line.
"""

import json

import yaml

from runner.sweep.settings import literal
from tests.faults.payloads import targets

SWEEP = ("seed=0,1", "-m")


def handler(node):
    arguments = {k: v for k, v in node.items() if k != "_target_" and k != "_args_"}
    return {"()": node["_target_"], **arguments}


ROUTES = {
    "data": lambda box, node: box.experiment({"data": node}),
    "model": lambda box, node: box.option("model", node),
    "optimizer": lambda box, node: box.experiment({"optimizer": node}),
    "scheduler": lambda box, node: box.option("scheduler", node),
    "typed": lambda _, node: (f"++optimizer={literal(node)}",),
    "typed target": lambda _, node: (f"model._target_={node['_target_']}",),
    "trick": lambda box, node: box.option("tricks", {"clipping": {"enabled": True, **node}}),
    "trick that is off": lambda box, node: (
        *box.option("tricks", {"clipping": {"enabled": True, **node}}),
        "tricks.clipping.enabled=false",
    ),
    "parameter of a trick": lambda box, node: box.experiment(
        {"tricks": {"clipping": {"enabled": True, "max_norm": node}}}
    ),
    "nested": lambda box, node: box.experiment({"model": {"width": node}}),
    "nested in a list": lambda box, node: box.experiment({"data": {"augment": {"crop": [node]}}}),
    "weights": lambda box, node: box.experiment({"model": {"weights": node}}),
    "partial": lambda box, node: box.experiment({"optimizer": {**node, "_partial_": True}}),
    "arguments": lambda box, node: box.experiment({"optimizer": {"_args_": [node]}}),
    "alias": lambda box, node: box.option(
        "model", f"width: &x {json.dumps(node)}\n_target_: runner.models.cifar_resnet\ndepth: *x\n"
    ),
    "interpolation": lambda box, node: box.experiment(
        {"data": {"root": node}, "optimizer": {"_target_": "${data.root._target_}"}}
    ),
    "top": lambda box, node: box.experiment({"x": node, "epochs": "${x}"}),
    "launcher": lambda box, node: box.option("hydra/launcher", node, *SWEEP),
    "parameter of a launcher": lambda box, node: box.option(
        "hydra/launcher", {"defaults": ["local"], "timeout": node}, *SWEEP
    ),
    "typed parameter of a launcher": lambda _, node: (
        "hydra/launcher=local",
        f"++hydra.launcher.timeout={literal(node)}",
        *SWEEP,
    ),
    "sweeper": lambda box, node: box.option("hydra/sweeper", node, *SWEEP),
    "parameter of a sweeper": lambda box, node: box.experiment(
        {"hydra": {"sweeper": {"params": {"epochs": node}}}}, *SWEEP
    ),
    "sweeper of an ablation": lambda box, node: box.experiment(
        {"hydra": {"sweeper": node}}, "+ablation=calibration"
    ),
    "callback": lambda box, node: box.experiment({"hydra": {"callbacks": {"x": node}}}),
    "typed callback": lambda _, node: (f"+hydra.callbacks.x={literal(node)}",),
    "callback of a sweep": lambda box, node: box.option("hydra/callbacks", {"x": node}, *SWEEP),
    "logging": lambda box, node: box.experiment(
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
    "searchpath of a -cn file": lambda box, node: (
        box.write(
            "cd/x.yaml", {"hydra": {"searchpath": [f"pkg://{node['_target_'].rpartition('.')[0]}"]}}
        )
        and ("-cd", "cd", "-cn", "x")
    ),
    "saved": lambda box, node: box.saved(optimizer=node),
    "saved trick that is off": lambda box, node: box.saved(
        tricks={"x": {"enabled": False, **node}}
    ),
    "saved callback": lambda box, node: box.saved(hydra={"callbacks": {"x": node}}),
    "saved defaults": lambda box, node: (
        box.write("run/evil.yaml", node) and box.saved(defaults=["evil@optimizer", "_self_"])
    ),
    "package header": lambda box, node: (
        box.write("run/x.yaml", "# @package hydra.callbacks.x\n" + yaml.safe_dump(node))
        and ("-cp", "run", "-cn", "x", "+name=x", "+variant=x", "+seed=0")
    ),
    "shadowed launcher": lambda box, node: (
        box.saved()[0],
        box.write("run/hydra/launcher/local.yaml", node).removesuffix("/hydra/launcher"),
        "hydra/launcher=local",
        *SWEEP,
    ),
    "shadowed Hydra": lambda box, node: (
        *("-cd", box.write("cd/hydra/config.yaml", {"callbacks": {"x": node}}) + "/.."),
    ),
    "factor": lambda box, node: box.experiment(
        {"ablation": {"factors": {"optimizer._target_": ["torch.optim.SGD", node["_target_"]]}}},
        "ablation=one_at_a_time",
    ),
    "level": lambda box, node: box.experiment(
        {"ablation": {"factors": {"x": {"a": {"model.width": 8}, "b": {"model": node}}}}},
        "ablation=one_at_a_time",
    ),
    "factor of Hydra": lambda box, node: box.experiment(
        {"ablation": {"factors": {"+hydra.callbacks.x": [node, node]}}}, "ablation=one_at_a_time"
    ),
    "parameters of a sweep": lambda box, node: box.experiment(
        {"hydra": {"sweeper": {"params": {"+hydra.callbacks.x": literal(node)}}}}, *SWEEP
    ),
    "tag": lambda box, node: box.option(
        "model", f"_target_: !!python/object/apply:{node['_target_']} [{box.mark}]\n"
    ),
    "tag in a saved config": lambda box, node: (
        box.write("run/x.yaml", f"name: !!python/name:{node['_target_']} x\n")
        and ("-cp", "run", "-cn", "x")
    ),
}

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


def live(box, route):
    """Give back the command that carries a payload along the route to where it bites."""
    (node,) = (node for node in targets(box) if node["_target_"] == LIVE[route])
    return ROUTES[route](box, {"timeout": node} if route == "shadowed launcher" else node)
