"""What a config may set of Hydra itself.

Hydra makes folders, sets up logging and the environment, and makes callbacks, launchers and
sweepers by their names, all before the first line of a run. So whatever is not Hydra's own file is
judged by what it adds to the node `hydra`, wherever its package puts it: a file may give numbers
to a launcher or a sweeper and little more, the command line may give more, and neither may choose
a class that the user did not allow.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import OmegaConf

from runner import allowed
from runner.errors import UserError

Path = tuple[str | int, ...]
"""What leads to a value below the node `hydra`: keys, and places in lists."""

PLUGINS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.biscuits.LocalLauncher",
    "hydra_plugins.biscuits.RayLauncher",
    "hydra_plugins.biscuits.SlurmLauncher",
    "hydra_plugins.biscuits.SubmititLocalLauncher",
    "hydra_plugins.biscuits.PlainSweeper",
    "hydra_plugins.biscuits.AblationSweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
)
"""The launchers and sweepers that a file may name; any that is installed may be chosen."""

WORDS = (
    *("partition", "qos", "account", "constraint", "exclude", "gres"),
    *("mem_per_gpu", "mem_per_cpu"),
)
"""Settings of a cluster that a file may give too, in a plain word: sbatch takes more than words."""

_ELSEWHERE = "Name the runs (name=NAME); to have them elsewhere, make `outputs` a link."
_TRUSTED = "If you trust it, name its class in BISCUITS_ALLOW in the environment."
_TYPED = "A number may stand in a file; type anything else on the command line."
ADVICE: dict[str | int, str] = {
    **dict.fromkeys(("run", "sweep", "output_subdir", "chdir"), _ELSEWHERE),
    **dict.fromkeys(("_target_", "callbacks"), _TRUSTED),
    **dict.fromkeys(("launcher", "sweeper"), _TYPED),
    **dict.fromkeys(("env_set", "env_copy"), "Set it in the environment of the command itself."),
    "mode": "Ask for a sweep on the command line, with -m.",
    "verbose": "Give true, false, or the names of loggers.",
    "searchpath": "Give folders, on the command line, or --config-dir.",
}
"""What to do about a key that is refused."""


def check_override(override: Override) -> None:
    """Refuse what may not be typed; a group's option is judged as the file that it is."""
    key = override.key_or_group
    if "hydra" not in str(override.input_line) or override.is_sweep_override():
        return  # Hydra lets no sweep be over its own node
    if override.is_delete() and re.match(r"hydra\b", key):
        raise refusal((key.removeprefix("hydra")[1:],), "none")
    alone = OmegaConf.create()
    OmegaConf.update(alone, key, override.value(), force_add=True)
    check_addition(OmegaConf.to_container(alone))


def refuse_hydras(overrides: Sequence[str]) -> None:
    """Refuse overrides of a run in a sweep that are of Hydra's node or groups."""
    lines = [line for line in overrides if "hydra" in line]
    for override in OverridesParser.create().parse_overrides(lines):
        if re.match(r"hydra([./@\[]|$)", override.key_or_group):
            raise UserError(
                f"{override.input_line} configures Hydra, which one run of a sweep cannot. "
                "Give it to the whole sweep."
            )


def check_mode(ablation: object, sweeper: object, multirun: bool, one_run: bool) -> None:
    """Refuse what contradicts itself about how many runs there are to be."""
    if ablation and sweeper != "ablation":
        raise UserError(f"ablation={ablation} needs its own sweeper. Drop hydra/sweeper={sweeper}.")
    if (ablation or multirun) and one_run:
        many = f"ablation={ablation}" if ablation else "-m"
        raise UserError(f"{many} makes many runs. Drop hydra.mode=RUN.")


def check_sweeps(overrides: Sequence[Override], options: Callable[[str], list[str]]) -> None:
    """Refuse what is to be swept over and gives no value, and so no run."""
    for override in overrides:
        key, value = override.key_or_group, cast(object, override.value())
        if isinstance(value, Glob) and not value.filter(found := options(key)):
            raise UserError(
                f"{override.input_line} matches nothing: glob(...) chooses among the options of a "
                f"group, and {key} has {', '.join(found) or 'none'}."
            )
        swept = override.is_discrete_sweep() and not isinstance(value, Glob)
        if swept and next(override.sweep_iterator(), None) is None:
            raise UserError(f"{override.input_line} has no values, so there is nothing to run.")


def check_addition(config: Any, file: str = "", typed_mode: bool = False) -> None:  # noqa: ANN401
    """Refuse what may not be set of Hydra.

    Args:
        config: What a file or an override adds to the config, unresolved.
        file: Where it stands; nothing if it was typed.
        typed_mode: Whether a sweep, or none, was asked for on the command line, so that what a
            file says of it has no effect.

    Raises:
        UserError: If there is anything in it that may not be.
    """
    for path, value in _leaves(config.get("hydra", {})):
        if not _may_be(path, value, not file, typed_mode):
            raise refusal(path, value, file)


def check_plugins(node: Any) -> None:  # noqa: ANN401
    """Refuse a composed node `hydra` that lacks the class of what Hydra is to make.

    Raises:
        UserError: If a launcher, a sweeper or a callback has none, or one that is not allowed.
    """
    for part in ("launcher", "sweeper"):
        if not isinstance(node.get(part), dict) or "_target_" not in node[part]:
            raise refusal((part, "_target_"), "nothing")
    for name, callback in (node.get("callbacks") or {}).items():
        if not isinstance(callback, dict) or callback.get("_target_") not in allowed.USERS:
            raise refusal(("callbacks", name), callback)


def _may_be(path: Path, value: object, typed: bool, typed_mode: bool) -> bool:
    """Whether a value may be there."""
    if not path:
        return value == {}
    part, *rest = path
    marked = [key for key in rest if str(key).startswith("_")]  # hydra.utils.instantiate obeys them
    if part == "mode":
        return not rest and (typed or typed_mode or value in (None, "RUN"))
    if part == "verbose":
        plain = isinstance(value, str) and "${" not in value
        return (not rest and isinstance(value, bool)) or (
            plain and all(isinstance(key, int) for key in rest)
        )
    if part == "searchpath":  # a package would be imported
        return typed and isinstance(value, str) and "://" not in value.removeprefix("file://")
    if part == "callbacks":
        if marked:
            return rest[1:] == ["_target_"] and value in allowed.USERS
        return value == {} if len(rest) < 2 else "${" not in str(value)
    if part not in ("launcher", "sweeper"):
        return False
    if marked:
        ours = value in PLUGINS and str(part) in str(value).lower()
        return rest == ["_target_"] and (ours or value in allowed.USERS)
    if not isinstance(value, str):
        return bool(rest) or value == {}
    if typed:  # an interpolation alone may stand for a node, with a class in it
        return bool(rest) and not re.fullmatch(r"\$\{(?!oc\.env:|hydra[.:]).*\}", value, re.DOTALL)
    if part == "sweeper" and rest[:-1] == ["params"]:  # overrides of the runs
        return "hydra" not in str(rest[-1])
    if rest == ["address"]:  # of a Ray cluster: another one would be given code to run
        return value == "auto"
    return rest[:1] != [] and rest[0] in WORDS and bool(re.fullmatch(r"[\w.,:+-]+", value))


def _leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:  # noqa: ANN401
    """Run through all that holds nothing more."""
    if not isinstance(node, dict | list) or not node:
        yield path, node
        return
    parts = enumerate(node) if isinstance(node, list) else ((str(k), v) for k, v in node.items())
    for key, value in parts:
        yield from _leaves(value, (*path, key))


def refusal(path: Path, value: object, file: str = "") -> UserError:
    """Give back the error about a key below `hydra`."""
    where = ".".join(["hydra", *(key for key in path if isinstance(key, str))])
    advice = next((ADVICE[key] for key in reversed(path) if key in ADVICE), "Take it out.")
    place = f"{file}: " if file else ""
    return UserError(f"{place}{where} must be left as it is, got {value}. {advice}")
