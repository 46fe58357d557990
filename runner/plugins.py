"""Our sweeper and our launcher, as Hydra's plugins.

Hydra takes plugins from the namespace package `hydra_plugins` alone, and does not find one there
in an editable install. So the module `hydra_plugins.biscuits` is made here, whatever way the
project is installed: its classes are ours.
"""

import sys
from types import ModuleType

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

MODULE = "hydra_plugins.biscuits"

LOCAL = {
    "_target_": f"{MODULE}.LocalLauncher",
    "workers": "auto",  # runs at once; auto: one a core, or one a card on CUDA
    "per_card": 1,  # on CUDA: runs at once on each card
    "timeout": None,  # seconds after which a run is ended and recorded as failed
}
"""The settings of `hydra/launcher=local`."""


def register_plugins() -> None:
    """Make our plugins known to Hydra; needed once in every process, before Hydra composes."""
    plugins = Plugins.instance()  # first, since it imports what it scans, and some of it twice
    if MODULE not in sys.modules:
        from runner.ablation.sweeper import AblationSweeper
        from runner.launch import LocalLauncher

        package = sys.modules.get("hydra_plugins")
        if package is None:
            package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
            package.__path__ = []
        module = sys.modules[MODULE] = ModuleType(MODULE, __doc__)
        package.biscuits = module  # type: ignore[attr-defined]
        for plugin in (AblationSweeper, LocalLauncher):
            plugin.__module__ = MODULE  # Hydra looks a plugin up by this
            setattr(module, plugin.__name__, plugin)
            plugins.register(plugin)
    store = ConfigStore.instance()
    sweeper = {"_target_": f"{MODULE}.AblationSweeper"}
    store.store("ablation", sweeper, group="hydra/sweeper", provider="runner")
    store.store("local", LOCAL, group="hydra/launcher", provider="runner")
