"""What a mistyped key or option may have meant, from the options that were chosen."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from inspect import signature
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.allowed import locate
from runner.errors import UserError
from runner.names import CONF, flatten
from runner.quoting import as_text
from runner.store.identity import RENAMED

if TYPE_CHECKING:
    from runner.cli.hydra_internals import Loader

_QUOTES = "'\""

ALL = "See python -m runner --cfg job."


def unknown_key(key: str, loader: "Loader", removed: bool = False) -> str:
    """Say of a key that the config lacks which one may be meant, or which option has it.

    Args:
        key: The key, with dots.
        loader: Knows the config.
        removed: Whether it was to be taken out.
    """
    if key.partition(".")[0] == "ablation":
        return _unknown_ablation_key(key)
    if key == RENAMED:
        return f"{key} is memory_format now. Write memory_format=channels_last or contiguous."
    known, choices = _known(loader)
    plugin = re.match(r"hydra\.(launcher|sweeper)\.(.*)", key)
    group, rest = (f"hydra/{plugin[1]}", plugin[2]) if plugin else key.partition(".")[::2]
    choice = choices.get(group)
    if not rest or not isinstance(choice, str):
        near = _did_you_mean(key, known)
        if not near or near.startswith(" Did you mean tricks."):
            near = _elsewhere(key, loader) or near
        return f"{key} is not a setting.{near} {ALL}"
    node = group.replace("/", ".")
    within = [name.removeprefix(f"{node}.") for name in known if name.startswith(f"{node}.")]
    if rest.startswith("kwargs.") and "kwargs" in within:
        return f"{key} is not there yet. To add it, write +{key}=VALUE."
    if rest in within and removed:
        return f"{key} is null, and Hydra cannot remove what is null. Leave out ~{key}."
    if rest in within:  # what is missing is a key of what was given
        return f"{key} has no such key yet. To add one, write '+{key}={{KEY: VALUE}}'."
    if others := _who_has(group, rest, loader):
        near = f" ({' or '.join(f'{group}={o}' for o in others[:3])} has)."
    else:
        near = f".{_did_you_mean(rest, within, f'{node}.')}"
    has = ", ".join(name for name in within if "_target_" not in name) or "nothing to set"
    more = f" Its class takes it, too: +{key}=VALUE." if _takes(group, choice, rest, loader) else ""
    return f"{group}={choice} has no setting {rest}{near} It has: {has}.{more}"


def _known(loader: "Loader") -> tuple[list[str], Mapping[str, Any]]:
    """The dotted keys of what was asked for without its values, and the choices."""
    name, overrides = loader.asked
    try:
        listed = loader.compute_defaults_list(name, overrides, RunMode.MULTIRUN)
    except HydraException:  # it is a group that is not there
        overrides = []
        listed = loader.compute_defaults_list(name, overrides, RunMode.MULTIRUN)
    values = [override.input_line for override in listed.overrides.config_overrides]
    rest = [override for override in overrides if override not in values]
    config = loader.load_configuration(name, rest, RunMode.MULTIRUN)
    keys = [str(key) for key in config if key != "hydra"] + ["hydra.launcher", "hydra.sweeper"]
    for key in keys:  # grows meanwhile
        node = OmegaConf.select(config, key, throw_on_resolution_failure=False)
        if isinstance(node, DictConfig):
            keys += [f"{key}.{part!s}" for part in node]
    return [*keys, "experiment"], listed.overrides.known_choices


def _who_has(group: str, key: str, loader: "Loader") -> list[str]:
    """The options of a group that have a key; first those that do nothing without it."""
    found = {}
    for option in loader.get_group_options(group):
        loaded = loader.repository.load_config(f"{group}/{option}")
        node = OmegaConf.to_container(loaded.config, resolve=False) if loaded else None
        if isinstance(node, dict) and key in (flat := dict(flatten(node))):
            found[option] = flat[key] == "???"
    return sorted(found, key=lambda option: not found[option])


def _elsewhere(key: str, loader: "Loader") -> str:
    """Suggest the options that have a key, which those chosen lack."""
    for group in ("optimizer", "scheduler", "loss", "model", "data"):
        if options := [f"{group}={option}" for option in _who_has(group, key, loader)[:3]]:
            return f" Did you mean {group}.{key}, of {' or '.join(options)}?"
    return ""


def _takes(group: str, option: str, key: str, loader: "Loader") -> bool:
    """Whether what an option makes has a parameter that its file does not show."""
    loaded = loader.repository.load_config(f"{group}/{option}")
    target = loaded and OmegaConf.select(loaded.config, "_target_")
    if group.startswith("hydra") or not target:
        return False
    with suppress(UserError, ValueError):  # not allowed; no signature
        parameters = signature(locate(target, group, group)).parameters
        return key in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return False


def _did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """Propose what ends in the word, is short for it or the reverse, or is spelled much like it."""
    names = {name.lower(): name for name in known if name != word}
    low = word.lower().replace("-", "_")
    ends = [name for key, name in names.items() if key == low or key.endswith(f".{low}")]
    if not ends:
        last = low.rpartition(".")[2]
        ends = [
            name
            for key, name in names.items()
            if last in (tail := key.rpartition(".")[2], _initials(tail)) or tail == _initials(last)
        ]
    if not ends and len(low) > 3:
        ends = [name for key, name in names.items() if low in re.split(r"[_.]", key)]
    if not 1 <= len(ends) <= 3:
        ends = [names[key] for key in get_close_matches(low, names, n=1)]
    return f" Did you mean {' or '.join(before + name for name in ends)}?" if ends else ""


def _initials(word: str) -> str:
    return "".join(part[:1] for part in word.split("_")) if "_" in word else ""


def _unknown_ablation_key(key: str) -> str:
    node = OmegaConf.load(CONF / "ablation_settings.yaml").ablation
    known = [f"ablation.{name}" for name in node]
    if key in known:
        designs = ", ".join(sorted(file.stem for file in CONF.glob("ablation/*.yaml")))
        return f"{key} needs a design, got none. Write ablation=DESIGN, one of {designs}."
    shown = "python -m runner ablation=one_at_a_time --cfg job -p ablation"
    return f"{key} is not a setting.{_did_you_mean(key, known)} See {shown}."


def unknown_option(path: str, loader: "Loader") -> str:
    """Say of an option that a group lacks which one may be meant, or what it needs."""
    given = (o.lstrip("+").partition("=")[::2] for o in loader.asked[1])
    typed = [(g, bare) for g, o in given if f"{g}/{(bare := o.strip(_QUOTES))}" == path]
    group, option = typed[0] if typed else path.rpartition("/")[::2]
    options = loader.get_group_options(group)
    if needed := _package(group, option, options):
        return needed
    listed = f" There are: {', '.join(options)}." if options else ""
    near = elsewhere(group, option)
    near = f" Did you mean {near}?" if near else _did_you_mean(option, options)
    return f"{group}={option} is not an option.{near}{listed}"


def _package(group: str, option: str, options: Iterable[str]) -> str:
    kind = group.removeprefix("hydra/")
    plugin = option.partition("_")[0]
    known = {"launcher": ("joblib", "submitit", "ray", "rq"), "sweeper": ("optuna", "ax")}
    if plugin not in known.get(kind, ()) or any(o.startswith(plugin) for o in options):
        return ""
    package = f"hydra-{plugin}-{kind}"
    return f"{group}={option} needs {package}, which is not installed: pip install {package}"


def elsewhere(group: str, option: str) -> str:
    """Propose the option that takes what was given: a path, or the name of a library's model."""
    if group == "data" and re.search(r"[./~\\]", option):
        tables = {".npz": "npz", ".csv": "image_table", ".tsv": "image_table"}
        taker = tables.get(option[-4:].lower(), "image_folder")
        key = "root" if taker == "image_folder" else "file"
        return f"data={taker} {as_text(f'data.{key}', option)}"
    for library in ("torchvision", "timm") if group == "model" else ():
        if (name := option.lower()) in _models(library):
            return f"model={library} model.name={name}"
    if group == "tricks" and option in ("all", "page"):
        return "tricks=core"
    return ""


def _models(library: str) -> list[str]:
    """The names of a library's models; it takes seconds to import, which only a mistake costs."""
    if find_spec(library) is None:
        return []
    if library == "timm":
        import timm

        return list(timm.list_models())
    from torchvision import models

    return list(models.list_models(module=models))
