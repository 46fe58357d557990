"""Hydra's application, and its parser of options, with our loader of configs.

`Hydra`, the application behind `hydra.main`, takes a loader of one's own where that does not.
Works with Hydra 1.3.8 and 1.4.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import hydra.utils
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from runner import allowed
from runner.cli.hydra_internals import Loader
from runner.cli.plugins import IS_1_3
from runner.errors import UserError
from runner.torchrun import counted


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


def _allow_classes() -> AbstractContextManager[None]:
    """Have Hydra 1.4 make what the user allows, and no other callback or logger."""
    utils: Any = hydra.utils  # mypy sees 1.3
    return nullcontext() if IS_1_3 else utils.execution_whitelist([*allowed.USERS])
