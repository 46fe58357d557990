"""Hydra's loader of configs, where we reach into it, and why. Works with Hydra 1.3.8 and 1.4.

Hydra has no public way to judge a file before it is merged, to make many runs of a command because
of an option that was chosen, or to compose many configs that differ in values alone. Its loader has
all that is needed at a few methods that both versions have; application.py hands ours to Hydra.
"""

import copy
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle  # Hydra imports some plugins twice, and their classes are not those of modules
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner.cli import guard
from runner.cli.plugins import IS_1_3, refuse_older_sweeper, start_server
from runner.cli.repository import Repository
from runner.cli.variant import GROUPS, chosen, write_names
from runner.errors import UserError
from runner.names import CONF


class Loader(ConfigLoaderImpl):
    """Hydra's loader of configs, which judges each file and override, and names the runs.

    Args:
        config_dirs: Users' own folders.
        main: Where the config itself is looked for.
    """

    def __init__(self, config_dirs: Iterable[Path] = (), main: Path = CONF) -> None:
        path = create_config_search_path(str(main))
        for folder in config_dirs:
            if not folder.is_dir():
                raise UserError(f"--config-dir: no folder {folder}.")
            place = f"file://{folder.resolve()}"
            path.prepend("command-line", place, anchor=SearchPathQuery(provider="schema"))
        super().__init__(path)
        self.repository = Repository(path)
        self.asked: tuple[str, list[str]] = "config", []  # the config's name, the overrides
        self._typed_mode = False  # whether a sweep, or none, was asked for on the command line
        self._references: dict[object, tuple[Mapping[str, Any], DictConfig]] = {}
        self._sweeps: dict[object, bytes] = {}  # what the jobs of a sweep are copies of
        self._groups: dict[tuple[str, ...], bool] = {}  # whether a key is a group of files
        self._is_whole = True  # whether what is composed is all of a config

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Compose a run as the command line does, with Hydra's own node."""
        return self.load_configuration("config", list(overrides), RunMode.RUN)

    def folders(self) -> list[Path]:
        """Name the folders in which configs are looked for, beside those that were typed."""
        sources = self.repository.sources
        return [Path(each.path) for each in sources if each.scheme() == "file"]

    def find_mode(self, config_name: str, overrides: list[str], multirun: bool) -> RunMode:
        """Find out whether a command does one run or many: by what was typed, or an ablation.

        The defaults lists of the chosen files are read; nothing is composed.

        Raises:
            UserError: If what was typed contradicts itself.
        """
        self.asked = config_name, overrides
        parsed = OverridesParser.create().parse_overrides(overrides)
        typed = [o.value() for o in parsed if o.key_or_group == "hydra.mode"]
        self._typed_mode = multirun or bool(typed)
        with _one_line():
            listed = self.compute_defaults_list(config_name, overrides, RunMode.MULTIRUN)
        guard.check_sweeps(parsed, self.get_group_options)
        choices = listed.overrides.known_choices
        ablation, sweeper = choices.get("ablation"), choices.get("hydra/sweeper")
        refuse_older_sweeper(sweeper)
        guard.check_mode(ablation, sweeper, multirun, "RUN" in typed)
        if several := bool(ablation or multirun or "MULTIRUN" in typed):
            start_server(choices.get("hydra/launcher"), [o.key_or_group for o in parsed])
        return RunMode.MULTIRUN if several else RunMode.RUN

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Compose the config of a job: once for each choice of files, of which it is a copy.

        Raises:
            UserError: If it says anything of Hydra, or would lie outside of the output folder.
        """
        guard.refuse_hydras(sweep_overrides)
        name, typed = master_config.hydra.job.config_name, [*master_config.hydra.overrides.hydra]
        self.asked = name, [*typed, *sweep_overrides]
        parsed = OverridesParser.create().parse_overrides(sweep_overrides)
        for override in parsed:
            guard.check_override(override)
        self.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
        own, files = self._split(parsed, name, typed)
        if (key := (name, *typed, *files)) not in self._sweeps:
            self._is_whole = False
            try:
                whole = super().load_sweep_config(master_config, list(files))
            finally:
                self._is_whole = True
            self._sweeps[key] = cloudpickle.dumps(whole)
        config: DictConfig = pickle.loads(self._sweeps[key])
        with _one_line():
            self._apply_overrides_to_config(own, config)
        config.hydra.overrides.task = list(sweep_overrides)
        if IS_1_3:  # 1.4 has a resolver for it
            style = config.hydra.job.config.override_dirname
            dirname = config_loader_impl.get_overrides_dirname(parsed, **style)
            config.hydra.job.override_dirname = dirname
        write_names(config, RunMode.RUN, self._reference)
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def chosen_tricks(self, master: DictConfig, overrides: Sequence[str]) -> list[str]:
        """Name the tricks that are switched on by the group `tricks`, in the order given there.

        A preset's stand where it does; those that `enabled: true` switches on are not among them.
        """
        given = [*_search_path(master), *overrides]
        name = master.hydra.job.config_name
        listed = self.compute_defaults_list(name, given, RunMode.MULTIRUN).defaults
        paths = [str(default.config_path) for default in listed]
        return [path.removeprefix("tricks/") for path in paths if path.startswith("tricks/")]

    def _split(
        self, overrides: Iterable[Override], name: str, typed: Sequence[str]
    ) -> tuple[list[Override], tuple[str, ...]]:
        """Split overrides as Hydra does: those of values, which a copy takes, and of other files.

        Args:
            overrides: In their order.
            name: Of the config.
            typed: What else it is composed with, such as where groups are looked for.
        """
        own, files, repo = list[Override](), list[str](), None
        for override in overrides:
            key = (override.key_or_group, name, *typed)
            if key not in self._groups:
                repo = repo or self._parse_overrides_and_create_caching_repo(name, [*typed])[1]
                self._groups[key] = repo.group_exists(override.key_or_group)
            if self._groups[key] and not isinstance(override.value(), dict):
                files.append(str(override.input_line))
            else:
                own.append(override)
        return own, tuple(files)

    def compose_variants(
        self, master: DictConfig, base: Sequence[str], variants: Mapping[str, Sequence[str]]
    ) -> dict[str, DictConfig]:
        """Compose the variants of an ablation, without Hydra's own node.

        The base is composed once, and once more for each choice of other files. A variant is a copy
        of it with the variant's own values.
        """
        name, given = master.hydra.job.config_name, [*_search_path(master), *base, "++variant='-'"]
        first = self.load_configuration(name, given, RunMode.RUN)
        known: dict[tuple[str, ...], bytes] = {(): _pickled(first)}
        composed: dict[str, DictConfig] = {}
        for label, overrides in variants.items():
            guard.refuse_hydras(overrides)
            parsed = OverridesParser.create().parse_overrides(list(overrides))
            own, files = self._split(parsed, name, given)
            if files not in known:
                whole = self.load_configuration(name, [*given, *files], RunMode.RUN)
                known[files] = _pickled(whole)
            composed[label] = pickle.loads(known[files])
            # public as a part of a whole composition alone
            self._apply_overrides_to_config(own, composed[label])
        return composed

    def _load_configuration_impl(  # where all ways to compose meet
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        *more: Any,  # noqa: ANN401
        **named: Any,  # noqa: ANN401
    ) -> DictConfig:
        if self._is_whole:
            self.asked = config_name or "config", overrides
        with _one_line():
            config = super()._load_configuration_impl(
                config_name, overrides, run_mode, *more, **named
            )
        guard.check_plugins(OmegaConf.to_container(config.hydra))
        if config_name and self._is_whole:
            write_names(config, run_mode, self._reference)
        return config

    def _process_config_searchpath(  # before a folder that was typed is looked into
        self,
        config_name: str | None,
        parsed_overrides: list[Override],
        repo: CachingConfigRepository,
    ) -> None:
        for override in parsed_overrides:
            guard.check_override(override)
        super()._process_config_searchpath(config_name, parsed_overrides, repo)

    def _load_single_config(  # each file with its final package, before it is merged
        self,
        default: ResultDefault,
        repo: CachingConfigRepository,  # type: ignore[override]
    ) -> ConfigResult:
        loaded = repo.load_config(name := str(default.config_path))
        assert loaded is not None
        home = loaded.header["package"] or name.rpartition("/")[0].replace("/", ".")
        own = name.startswith("hydra/") and not loaded.path.startswith("file://")
        if not own or default.package != home:
            file = f"{loaded.path.removeprefix('file://')}/{name.removesuffix('.yaml')}.yaml"
            if name == "hydra/config":
                raise UserError(f"{file} stands in for Hydra's own settings. Remove it.")
            embedded = self._embed_result_config(loaded, default.package).config
            guard.check_addition(OmegaConf.to_container(embedded), file, self._typed_mode)
        single = super()._load_single_config(default, repo)
        if single.config is loaded.config:  # what is embedded in a package is a copy already
            single = copy.copy(single)
            single.config = copy.deepcopy(single.config)
        return single

    def _reference(self, config: DictConfig) -> tuple[Mapping[str, Any], DictConfig]:
        """What a config would be without the user's own values: the usual choices, the values."""
        name, node = config.hydra.job.config_name, config.hydra.runtime.choices
        experiment, choices = node.get("experiment"), {g: chosen(config, g) for g in GROUPS}
        key = name, experiment, *choices.values()
        if key not in self._references:
            given = [*_search_path(config), *([f"experiment={experiment}"] if experiment else [])]
            listed = self.compute_defaults_list(name, given, RunMode.RUN)
            usual = listed.overrides.known_choices
            if other := [f"{g}={c}" for g, c in choices.items() if c != usual.get(g)]:
                listed = self.compute_defaults_list(name, [*given, *other], RunMode.RUN)
            files = [d for d in listed.defaults if not str(d.config_path).startswith("hydra/")]
            _, repo = self._parse_overrides_and_create_caching_repo(name, given)
            self._references[key] = usual, self._compose_config_from_defaults_list(files, repo)
        return self._references[key]


def _pickled(config: DictConfig) -> bytes:
    """Pickle a config without Hydra's node: to load that takes a fifth of the time of a copy."""
    with open_dict(config):
        del config["hydra"]
    return pickle.dumps(config)


def _search_path(config: DictConfig) -> list[str]:
    """Give back what was typed of where configs are looked for."""
    return [o for o in config.hydra.overrides.hydra if o.startswith("hydra.searchpath=")]


@contextmanager
def _one_line() -> Iterator[None]:
    """Report whatever breaks Hydra in one line."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, YAMLError, OSError):
        raise
    except Exception as error:
        raise UserError(
            f"The config cannot be composed: {type(error).__name__} {error}."
        ) from error
