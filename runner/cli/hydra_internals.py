"""All that reaches into Hydra, and why. Works with Hydra 1.3.8 and 1.4.

Hydra has no public way to judge a file before it is merged, or to make many runs of a command
because of an option that was chosen. Its loader of configs has all that is needed at a few methods
that both versions have, and `Hydra`, the application behind `hydra.main`, takes a loader of one's
own where `hydra.main` does not.
"""

import argparse
import copy
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra.utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner import allowed
from runner.cli import guard
from runner.cli.plugins import IS_1_3, refuse_older_sweeper, start_server
from runner.cli.repository import Repository
from runner.cli.variant import GROUPS, chosen, write_names
from runner.errors import UserError
from runner.names import CONF
from runner.torchrun import counted


def _allow_classes() -> AbstractContextManager[None]:
    """Have Hydra 1.4 make what the user allows, and no other callback or logger."""
    utils: Any = hydra.utils  # mypy sees 1.3
    return nullcontext() if IS_1_3 else utils.execution_whitelist([*allowed.USERS])


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
        """Compose the config of a job.

        Raises:
            UserError: If it says anything of Hydra, or would lie outside of the output folder.
        """
        guard.refuse_hydras(sweep_overrides)
        return super().load_sweep_config(master_config, sweep_overrides)

    def chosen_tricks(self, master: DictConfig, overrides: Sequence[str]) -> list[str]:
        """Name the tricks that are switched on by the group `tricks`, in the order given there.

        A preset's stand where it does; those that `enabled: true` switches on are not among them.
        """
        given = [*_search_path(master), *overrides]
        name = master.hydra.job.config_name
        listed = self.compute_defaults_list(name, given, RunMode.MULTIRUN).defaults
        paths = [str(default.config_path) for default in listed]
        return [path.removeprefix("tricks/") for path in paths if path.startswith("tricks/")]

    def compose_variants(
        self, master: DictConfig, base: Sequence[str], variants: Mapping[str, Sequence[str]]
    ) -> dict[str, DictConfig]:
        """Compose the variants of an ablation, without Hydra's own node.

        The base is composed once, and once more for each choice of other files. A variant is a copy
        of it with the variant's own values.
        """
        name, given = master.hydra.job.config_name, [*_search_path(master), *base, "++variant='-'"]
        first = self.load_configuration(name, given, RunMode.RUN)
        values = {str(key) for key in first if key not in first.hydra.runtime.choices}
        known: dict[tuple[str, ...], bytes] = {(): _pickled(first)}
        composed: dict[str, DictConfig] = {}
        for label, overrides in variants.items():
            guard.refuse_hydras(overrides)
            parsed = OverridesParser.create().parse_overrides(list(overrides))
            own = [o for o in parsed if "." in o.key_or_group or o.key_or_group in values]
            files = tuple(str(o.input_line) for o in parsed if o not in own)
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
        self.asked = config_name or "config", overrides
        with _one_line():
            config = super()._load_configuration_impl(
                config_name, overrides, run_mode, *more, **named
            )
        guard.check_plugins(OmegaConf.to_container(config.hydra))
        if config_name:
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


def make_parser() -> argparse.ArgumentParser:
    """Make Hydra's parser of options, with a `--version` of our own."""
    parser = argparse.ArgumentParser(
        parents=[get_args_parser()], add_help=False, conflict_handler="resolve"
    )
    parser.add_argument("--version", action="store_true")
    return parser


def run_command(
    given: argparse.Namespace,
    parser: argparse.ArgumentParser,
    loader: Loader,
    task: Callable[[DictConfig], Any],
) -> None:
    """Do what Hydra's `main` does, with our loader, and with the mode that it finds."""
    app = Hydra(task_name="biscuits", config_loader=loader)
    GlobalHydra.instance().initialize(app)
    name, overrides = given.config_name or "config", list(given.overrides)
    try:
        if given.hydra_help:
            app.hydra_help(config_name=name, args_parser=parser, args=given)
        elif given.cfg:
            app.show_cfg(name, overrides, given.cfg, given.package, given.resolve)
        elif given.shell_completion:
            app.shell_completion(name, overrides)
        elif given.info:
            app.show_info(given.info, name, overrides)
        else:
            mode = loader.find_mode(name, overrides, given.multirun)
            if mode is not RunMode.RUN and counted() > 1:
                raise UserError(
                    "torchrun starts the ranks of one run, and this is a sweep of many. Start the "
                    "sweep without it: hydra/launcher=local does the runs side by side, one a card."
                )
            do = app.run if mode is RunMode.RUN else app.multirun
            with _allow_classes():
                done = do(name, task, [*overrides, f"hydra.mode={mode.name}"])
                if isinstance(done, list) and done and not any(done):
                    raise UserError("The sweep has no runs, for what it is over has no values.")
    finally:
        GlobalHydra.instance().clear()


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
