"""Hydra's loader of configs, with an allow-list of what they may say of Hydra itself.

Hydra makes folders, sets up logging and the environment, and instantiates callbacks, launchers and
sweepers by their names, all before the first line of a run. So its node must be what Hydra's own
files and ours make it, but for the little that is listed here. Else the config is refused before
anything is done with it: in every mode, and for each job of a sweep.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner.allowed import USERS
from runner.cli.plain_yaml import check_yaml
from runner.cli.plugins import MODULE
from runner.errors import UserError
from runner.names import CONF

Keys = tuple[str | int, ...]
"""What leads to a value below Hydra's node."""

PLUGINS = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher": "basic",
    f"{MODULE}.LocalLauncher": "local",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": "joblib",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": "submitit_local",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": "submitit_slurm",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper": "basic",
    f"{MODULE}.AblationSweeper": "ablation",
}
"""The launchers and sweepers that a config may choose, and the options with their settings."""

GROUPS = ("env", "output", "help", "hydra_help", "hydra_logging", "job_logging")
"""Hydra's other groups, of which any option may be chosen that Hydra has."""

FREE = (
    *(("mode",), ("verbose",), ("runtime",), ("overrides",)),  # the first two: judged apart
    *(("job", "override_dirname"), ("job", "config_name")),
)
"""What differs from command to command and starts nothing."""

WORDS = (
    *("partition", "qos", "account", "constraint", "exclude", "gres"),
    *("mem_per_gpu", "mem_per_cpu"),
)
"""Settings of a cluster that a file may say too, in a plain word: sbatch takes more than words."""

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


@contextmanager
def guarded() -> Iterator[None]:
    """Have Hydra load configs in our way; it cannot be handed a loader."""
    module: Any = hydra._internal.hydra
    before, module.ConfigLoaderImpl = module.ConfigLoaderImpl, Loader
    try:
        yield
    finally:
        module.ConfigLoaderImpl = before


class Loader(ConfigLoaderImpl):
    """Hydra's own, which checks each file before it is read and each config that it composes."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = _Repository(config_search_path)
        self._sweep: UserError | None = None  # why the sweep that a file asks for is refused

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose, and check Hydra's node.

        Hydra first asks for the mode alone, in the mode of a sweep; if that fails, it takes the
        mode of the command line, and comes again.

        Raises:
            UserError: If there is more in it than may be, it cannot be composed, or a file alone
                asks for a sweep.
        """
        try:
            config = super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        except (UserError, HydraException, OmegaConfBaseException, YAMLError, OSError):
            raise
        except Exception as error:  # a config has many ways to break Hydra
            told = f"{type(error).__name__} {error}"
            raise UserError(f"The config must be one that can be composed, got {told}.") from error
        check_hydra(config.hydra, overrides)
        if not validate_sweep_overrides:  # asked for the mode
            self._sweep = _check_mode(config.hydra, overrides)
            if self._sweep and "ablation" in config:
                self._sweep = UserError(
                    "An ablation must be done by its own sweeper, got another. "
                    "Drop hydra/sweeper=... from the command."
                )
            if self._sweep:
                raise self._sweep
        elif run_mode is RunMode.MULTIRUN:
            self._sweep = None  # since that was typed
            _clear_way(config)
        elif self._sweep:
            raise self._sweep
        return config

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Compose the config of a job, and find its folder, before the first job is begun.

        Raises:
            UserError: If it says anything of Hydra, or would lie outside of the output folder.
        """
        for override in _hydras(sweep_overrides):
            raise UserError(
                f"A run of a sweep must leave Hydra alone, got {override.input_line}. "
                "Give it to the whole sweep."
            )
        config = super().load_sweep_config(master_config, sweep_overrides)
        _ = config.hydra.sweep.dir, config.hydra.sweep.subdir
        return config

    def _process_config_searchpath(
        self,
        config_name: str | None,
        parsed_overrides: list[Override],
        repo: CachingConfigRepository,
    ) -> None:
        """Take other folders from the command line alone; a package would be imported."""
        primary = repo.load_config(config_path=config_name) if config_name else None
        if primary and (places := OmegaConf.select(primary.config, "hydra.searchpath")):
            raise _refusal(("searchpath",), places)
        for override in parsed_overrides:
            places = override.value() if override.key_or_group == "hydra.searchpath" else ""
            if "://" in str(places).replace("file://", ""):
                raise _refusal(("searchpath",), places)
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


class _Repository(ConfigRepository):
    """Hydra's own, which reads what lies in its folders, and is plain."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        if Path(config_path).is_absolute() or ".." in Path(config_path).parts:
            raise UserError(
                f"A config must lie in the folder where it is looked for, got {config_path}. "
                "Give its folder with --config-dir, or -cp for a saved config."
            )
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source and source.scheme() == "file" and Path(source.path) != CONF:
            file = Path(source.path, ConfigSource._normalize_file_name(config_path))
            check_yaml(file, saved=source.provider == "main")
        return super().load_config(config_path)


def check_hydra(node: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse what is in Hydra's node beside what is trusted.

    Args:
        node: As composed, with nothing of it resolved or instantiated yet.
        overrides: What was typed.

    Raises:
        UserError: If there is anything more.
    """
    actual = OmegaConf.to_container(node, resolve=False)
    assert isinstance(actual, dict)
    verbose = actual["verbose"]
    words = verbose if isinstance(verbose, list) else [str(verbose)]
    if not isinstance(verbose, bool | str | list) or any(
        not isinstance(word, str) or "${" in word for word in words
    ):
        raise _refusal(("verbose",), verbose)
    noted = actual["overrides"]
    if sorted([*noted["hydra"], *noted["task"]]) != sorted(overrides):
        raise _refusal(("overrides",), noted)
    keys = [o.key_or_group.split(".") for o in _hydras(overrides)]
    typed = [tuple(below) for top, *below in keys if top == "hydra"]
    ours, theirs = dict(_leaves(_trusted(actual))), dict(_leaves(actual))
    for path in {**theirs, **ours}:
        one, other = ours.get(path, ...), theirs.get(path, ...)
        filled = other is ... and one in ({}, [])  # which shows in what it was filled with
        if filled or (type(one) is type(other) and one == other):
            continue
        if not _may_be(path, other, any(path[: len(key)] == key for key in typed)):
            raise _refusal(path, "nothing" if other is ... else other)
    for name, callback in (actual["callbacks"] or {}).items():
        target = callback.get("_target_") if isinstance(callback, dict) else callback
        if target not in USERS:
            raise _refusal(("callbacks", name), target)


def _check_mode(node: DictConfig, overrides: Sequence[str]) -> UserError | None:
    """Refuse a sweep that no one typed, unless it is an ablation, which has a plan."""
    typed = any(o.key_or_group == "hydra.mode" for o in _hydras(overrides))
    ablation = node.sweeper.get("_target_") == f"{MODULE}.AblationSweeper"
    plain = not OmegaConf.is_interpolation(node, "mode") and node.mode in (None, RunMode.RUN)
    if typed or ablation or plain:
        return None
    return _refusal(("mode",), getattr(node.mode, "name", node.mode))


def _clear_way(config: DictConfig) -> None:
    """Remove what would lead Hydra's sweeper elsewhere when it writes its file.

    Where the folder cannot be told, the sweeper fails at that too, before it writes.
    """
    with suppress(UserError, OmegaConfBaseException):
        file = Path(config.hydra.sweep.dir, "multirun.yaml")
        with suppress(FileNotFoundError):
            about = os.lstat(file)
            if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
                file.unlink()  # a folder cannot be: that is an error of one line


def _may_be(path: Keys, value: object, typed: bool) -> bool:
    """Whether a value may be there that is not there by itself."""
    part, *rest = path
    followed = [key for key in rest if str(key).startswith("_")]  # by hydra.utils.instantiate
    if any(path[: len(free)] == free for free in FREE):
        return True
    if part == "searchpath":
        return typed  # and it was judged before it was followed
    if part == "callbacks":  # whose classes have to be in BISCUITS_ALLOW
        return len(rest) > 1 and (rest[1:] == ["_target_"] or not followed)
    if part not in ("launcher", "sweeper") or not rest:
        return False
    if followed:
        return rest == ["_target_"] and value in USERS
    if typed or not isinstance(value, str):
        return True
    if rest[:-1] == ["params"]:
        return part == "sweeper" and "hydra" not in str(rest[-1])  # overrides of the runs
    return rest[0] in WORDS and re.fullmatch(r"[\w.,:+-]+", value) is not None


def _trusted(actual: dict[Any, Any]) -> dict[str, Any]:
    """Give back Hydra's node as it is with the same plugins and choices, and nothing more."""
    choices = actual["runtime"]["choices"]
    chosen = {group: choices.get(f"hydra/{group}") for group in (*GROUPS, "launcher", "sweeper")}
    for group in ("launcher", "sweeper"):
        target = actual[group].get("_target_") if isinstance(actual[group], dict) else None
        chosen[group] = PLUGINS.get(str(target), chosen[group])
    for group, option in chosen.items():
        if not isinstance(option, str) or not re.fullmatch(r"\w+", option):
            raise _refusal((group,), option)
    return _compose(tuple(chosen.items()), JobRuntime.instance().get("name"))


@lru_cache
def _compose(chosen: tuple[tuple[str, str], ...], name: str) -> dict[str, Any]:
    """Compose Hydra's node from what Hydra, its plugins and we have stored."""
    loader = ConfigLoaderImpl(create_config_search_path(None))
    overrides = [f"hydra/{group}={option}" for group, option in chosen]
    node = loader.load_configuration(None, overrides, RunMode.RUN).hydra
    assert node.job.name == name  # of which it is the second key in the cache
    content = OmegaConf.to_container(node, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _hydras(overrides: Sequence[str]) -> list[Override]:
    """Give back the overrides that are of Hydra's own node, or of its groups."""
    lines = [line for line in overrides if "hydra" in line]
    parsed = OverridesParser.create().parse_overrides(lines)
    return [o for o in parsed if re.match(r"hydra([./@]|$)", o.key_or_group)]


def _leaves(node: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:  # noqa: ANN401
    """Run through all that holds nothing more."""
    if not isinstance(node, dict | list) or not node:
        yield path, node
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _leaves(value, (*path, key))


def _refusal(path: Keys, value: object) -> UserError:
    where = ".".join(["hydra", *map(str, path)])
    advice = next((ADVICE[key] for key in reversed(path) if key in ADVICE), "Take it out.")
    return UserError(f"{where} must be left as it is, got {value}. {advice}")
