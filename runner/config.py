"""The strict check: a composed config into `Settings`, or one line about what is wrong with it.

Hydra composes plain YAML and knows no types; here every key must be known, every value of its
type and in its range, also those that were added with a plus.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Annotated, Any, Literal, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue
from pydantic import ConfigDict, Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from runner.allowed import locate
from runner.data import Augmentation
from runner.errors import UserError, did_you_mean
from runner.names import check_name
from runner.schedulers import Scheduler, refuse_impure
from runner.store.files import FORMAT
from tricks import Trick, in_order

Natural = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Node = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A whole run, checked: the keys of conf/config.yaml, which documents them."""

    name: str
    variant: str
    seed: Natural
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Positive
    micro_batch_size: Positive | None
    precision: Literal["float32", "bfloat16", "float16"]
    allow_emulated: bool
    channels_last: bool
    compile: bool
    device: str
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]  # OpenMP aborts at too many
    not_finite: Literal["error", "skip"]
    evaluate_every: Positive
    data: Node
    model: Node
    optimizer: Node
    scheduler: Node
    tricks: dict[str, Node]
    again: bool = False
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 300.0
    resume: Literal["exact", "anywhere"] = "exact"

    def to_dict(self) -> Node:
        """Give back the plain config, as config.yaml holds it: fed back, it does nothing over."""
        whole = {**dataclasses.asdict(self), "again": False}
        return {key: value for key, value in whole.items() if key not in NOT_IN_CONFIG_HASH}


NOT_IN_CONFIG_HASH = ("checkpoint_seconds", "resume")
"""Settings that change no bit of a run, and so are no part of what it is."""

OWN_KEYS: dict[str, dict[str, tuple[Any, Any]]] = {
    "data": {
        "validation": (Annotated[float, Field(ge=0, lt=1)], 0.1),
        "augment": (Augmentation, {}),
    },
    "model": {"weights": (str | None, None)},
    "optimizer": {"decay_norms_and_biases": (bool, True)},
    "scheduler": {"unit": (Literal["epoch", "update"], "epoch")},
    "tricks": {"enabled": (bool, False)},
}
"""What the runner itself reads of a node, its type and its default; the rest is the target's."""

GIVEN = {"self", "params", "optimizer", "channels", "classes"}
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
    plain = _plain(cfg)
    _refuse_newer(plain.pop("format", FORMAT))
    known = [field.name for field in dataclasses.fields(Settings)]
    if "ablation" in plain:
        raise UserError(
            "An ablation must be done by its own sweeper, got another, or one run alone. Drop "
            "hydra/sweeper=... or hydra.mode=... from the command."
        )
    for key in plain:
        if key not in known:
            raise UserError(f"{key} is not a setting.{did_you_mean(key, known)} Drop it.")
    for field in dataclasses.fields(Settings):
        if field.name not in plain and field.default is dataclasses.MISSING:
            raise UserError(
                f"{field.name} is missing from the config. Start from conf/config.yaml."
            )
    hints = get_type_hints(Settings, include_extras=True)
    for key, value in plain.items():
        check_type(key, value, hints[key])
    for key in ("name", "variant"):
        check_name(key, plain[key])
    for group in ("data", "model", "optimizer", "scheduler"):
        _check_node(group, plain[group], group)
    plain["tricks"] = _check_tricks(plain["tricks"], overrides)
    return Settings(**{**plain, "threads": _threads(plain["threads"])})


def _refuse_newer(number: object) -> None:
    if not isinstance(number, int) or number > FORMAT:
        raise UserError(
            f"The config must be of format {FORMAT} or older, got {number}. "
            "Run it with the newer version that wrote it."
        )


def check_type(where: str, value: Any, hint: Any) -> None:  # noqa: ANN401
    """Refuse a value that is not of the type; a whole number passes for a float, not for a bool."""
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        fields = get_type_hints(hint, include_extras=True)
        for key, part in value.items():
            if key not in fields:
                near = did_you_mean(key, fields)
                raise UserError(f"{where}.{key} is not a setting.{near} Drop it.")
            check_type(f"{where}.{key}", part, fields[key])
        return
    try:
        adapter = TypeAdapter(hint, config=None if dataclasses.is_dataclass(hint) else _LENIENT)
    except PydanticSchemaGenerationError:
        return  # an annotation of a library's own; its constructor judges the value
    try:
        # JSON, since pydantic is strict there but takes a list for a tuple, as YAML has no other
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise UserError(_describe(where, value, error)) from None


_LENIENT = ConfigDict(arbitrary_types_allowed=True)

_WORDS = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid dictionary": "a mapping",
    "a valid array": "a list, as [a,b],",
    "an object": "a mapping",
    "greater than or equal to": ">=",
    "greater than": ">",
    "less than or equal to": "<=",
    "less than": "<",
    "'": "",
}
"""Pydantic's words, and ours."""


def _describe(where: str, value: Any, error: ValidationError) -> str:  # noqa: ANN401
    """Write what pydantic found wrong; each alternative of a union complains by itself."""
    rules = []
    for problem in error.errors(include_url=False):
        if "isinstance" in problem["msg"]:
            continue  # an alternative that no YAML can give, such as a tensor
        rule = problem["msg"].removeprefix("Input should be ")
        for theirs, our in _WORDS.items():
            rule = rule.replace(theirs, our)
        rules.append(rule)
    return f"{where} must be {' or '.join(dict.fromkeys(rules))}, got {json.dumps(value)}."


def _plain(cfg: DictConfig) -> Node:
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except (MissingMandatoryValue, InterpolationToMissingValueError) as error:
        key = str(getattr(error, "full_key", None) or error)
        raise UserError(f"{key} must be given: {key}=VALUE.") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _refuse_odd(where: str, node: object, *allowed: str) -> None:
    """Refuse keys that Hydra would follow, at any depth, and what no YAML of ours has."""
    if isinstance(node, float) and math.isnan(node):
        raise UserError(f"{where} must be a number, got one that is not (NaN). Give another.")
    if isinstance(node, list):
        for value in node:
            _refuse_odd(where, value)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in allowed:
                continue
            if not isinstance(key, str) or key.startswith("_"):
                raise UserError(f"{where} must have plain keys, got {json.dumps(key)}. Drop it.")
            _refuse_odd(f"{where}.{key}", value)


def _check_node(where: str, node: Node, group: str) -> None:
    _refuse_odd(where, node, "_target_")
    own = OWN_KEYS[group]
    target = locate(node.get("_target_"), where, group)
    if group == "scheduler" and issubclass(target, Scheduler):
        own = {}  # ours need no unit
    elif group == "scheduler":
        refuse_impure(target, node)
    taken = _parameters(target)
    open_ended = taken.pop("**", None) is not None
    known = [*taken, *own]
    for key, value in node.items():
        if key == "_target_":
            continue
        place = f"{where}.{key}"
        if key in own:
            check_type(place, value, own[key][0])
        elif key in taken:
            check_type(place, value, taken[key])
        elif not open_ended:
            near = did_you_mean(key, known)
            raise UserError(f"{place} is not a parameter of {node['_target_']}.{near} Drop it.")
    for key, (_, default) in own.items():
        node.setdefault(key, default)


def _parameters(target: Callable[..., Any]) -> dict[str, Any]:
    """The parameters of a target and their types; `**` if it takes any other as well."""
    annotated = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        hints = get_type_hints(annotated, include_extras=True)
    except (NameError, TypeError):  # an annotation that only a type checker sees
        hints = {}
    found: dict[str, Any] = {}
    try:
        parameters = signature(target).parameters
    except ValueError:  # a builtin that does not tell
        return {"**": Any}
    for name, parameter in parameters.items():
        if parameter.kind is Parameter.VAR_KEYWORD:
            found["**"] = Any
        elif name not in GIVEN and parameter.kind is not Parameter.VAR_POSITIONAL:
            found[name] = hints.get(name, Any)
    return found


def _check_tricks(nodes: Mapping[str, Node], overrides: Sequence[str]) -> dict[str, Node]:
    checked: dict[str, Node] = {}
    classes: dict[str, type[Trick]] = {}
    for name, node in nodes.items():
        where = f"tricks.{name}"
        if not isinstance(node, dict):
            raise UserError(f"{where} must be a mapping, got {json.dumps(node)}.")
        _check_node(where, node, "tricks")
        classes[name] = locate(node["_target_"], where, "tricks")
        if name != classes[name].name:
            raise UserError(
                f"{where} must have the name of its class, {classes[name].name}, got {name}. "
                f"Write tricks.{classes[name].name}."
            )
        if not node["enabled"]:
            _refuse_idle(name, nodes, overrides)
            node = _defaults(node, classes[name])
        elif classes[name].replaces_schedule:
            _refuse_scheduler(name, overrides)
        checked[name] = {
            key: node[key] for key in ("enabled", *(k for k in node if k != "enabled"))
        }
    ordered = in_order([classes[name] for name in checked])
    return dict(sorted(checked.items(), key=lambda item: ordered.index(classes[item[0]])))


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
                f"Drop it, or set tricks.{name}.enabled=false."
            )


def _defaults(node: Node, target: type) -> Node:
    """Give back the node of a trick that is off, as its class has it: equal runs, equal configs."""
    defaults = (
        {
            field.name: field.default
            for field in dataclasses.fields(target)
            if field.init and field.default is not dataclasses.MISSING
        }
        if dataclasses.is_dataclass(target)
        else {}
    )
    return {
        key: (list(defaults[key]) if isinstance(defaults[key], tuple) else defaults[key])
        if key in defaults
        else value
        for key, value in node.items()
    }


def _threads(given: int | Literal["auto"]) -> int:
    if given != "auto":
        return given
    if hasattr(os, "sched_getaffinity"):  # Linux: the cores that this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
