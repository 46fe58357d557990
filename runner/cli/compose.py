"""The names of folders, as Hydra's resolvers: of the sweep, of the variant, of the run."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.allowed import USERS  # noqa: F401  what the environment allows, before a config is read
from runner.errors import UserError
from runner.names import CONF, OUTPUTS, flatten, inside, shorten, write_value

GROUPS = ("data", "model", "optimizer", "scheduler")


def sweep_folder(*, _root_: DictConfig) -> str:
    """Give back the folder of all the runs of a name; refuse one that is not in the outputs."""
    return inside(OUTPUTS, OmegaConf.select(_root_, "name"))


def run_folder(*, _root_: DictConfig) -> str:
    """Give back the folder of a run below that; refuse one that would lead out of it."""
    name, variant, seed = (OmegaConf.select(_root_, key) for key in ("name", "variant", "seed"))
    if type(seed) is not int or seed < 0:
        raise UserError(f"seed must be a whole number >= 0, got {seed}. Give another.")
    inside(OUTPUTS, name, variant, f"seed={seed}")
    return f"{variant}/seed={seed}"


def default_name(*, _root_: DictConfig) -> str:
    """Give back the folder's name where the user gives none: data, model, and the ablation's."""
    hydra = _hydra(_root_)
    parts = [_chosen(hydra, "data"), _chosen(hydra, "model")]
    design = OmegaConf.select(_root_, "ablation.design")
    return "-".join([*parts, design] if design else parts)


def variant(*, _root_: DictConfig) -> str:
    """Give back what sets this run apart from the default one, as the name of a folder.

    The tricks that are on, each with the parameters that differ from those in its file; then
    every other setting that differs from the defaults or from the chosen experiment's:
    `baseline`, `clipping-max_norm=0.1`, `clipping+flooding+optimizer.lr=0.05`. A name grown too
    long ends in a hash. The data and the model are told by the default `name`; where a user
    gives another, they join the variant.
    """
    hydra = _hydra(_root_)
    given = str(OmegaConf.select(_root_, "name"))
    choices = {group: _chosen(hydra, group) for group in GROUPS}
    experiment = hydra.runtime.choices.get("experiment")
    sources = tuple((s.provider, f"{s.schema}://{s.path}") for s in hydra.runtime.config_sources)
    usual, _ = _reference(sources, hydra.job.config_name, experiment, ())
    named = GROUPS[:2] if given == default_name(_root_=_root_) else ()
    other = {group: choice for group, choice in choices.items() if choice != usual[group]}
    _, reference = _reference(sources, hydra.job.config_name, experiment, tuple(other.items()))
    config = OmegaConf.masked_copy(_root_, [str(k) for k in _root_ if k not in NOT_IN_VARIANT])
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    words = [
        *_trick_words(_root_.tricks),
        *(f"{g}={c}" for g, c in other.items() if g not in named),
    ]
    given_values = dict(flatten(plain))
    for key, value in given_values.items():
        if reference.get(key) != value and reference.get(key) != "???":
            words.append(f"{key}={_write(value, reference.get(key))}")
    words += [f"~{key}" for key in reference if key not in given_values]
    return shorten("+".join(words) or "baseline")


def _hydra(config: DictConfig) -> Any:  # noqa: ANN401
    """Hydra's own node: in the config while a sweep is prepared, set aside once a job runs."""
    return config.hydra if "hydra" in config else HydraConfig.get()


def _chosen(hydra: Any, group: str) -> str:  # noqa: ANN401
    """Give back the option that was chosen of a group."""
    choice = hydra.runtime.choices.get(group)
    if choice is None:
        raise UserError(f"{group} must be chosen, got none of it. Write {group}=OPTION.")
    return str(choice)


NOT_IN_VARIANT = (
    *("name", "variant", "again", "seed", "tricks", "hydra", "ablation"),
    *("format", "checkpoint_seconds", "resume"),  # no part of what a run is
)


def _trick_words(tricks: DictConfig) -> Iterator[str]:
    """Name the tricks that are on; those of a preset together, and then what differs in them."""
    stored = OmegaConf.to_container(ConfigStore.instance().load("all_tricks.yaml").node.tricks)
    assert isinstance(stored, dict)
    on = [str(n) for n, t in tricks.items() if isinstance(t, DictConfig) and t.get("enabled")]
    preset = _presets().get(frozenset(on))
    if preset or not on:
        yield preset or "baseline"
    for name in on:
        defaults = dict(flatten(stored.get(name, {})))
        given = flatten(OmegaConf.to_container(tricks[name], resolve=True))
        changed = [(k, v) for k, v in given if k != "enabled" and defaults.get(k) != v]
        if changed or not preset:
            yield "-".join([name, *(f"{k}={_write(v, defaults.get(k))}" for k, v in changed)])


@lru_cache
def _presets() -> dict[frozenset[str], str]:
    """The names of our presets, by the tricks that each switches on."""
    nodes = {file.stem: OmegaConf.load(file) for file in CONF.glob("tricks/*.yaml")}
    return {frozenset(n.defaults): name for name, n in nodes.items() if "defaults" in n}


@lru_cache
def _reference(
    sources: tuple[tuple[str, str], ...],
    config_name: str,
    experiment: str | None,
    choices: tuple[tuple[str, str], ...],
) -> tuple[dict[str, str], dict[str, Any]]:
    """Compose the config without the user's own values: its group choices, and its flat values."""
    path = ConfigSearchPathImpl()
    for provider, source in sources:
        path.append(provider, source)
    overrides = [f"{group}={choice}" for group, choice in choices]
    if experiment:
        overrides.append(f"experiment={experiment}")
    config = ConfigLoaderImpl(path).load_configuration(config_name, overrides, RunMode.RUN)
    chosen = {group: str(config.hydra.runtime.choices[group]) for group in GROUPS}
    rest = OmegaConf.masked_copy(config, [str(key) for key in config if key not in NOT_IN_VARIANT])
    return chosen, dict(flatten(OmegaConf.to_container(rest, resolve=True)))


def _write(value: object, usual: object) -> str:
    if isinstance(usual, float) and type(value) is int:
        value = float(value)  # 1 and 1.0 are the same run
    return write_value(value)


for _resolver in (default_name, variant, sweep_folder, run_folder):
    OmegaConf.register_new_resolver(_resolver.__name__, _resolver, replace=True)
