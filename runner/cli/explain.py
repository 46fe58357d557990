"""Hydra's and OmegaConf's complaints about a command line, each as one line with the remedy."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner.errors import UserError, did_you_mean
from runner.names import CONF
from runner.texts import printable

if TYPE_CHECKING:
    from runner.cli.hydra_internals import Loader

LONGEST = 2000  # characters of a line


def explain(error: Exception, loader: "Loader | None" = None) -> str | None:
    """Give back one line about a mistake in the configuration; None if the error is another.

    Args:
        error: What was raised.
        loader: What composed the config, and knows its keys and options.
    """
    line = _explain(error, loader)
    return line and printable(" ".join(line.split()), LONGEST)


def _explain(error: Exception, loader: "Loader | None") -> str | None:
    if "Config group override must be" in str(error):
        return "A group must be given one of its options, not null. Write GROUP=OPTION."
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used: {error.strerror}."
    if not isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
        return None
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    text = "\n".join(str(link) for link in (error, error.__cause__) if link and str(link))
    if loader:
        if match := re.search(r"Could not override '([^']+)'", text):
            return _unknown_key(match[1], loader)
        if match := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
            return _unknown_option(match[1], match[2], loader)
    for pattern, answer in PATTERNS.items():
        if match := re.search(pattern, text, re.DOTALL):
            return answer.format(*match.groups())
    return " ".join(text.split())


PATTERNS = {
    r"Ambiguous value for argument '([^'=]+)=(.+?)'\n": "{0} must have one value, got {1}. Sweep "
    "over them with -m; in an ablation make it a factor: 'ablation.factors={{{0}:[{1}]}}'.",
    r"Sweep parameters '(.+?)' requires --multirun": "{0} is several values. Sweep over them "
    "with -m.",
    r"does not support sweep type : INTERVAL_SWEEP": "interval(...) needs a sweeper that draws "
    "from it. Write the values as a,b,c or range(START,STOP,STEP).",
    r"Parent traversal .*\('(.+?)'\)": "{0} must lie in the folder where configs are looked for. "
    "Give its folder with --config-dir, or -cp for a saved config.",
    r"Missing mandatory value: (\S+)": "{0} must be given: {0}=VALUE.",
}
"""What Hydra says, and what is said of it here."""


def _unreadable(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return (
            f'{key} has no value. Write {key}=VALUE, without spaces around "=". '
            "(--help shows examples.)"
        )
    if "=" in value and not set(value) & set("[]{}()'\""):
        return f'The value {value} has a "=" in it. Quote it twice: \'{key}="{value}"\'.'
    return (
        "An override must be KEY=VALUE, in quotes where it has brackets or spaces: "
        f"'tricks=[a,b]'. Cannot read {override}."
    )


def _unknown_key(key: str, loader: "Loader") -> str:
    if key.partition(".")[0] == "ablation":
        return _unknown_ablation_key(key)
    known, choices = _known(loader)
    group, _, rest = key.partition(".")
    choice = choices.get(group)
    if not rest or not isinstance(choice, str):
        near = _did_you_mean(key, known)
        return f"{key} is not a setting.{near} See python -m runner --cfg job."
    within = [name for name in known if name.startswith(f"{group}.")]
    others = [o for o in loader.get_group_options(group) if _has(loader, f"{group}/{o}", rest)]
    but = f" ({' or '.join(f'{group}={o}' for o in others[:3])} has)" if others else ""
    near = "" if others else _did_you_mean(key, within)
    has = ", ".join(name.removeprefix(f"{group}.") for name in within if "_target_" not in name)
    return f"{group}={choice} has no setting {rest}{but}.{near} It has: {has}."


def _known(loader: "Loader") -> tuple[list[str], Mapping[str, Any]]:
    """The dotted keys of what was asked for without its values, and the choices."""
    name, overrides = loader.asked
    listed = loader.compute_defaults_list(name, overrides, RunMode.MULTIRUN)
    values = [override.input_line for override in listed.overrides.config_overrides]
    rest = [override for override in overrides if override not in values]
    config = loader.load_configuration(name, rest, RunMode.MULTIRUN)
    keys = [str(key) for key in config if key != "hydra"]
    for key in keys:  # grows as it goes
        node = OmegaConf.select(config, key, throw_on_resolution_failure=False)
        if isinstance(node, DictConfig):
            keys += [f"{key}.{part!s}" for part in node]
    return [*keys, "experiment"], listed.overrides.known_choices


def _has(loader: "Loader", file: str, key: str) -> bool:
    loaded = loader.repository.load_config(file)
    return loaded is not None and OmegaConf.select(loaded.config, key) is not None


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    """Propose a key that ends as the given one does, or is spelled much like it."""
    names = {name.lower(): name for name in known if name != key}
    ends = [name for low, name in names.items() if low.endswith(f".{key.lower()}")]
    if 1 <= len(ends) <= 3:
        return f" Did you mean {' or '.join(ends)}?"
    near = did_you_mean(key.lower(), names)
    return near and f" Did you mean {names[near.removeprefix(' Did you mean ')[:-1]]}?"


def _unknown_ablation_key(key: str) -> str:
    node = OmegaConf.load(CONF / "ablation_settings.yaml").ablation
    known = [f"ablation.{name}" for name in node]
    if key in known:
        designs = ", ".join(sorted(file.stem for file in CONF.glob("ablation/*.yaml")))
        return f"{key} needs a design, got none. Write ablation=DESIGN, one of {designs}."
    return f"{key} is not a setting.{_did_you_mean(key, known)} See conf/ablation_settings.yaml."


def _unknown_option(group: str, option: str, loader: "Loader") -> str:
    options = loader.get_group_options(group)
    plugin = option.partition("_")[0]
    if plugin in ("joblib", "submitit") and not any(o.startswith(plugin) for o in options):
        package = f"hydra-{plugin}-launcher"
        return f"{group}={option} needs {package}, which is not installed: pip install {package}"
    listed = f" There are: {', '.join(options)}." if options else ""
    return f"{group}={option} is not an option.{_did_you_mean(option, options)}{listed}"
