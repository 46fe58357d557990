"""The order in which tricks were named, for a design that adds one after the other."""

import re
from collections.abc import Sequence
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf


class Chooser(Protocol):
    """What knows the group `tricks`: the loader of `runner/cli/`."""

    def chosen_tricks(self, master: DictConfig, overrides: Sequence[str]) -> list[str]:
        """Name the tricks that the group `tricks` switches on, in the order given there."""


def read_tricks(
    master: DictConfig, loader: Chooser, arguments: Sequence[str], as_typed: bool
) -> dict[str, Any]:
    """Give back the node of each trick of a config.

    Args:
        master: The composed config, with Hydra's node. Its tricks have one fixed order.
        loader: Knows the order in which they were chosen.
        arguments: The overrides that were typed.
        as_typed: Whether those that were switched on come first, as they were named: in
            `tricks=[...]` or a preset, then by `tricks.NAME.enabled`.
    """
    tricks = OmegaConf.to_container(master.tricks, resolve=True)
    assert isinstance(tricks, dict)
    order: list[str] = []
    if as_typed:
        order += loader.chosen_tricks(master, arguments)
        order += re.findall(r"tricks\.(\w+)\.enabled=", " ".join(arguments))
    return {str(name): tricks[name] for name in dict.fromkeys([*order, *tricks]) if name in tricks}
