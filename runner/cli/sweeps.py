"""A plain sweep, as of `-m`: where its runs lie, and what is shown of them at its end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from runner.names import OUTPUTS
from runner.signals import Stopped


@contextmanager
def shown_at_end(
    loader: ConfigLoader, config_name: str, overrides: Sequence[str], mode: RunMode
) -> Iterator[None]:
    """Show the runs of a plain sweep at its end, also where some of them failed."""

    def show() -> None:
        if mode is RunMode.MULTIRUN:
            from runner.report.end import show_sweep  # imports torch

            for folder in _folders(loader, config_name, list(overrides)):
                show_sweep(folder)

    try:
        yield
    except (KeyboardInterrupt, Stopped):
        raise
    except Exception:
        with suppress(Exception):  # the error of the runs is what matters
            show()
        raise
    show()


def _folders(loader: ConfigLoader, config_name: str, overrides: list[str]) -> list[Path]:
    """Find the folders of a sweep, of several where it is over names; none of an ablation."""
    config = loader.load_configuration(config_name, overrides, RunMode.MULTIRUN)
    names = [str(config.name)]
    for override in OverridesParser.create().parse_overrides([o for o in overrides if "name" in o]):
        if override.key_or_group == "name" and override.is_discrete_sweep():
            names = [str(value) for value in override.sweep_iterator()]
    return [] if "ablation" in config else [Path(OUTPUTS, name) for name in names]
