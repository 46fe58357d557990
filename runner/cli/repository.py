"""Hydra's reader of files, which reads plain files in its own folders alone, each once."""

import copy
from pathlib import Path

from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from runner.cli import guard
from runner.cli.plain_yaml import check_yaml, load_yaml
from runner.errors import UserError
from runner.names import CONF


class Repository(ConfigRepository):
    """Reads each file once; what it gives is shared, so the loader copies what it merges."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.known: dict[tuple[str, str, str], ConfigResult | None] = {}

    def __deepcopy__(self, _: object) -> "Repository":  # Hydra takes a copy for each composition
        return copy.copy(self)

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """Find what reads each of the folders."""
        super().initialize_sources(config_search_path)
        self.sources = [
            _Folder(source.provider, source.path) if source.scheme() == "file" else source
            for source in self.sources
        ]

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Read a config, by its path below one of the folders; None if there is none.

        Raises:
            UserError: If it lies elsewhere, is in two folders, or is not plain.
        """
        if Path(config_path).is_absolute() or ".." in Path(config_path).parts:
            raise UserError(
                f"{config_path} must lie in the folder where configs are looked for. "
                "Give its folder with --config-dir, or -cp for a saved config."
            )
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None:
            return None
        for other in self.sources if "/" in config_path and source.scheme() == "file" else ():
            if other is not source and other.scheme() == "file" and other.is_config(config_path):
                name = f"{other.path}/{config_path.removesuffix('.yaml')}.yaml"
                raise UserError(f"{name} has the name of a file in {source.path}. Rename it.")
        key = source.scheme(), source.path, config_path
        if key not in self.known:
            self.known[key] = self._load(source, config_path)
        return self.known[key]

    def _load(self, source: ConfigSource, config_path: str) -> ConfigResult | None:
        file = Path(source.path, ConfigSource._normalize_file_name(config_path))
        if source.scheme() == "file" and Path(source.path) != CONF:
            check_yaml(file, saved=source.provider == "main")
        loaded = super().load_config(config_path)
        if loaded is None or source.scheme() == "structured":
            return loaded
        for name in ("searchpath", "aliases"):  # which Hydra follows before it composes
            if value := OmegaConf.select(loaded.config, f"hydra.{name}"):
                raise guard.refusal((name,), value, str(file))
        return loaded


class _Folder(FileConfigSource):
    """Hydra's reader of a folder, by libyaml."""

    def load_config(self, config_path: str) -> ConfigResult:
        text = Path(self.path, self._normalize_file_name(config_path)).read_text("utf-8")
        content = load_yaml(text)
        return ConfigResult(
            config=OmegaConf.create({} if content is None else content),
            path=f"file://{self.path}",
            provider=self.provider,
            header=self._get_header_dict(text[:512]),
        )
