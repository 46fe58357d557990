"""What Hydra calls: `register` before it composes, and `task` with each composed run.

Imported in every process that runs a job, and before anything is known to be run: so it is light.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf, RunDir, SweepDir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from runner.cli.explain import explain
from runner.cli.plain_yaml import check_yaml, load_yaml, our_options
from runner.cli.plugins import register_plugins, set_version_base, store
from runner.errors import UserError
from runner.garbage import importing_torch
from runner.names import OUTPUTS, label
from runner.signals import Stopped, die_with_parent, raise_if_stopping, stoppable
from runner.store.packed import is_packed
from runner.texts import say
from runner.torchrun import counted, own_rank

OPTIONS = {"job_logging": "none", "launcher": "local"}
"""What is chosen of Hydra's own groups, where Hydra would choose otherwise."""

RUN_FOLDER = "${variant}/seed=${seed}"


def task(cfg: DictConfig) -> float:
    """Run one config, in the folder that Hydra made for it.

    Returns:
        The accuracy on the validation split, for a sweep that searches; on the test set where
        there is no validation split.
    """
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        die_with_parent()
    try:
        with stoppable():
            raise_if_stopping()  # a signal may have come while the run before failed
            return _run(cfg)
    except Stopped:
        raise
    except SystemExit as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:  # else it would end the whole sweep
            raise RuntimeError(f"the run called sys.exit({error.code})") from error
        raise
    except UserError as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise  # a sweep continues with its other runs
        # one line; Hydra would add one of its own
        sys.exit(once(explain(error, overrides=HydraConfig.get().overrides.task)))


def _run(cfg: DictConfig) -> float:
    # torch takes a second to import, and help, completion and mistakes do without it
    with importing_torch():
        from runner.config import check
        from runner.run.attempt import resume_or_run
        from runner.run.result import objective, summary
        from runner.run.status import remove_empty

    hydra = HydraConfig.get()
    folder, sweep = Path(hydra.runtime.output_dir), hydra.mode is RunMode.MULTIRUN
    try:
        settings = check(cfg, hydra.overrides.task)
        result = resume_or_run(folder, settings, quiet=sweep)
    except UserError as error:
        remove_empty(folder)
        if sweep:  # Hydra shows the first error of a sweep alone, and at its end
            say(f"{label(folder)}  {str(error).removeprefix(label(folder)).lstrip()}")
        raise
    except (KeyboardInterrupt, Stopped):
        remove_empty(folder)
        raise
    if is_packed(folder):
        remove_empty(folder)  # which Hydra made
    if own_rank() == 0:
        say(f"{label(folder)}  {summary(result)}")
    return objective(result)


def once(line: str | None) -> str | int | None:
    """Give back what to exit with for a mistake: of several ranks one tells of it."""
    if counted() == 1 or line is None:
        return line
    from runner.ranks import tell_once  # imports torch

    return tell_once(line)


def register(config_dirs: Iterable[Path] = ()) -> None:
    """Store Hydra's settings and the node `all_tricks` of every trick, switched off.

    Args:
        config_dirs: Users' own folders, whose `tricks/*.yaml` join ours.
    """
    set_version_base()
    contents = [*our_options("tricks").values()]
    for folder in config_dirs:
        for file in sorted(folder.glob("tricks/*.yaml")):
            check_yaml(file)
            contents.append(load_yaml(file.read_text()))
    tricks: dict[str, Any] = {}
    for content in contents:
        for name, trick in _switched_off(content).items():
            tricks.setdefault(name, trick)  # a name of ours stays ours
    store("all_tricks", {"tricks": tricks})
    register_plugins(register)
    _store_hydra_settings()


def _store_hydra_settings() -> None:
    """Replace Hydra's own settings, for a saved config.yaml as well as for ours."""
    settings = HydraConf(
        run=RunDir(f"{OUTPUTS}/${{name}}/{RUN_FOLDER}"),
        sweep=SweepDir(f"{OUTPUTS}/${{name}}", RUN_FOLDER),
        output_subdir=None,  # config.yaml is ours to write, resolved
    )
    settings.defaults = [
        {group: OPTIONS.get(group, option)}
        for default in settings.defaults
        for group, option in default.items()
    ]
    store("config", settings, group="hydra")


def _switched_off(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        return {}
    return {
        str(name): {**trick, "enabled": False}
        for name, trick in content.items()
        if isinstance(trick, dict) and "_target_" in trick  # a preset has only what it changes
    }
