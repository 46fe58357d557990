"""What the folders of a run are called, where the config says `auto`: `name` and `variant`."""

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.cli.plain_yaml import our_options
from runner.errors import UserError
from runner.names import OUTPUTS, flatten, inside, shorten, write_value

AUTO = "auto"

GROUPS = ("data", "model", "optimizer", "scheduler", "loss")

NOT_IN_VARIANT = (
    *("name", "variant", "again", "seed", "tricks", "hydra", "ablation"),
    *("format", "checkpoint_seconds", "resume", "keep"),  # no part of what a run is
)


Reference = tuple[Mapping[str, Any], DictConfig]
"""What a config would be without the user's own values: the usual choices, and the config."""


def write_names(
    config: DictConfig, run_mode: RunMode, reference: Callable[[DictConfig], Reference]
) -> None:
    """Write the names into a composed config, and refuse those that are none.

    Args:
        config: With Hydra's own node.
        run_mode: One run, or the whole sweep, whose runs get their variants later.
        reference: Finds the reference of a config.

    Raises:
        UserError: If a folder would not lie below `outputs`.
    """
    if config.get("name") == AUTO:
        config.name = default_name(config)
    name = config.get("name")
    if run_mode is RunMode.MULTIRUN:
        folder = inside(OUTPUTS, name)
        if config.hydra.mode is RunMode.MULTIRUN:
            _clear_way(Path(folder, "multirun.yaml"))
        return
    if config.get("variant") == AUTO:
        config.variant = variant(config, *reference(config))
    seed = config.get("seed")
    if type(seed) is not int or seed < 0:
        raise UserError(f"seed must be a whole number >= 0, got {seed}.")
    inside(OUTPUTS, name, config.get("variant"), f"seed={seed}")


def _clear_way(file: Path) -> None:
    """Remove what would lead Hydra's sweeper elsewhere when it writes its file."""
    with suppress(FileNotFoundError):
        about = os.lstat(file)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
            file.unlink()  # a folder cannot be: that is an error of one line


def default_name(config: DictConfig) -> str:
    """Give back the data and the model, and the design of an ablation."""
    parts = [chosen(config, "data"), chosen(config, "model")]
    design = OmegaConf.select(config, "ablation.design")
    return "-".join([*parts, design] if design else parts)


def variant(config: DictConfig, usual: Mapping[str, Any], reference: DictConfig) -> str:
    """Give back what sets a run apart from the default one; a 1 for 1.0 is no difference.

    The tricks that are on, each with the parameters that differ from those in its file; then
    every other setting that differs from the defaults or from the chosen experiment's:
    `baseline`, `clipping-max_norm=0.1`, `clipping+flooding+optimizer.lr=0.05`. A name grown too
    long ends in a hash. The data and the model are in the default `name`; where a user gives
    another, they join the variant.

    Args:
        config: As composed.
        usual: The choices of the groups, had nobody made another.
        reference: The config with the same choices, had nobody given another value.
    """
    named = GROUPS[:2] if config.name == default_name(config) else ()
    groups = {group: chosen(config, group) for group in GROUPS}
    defaults = _values(reference)
    values = _write_as_usual(config, _values(config), defaults)
    words = [
        *_trick_words(config.tricks),
        *(f"{g}={c}" for g, c in groups.items() if c != usual[g] and g not in named),
    ]
    experiment = config.hydra.runtime.choices.get("experiment")
    if experiment and config.name != reference.get("name"):  # else it is the folder's already
        words.append(f"experiment={write_value(experiment)}")
    return shorten("+".join([*words, *_changes(values, defaults)]))


def _changes(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    """Write what is not as it would be."""
    for key, value in values.items():
        if key not in defaults or json.dumps(value) != json.dumps(defaults[key]):  # as True != 1
            yield f"{key}={write_value(value)}"
    filled = {key.rpartition(".")[0] for key in values}  # a group where there was nothing
    yield from (f"~{key}" for key in defaults if key not in values and key not in filled)


def chosen(config: DictConfig, group: str) -> str:
    """Give back the option that was chosen of a group."""
    choice = config.hydra.runtime.choices.get(group)
    if choice is None:
        raise UserError(f"No {group} is chosen. Write {group}=OPTION.")
    return str(choice)


def _values(config: DictConfig) -> dict[str, Any]:
    rest = OmegaConf.masked_copy(config, [str(key) for key in config if key not in NOT_IN_VARIANT])
    return _flat(rest)


def _flat(node: DictConfig) -> dict[str, Any]:
    return dict(flatten(OmegaConf.to_container(node, resolve=True)))


def _write_as_usual(
    node: DictConfig, values: dict[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Write whole numbers as floats where these are usual: 1 and 1.0 are one config."""
    for key, value in values.items():
        if json.dumps(value) != json.dumps(new := _as_usual(value, defaults.get(key))):
            OmegaConf.update(node, key, new)
            values[key] = new
    return values


def _as_usual(value: Any, usual: Any) -> Any:  # noqa: ANN401
    if isinstance(value, list) and isinstance(usual, list) and usual:
        return [_as_usual(each, usual[0]) for each in value]
    return float(value) if isinstance(usual, float) and type(value) is int else value


def _trick_words(tricks: DictConfig) -> Iterator[str]:
    """Name the tricks that are on; those of a preset together, and then what differs in them."""
    stored = ConfigStore.instance().repo["all_tricks.yaml"].node.tricks
    on = [str(n) for n, t in tricks.items() if isinstance(t, DictConfig) and t.get("enabled")]
    preset = _presets().get(frozenset(on))
    if preset or not on:
        yield preset or "baseline"
    for name in on:
        defaults = {**(_flat(stored[name]) if name in stored else {}), "enabled": True}
        values = _write_as_usual(tricks[name], _flat(tricks[name]), defaults)
        changed = [*_changes(values, defaults)]
        if changed or not preset:
            yield "-".join([name, *changed])


@lru_cache
def _presets() -> dict[frozenset[str], str]:
    """The names of our presets, by the tricks that each switches on."""
    nodes = our_options("tricks").items()
    return {frozenset(node["defaults"]): name for name, node in nodes if "defaults" in node}
