"""What Hydra needs to compose a run: every trick in the config, the names of folders, the task.

Imported in every process that runs a job, and before anything is known to be run: so it is light.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.conf import HydraConf, RunDir, SweepDir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.allowed import USERS  # noqa: F401  what the environment allows, before a config is read
from runner.errors import UserError
from runner.names import OUTPUTS, inside, shorten, write_value
from runner.plain_yaml import check_yaml
from runner.plugins import register_plugins
from runner.signals import Stopped, stop, stoppable

HERE = Path(__file__).resolve().parent
CONF = next(
    folder for folder in (HERE / "conf", HERE.parent / "conf") if (folder / "config.yaml").is_file()
)
"""Where the configuration lies: inside an installed package, or beside it in a checkout."""

GROUPS = ("data", "model", "optimizer", "scheduler")


def task(cfg: DictConfig) -> Any:  # noqa: ANN401
    """Run one config; imports torch only here, so that help and completion need not wait."""
    from runner.mistakes import explain  # which needs this module
    from runner.run import run

    try:
        with stoppable():
            stop()  # if that was asked for while the run before failed
            return run(cfg)
    except Stopped:
        raise
    except SystemExit as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:  # else it would end the whole sweep
            raise RuntimeError(f"the run called sys.exit({error.code})") from error
        raise
    except UserError as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # a sweep goes on with its other runs
        sys.exit(explain(error))  # one line; Hydra would add one of its own


def register(config_dirs: Iterable[Path] = ()) -> None:
    """Store Hydra's settings and the node `all_tricks` of every trick, switched off.

    Args:
        config_dirs: Users' own folders, whose `tricks/*.yaml` join ours.
    """
    store = ConfigStore.instance()
    tricks: dict[str, Any] = {}
    for folder in (CONF, *config_dirs):
        for file in sorted(folder.glob("tricks/*.yaml")):
            tricks |= _switched_off(file)
    store.store(name="all_tricks", node={"tricks": tricks}, provider="runner")
    register_plugins()
    _store_hydra_settings(store)


def _store_hydra_settings(store: ConfigStore) -> None:
    """Replace Hydra's own settings, for a saved config.yaml as well as for ours."""
    settings = HydraConf(
        run=RunDir("${sweep_folder:}/${run_folder:}"),
        sweep=SweepDir("${sweep_folder:}", "${run_folder:}"),
        output_subdir=None,  # config.yaml is ours to write, resolved
    )
    settings.defaults = [
        {group: "none" if group == "job_logging" else option}
        for default in settings.defaults
        for group, option in default.items()
    ]
    store.store("config", settings, group="hydra", provider="runner")


def _switched_off(file: Path) -> dict[str, Any]:
    check_yaml(file)
    node = OmegaConf.to_container(OmegaConf.load(file))
    if not isinstance(node, dict):
        return {}
    return {
        str(name): {**trick, "enabled": False}
        for name, trick in node.items()
        if isinstance(trick, dict) and "_target_" in trick  # a preset has only what it changes
    }


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
    config = OmegaConf.masked_copy(_root_, [str(k) for k in _root_ if k not in UNNAMED])
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


UNNAMED = (
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
    rest = OmegaConf.masked_copy(config, [str(key) for key in config if key not in UNNAMED])
    return chosen, dict(flatten(OmegaConf.to_container(rest, resolve=True)))


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Run through the leaves of nested mappings, as dotted keys and values."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _write(value: object, usual: object) -> str:
    if isinstance(usual, float) and type(value) is int:
        value = float(value)  # 1 and 1.0 are the same run
    return write_value(value)


for _resolver in (default_name, variant, sweep_folder, run_folder):
    OmegaConf.register_new_resolver(_resolver.__name__, _resolver, replace=True)
