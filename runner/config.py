"""The strict check: a composed config into `Settings`, or one line about what is wrong with it.

Hydra composes plain YAML and knows no types; here every key must be known, every value of its
type and in its range, also those that were added with a plus.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from inspect import Parameter, signature
from typing import Annotated, Any, Literal, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue
from pydantic import Field

from runner.allowed import locate, refuse_foreign
from runner.data import Augmentation
from runner.errors import UserError, did_you_mean
from runner.metrics import check_metrics
from runner.names import CONF, check_name
from runner.schedulers import Scheduler, refuse_impure
from runner.settings import Natural as Natural
from runner.settings import Node as Node
from runner.settings import Positive as Positive
from runner.settings import Settings as Settings
from runner.settings import refuse_contradictions
from runner.store.files import FORMAT
from runner.store.identity import ADDED, RENAMED, renamed
from runner.transforms import check_transforms, targets
from runner.validation import make_fields, validate
from tricks import Trick, in_order
from tricks.chain import REPLACED

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


OWN_KEYS: dict[str, dict[str, tuple[Any, Any]]] = {
    "data": {
        "validation": (Annotated[float, Field(ge=0, lt=1)] | Literal["auto"], "auto"),
        "sampling": (Literal["shuffle", "balanced"], "shuffle"),
        "augment": (Augmentation, {}),
    },
    "model": {"weights": (str | None, None)},
    "optimizer": {"decay_norms_and_biases": (bool, True)},
    "scheduler": {"unit": (Literal["epoch", "update"], "epoch")},
    "loss": {
        "class_weights": (Literal["balanced"] | tuple[NonNegative, ...] | None, None),
    },
    "tricks": {"enabled": (bool, False)},
}
"""What the runner itself reads of a node, its type and its default; the rest is the target's."""

GIVEN = {"self", "params", "optimizer", "channels", "classes", "logits", "targets"}
"""Parameters of a target that the runner provides."""


def check(cfg: DictConfig, overrides: Sequence[str] = ()) -> Settings:
    """Check a composed config and complete it: tricks in order, the ones that are off reset.

    Args:
        cfg: The config of one run.
        overrides: What was given on the command line.

    Raises:
        UserError: If anything in it is unknown, of a wrong type, out of range, or would have no
            effect.
    """
    try:
        content: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except (MissingMandatoryValue, InterpolationToMissingValueError) as error:
        key = str(getattr(error, "full_key", None) or error)
        raise UserError(f"{key} must be given: {key}=VALUE.") from None
    plain: Node = {str(key): value for key, value in content.items()}
    number = plain.pop("format", FORMAT)
    if not isinstance(number, int) or number > FORMAT:
        raise UserError(
            f"The config must be of format {FORMAT} or older, got {number}. "
            "Run it with the newer version that wrote it."
        )
    if RENAMED in plain and "memory_format" in plain:
        raise UserError(
            f"{RENAMED} is memory_format now. Write memory_format: channels_last or contiguous."
        )
    plain = renamed(plain)
    if "ablation" in plain:
        raise UserError(
            "ablation=... needs hydra/sweeper=ablation. Remove hydra/sweeper=... or hydra.mode=... "
            "from the command."
        )
    settings = validate(Settings, plain)
    refuse_contradictions(settings)
    for key in ("name", "variant"):
        check_name(key, plain[key])
    groups = ("data", "model", "optimizer", "scheduler", "loss")
    plain["loss"] = settings.loss
    tricks = _used(plain["tricks"], overrides)
    named = {group: (plain[group].get("_target_"), group) for group in groups}
    named |= {f"metrics[{i}]": (name, "metric") for i, name in enumerate(settings.metrics)}
    named |= {f"tricks.{name}": (node["_target_"], "tricks") for name, node in tricks.items()}
    refuse_foreign(named | targets(plain["data"].get("augment")))
    nodes: Node = {group: check_node(group, plain[group], group) for group in groups}
    check_transforms(nodes["data"]["augment"])
    nodes["tricks"] = _check_tricks(tricks, overrides)
    _refuse_replaced(nodes)
    check_metrics(settings.metrics)
    epochs = int(settings.epochs) if settings.epochs.is_integer() else settings.epochs
    return dataclasses.replace(settings, **nodes, epochs=epochs)


def check_node(where: str, node: Node, group: str) -> Node:
    """Check the keys of a node by its target's signature, and add those that the runner reads.

    Raises:
        UserError: If the target is not allowed, or a key is unknown or has a wrong value.
    """
    target = locate(node.get("_target_"), where, group)
    if group == "scheduler" and not issubclass(target, Scheduler):
        refuse_impure(target, node)
    given = {key: value for key, value in node.items() if key != "_target_"}
    _refuse_special(where, given)
    validate(_fields(target, group), given, where, kind=f"a parameter of {node['_target_']}")
    return {**node, **{k: v for k, (_, v) in _own_keys(target, group).items() if k not in node}}


def _refuse_special(where: str, node: object) -> None:
    """Refuse NaN and the keys that Hydra would follow, at any depth."""
    if isinstance(node, float) and math.isnan(node):
        raise UserError(f"{where} must be a number, got NaN.")
    if isinstance(node, list):
        for value in node:
            _refuse_special(where, value)
    elif isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str) or key.startswith("_"):
                raise UserError(f"{where} must have plain keys, got {json.dumps(key)}. Remove it.")
            _refuse_special(f"{where}.{key}", value)


def _own_keys(target: Any, group: str) -> dict[str, tuple[Any, Any]]:  # noqa: ANN401
    ours = group == "scheduler" and issubclass(target, Scheduler)  # which need no unit
    return {} if ours else OWN_KEYS[group]


@lru_cache
def _fields(target: Callable[..., Any], group: str) -> type:
    """The keys that a node may have, with their types: the target's parameters, and our own."""
    annotated = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        hints = get_type_hints(annotated, include_extras=True)
    except (NameError, TypeError):  # an annotation that only a type checker sees
        hints = {}
    own = {key: hint for key, (hint, _) in _own_keys(target, group).items()}
    try:
        parameters = [p for name, p in signature(target).parameters.items() if name not in GIVEN]
    except ValueError:  # a builtin without a signature
        return make_fields(own, open_ended=True)
    starred = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    taken = {p.name: hints.get(p.name, Any) for p in parameters if p.kind not in starred}
    open_ended = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
    return make_fields({**taken, **own}, open_ended)


def _used(nodes: Mapping[str, Node], overrides: Sequence[str]) -> dict[str, Node]:
    """Leave out the tricks of --config-dir that are off: a run that does without stays as it is."""
    for name, node in nodes.items():
        if not isinstance(node, dict):
            raise UserError(
                f"tricks.{name} is a group of settings. Switch it on with "
                f"tricks.{name}.enabled=true or 'tricks=[{name}]'."
            )
        if "_target_" not in node:
            near = did_you_mean(name, [other for other in nodes if other != name])
            raise UserError(
                f"tricks.{name} is not a trick.{near} One of your own names its class: "
                f"tricks.{name}._target_=package.Class."
            )
    stored = ConfigStore.instance().repo.get("all_tricks.yaml")
    known = stored.node.tricks if stored else {}
    used, ours = {}, _our_tricks()
    for name, node in nodes.items():
        idle = name not in ours and name in known and node.get("enabled") is False
        if idle and known[name]._target_ == node["_target_"]:
            _refuse_idle(name, nodes, overrides)
        else:
            used[name] = node
    return used


@cache
def _our_tricks() -> frozenset[str]:
    return frozenset(file.stem for file in CONF.glob("tricks/*.yaml"))


def _check_tricks(nodes: Mapping[str, Node], overrides: Sequence[str]) -> dict[str, Node]:
    """Check the tricks, put them in order, and take those that are off back to their defaults."""
    checked, classes = dict[str, Node](), dict[str, type[Trick]]()
    for name, given in nodes.items():
        where = f"tricks.{name}"
        node = check_node(where, given, "tricks")
        classes[name] = locate(node["_target_"], where, "tricks")
        if name != classes[name].name:
            raise UserError(
                f"{where} must have the name of its class, {classes[name].name}, got {name}. "
                f"Write tricks.{classes[name].name}."
            )
        _refuse_forgetful(where, classes[name])
        if not node["enabled"]:
            _refuse_idle(name, nodes, overrides)
            node = _defaults(node, classes[name])
        elif "schedule" in classes[name].replaces:
            _refuse_scheduler(name, overrides)
        checked[name] = {"enabled": node["enabled"], **node}
    ordered = in_order([classes[name] for name in checked])
    return dict(sorted(checked.items(), key=lambda item: ordered.index(classes[item[0]])))


def _refuse_forgetful(where: str, trick: type[Trick]) -> None:
    """Refuse a trick whose state no checkpoint would have."""
    frozen = getattr(getattr(trick, "__dataclass_params__", None), "frozen", False)
    ours = trick.__module__.partition(".")[0] == "tricks"
    if not frozen and not ours and trick.state_dict is Trick.state_dict:
        raise UserError(
            f"{where}: {trick.__name__} is not frozen and has no state_dict, so a run that resumes "
            "would forget its state. Write @dataclass(frozen=True), or state_dict and "
            "load_state_dict; a state_dict that gives back {} says that there is none to keep."
        )


def _refuse_idle(name: str, nodes: Mapping[str, Node], overrides: Sequence[str]) -> None:
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key.startswith(f"tricks.{name}.") and key != f"tricks.{name}.enabled":
            names = [*(n for n, node in nodes.items() if node.get("enabled")), name]
            raise UserError(
                f"{key} is set to {value}, but {name} is off. "
                f"Switch it on with 'tricks=[{','.join(names)}]' or tricks.{name}.enabled=true."
            )


def _refuse_scheduler(name: str, overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key == "scheduler" or key.startswith("scheduler."):
            raise UserError(
                f"{override} would change nothing: {name} takes the scheduler's place. "
                f"Remove it, or set tricks.{name}.enabled=false."
            )


def _refuse_replaced(nodes: Mapping[str, Node]) -> None:
    """Refuse settings of what a trick puts its own in place of."""
    loss, flip = nodes["loss"], nodes["data"]["augment"].get("flip")
    idle = {
        "loss": {
            "loss.class_weights": loss["class_weights"] is not None,
            f"loss._target_={loss['_target_']}": loss["_target_"] != ADDED["loss._target_"],
        },
        "flips": {"data.augment.flip=true": flip},
    }
    for name, node in nodes["tricks"].items():
        kind = locate(node["_target_"], f"tricks.{name}", "tricks")
        for what in kind.replaces if node["enabled"] else ():
            if found := next((key for key, is_set in idle.get(what, {}).items() if is_set), None):
                raise UserError(
                    f"{found} would change nothing: {name} brings its own {REPLACED[what]}. "
                    f"Remove it, or set tricks.{name}.enabled=false."
                )


def _defaults(node: Node, target: type) -> Node:
    """Give back the node of a trick that is off, as its class has it: equal runs, equal configs."""
    defaults = {n: v for n, v in _plain_defaults(target) if n in node}
    return {**node, **{n: [*v] if isinstance(v, tuple) else v for n, v in defaults.items()}}


@lru_cache
def _plain_defaults(target: type) -> tuple[tuple[str, Any], ...]:
    found = ((name, each.default) for name, each in signature(target).parameters.items())
    return tuple((n, v) for n, v in found if isinstance(v, bool | int | float | str | tuple | None))
