"""Our sweeper and our launcher, as Hydra's plugins.

Hydra takes plugins from the namespace package `hydra_plugins` alone, and does not find one there
in an editable install. So the module `hydra_plugins.biscuits` is made here, whatever way the
project is installed. Its classes stand in for the real ones until Hydra makes an instance: the
real ones import torch, which help and completion do without.
"""

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import hydra
from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper

from runner.errors import UserError
from runner.garbage import importing_torch
from runner.sweep import server

MODULE = "hydra_plugins.biscuits"

IS_1_3 = hydra.__version__.startswith("1.3.")


def store(name: str, node: Any, group: str | None = None) -> None:  # noqa: ANN401
    """Put a config into Hydra's store; 1.4 asks for a word where another one is in its place."""
    more: dict[str, Any] = {} if IS_1_3 else {"replace": True}
    ConfigStore.instance().store(name, node, group=group, provider="runner", **more)


def set_version_base() -> None:
    """Have Hydra 1.3 behave as such; 1.4 complains when it is asked."""
    if IS_1_3:
        version.setbase("1.3")


LOCAL = {
    "_target_": f"{MODULE}.LocalLauncher",
    "workers": "auto",  # runs at once; auto: one a core, or one a card on CUDA
    "per_card": 1,  # on CUDA: runs at once on each card
    "timeout": None,  # seconds after which a run is ended and recorded as failed
}
"""The settings of `hydra/launcher=local`."""

SUBMITIT = {
    "runs_per_job": "auto",  # runs that a job does; imports are paid once for all of them
    "workers": "auto",  # runs that a job does at a time; auto: one a core, or one a card
    "per_card": 1,
    "timeout": None,  # seconds after which a run is ended and recorded as failed
    "submitit_folder": None,  # where submitit keeps scripts and logs; null: in the cache folder
    "timeout_min": 60,  # minutes that a job may take; then it is queued again, and resumes
    "cpus_per_task": None,
    "gpus_per_node": None,
    "tasks_per_node": 1,
    "mem_gb": None,
    "nodes": 1,
    "name": "biscuits",
    "stderr_to_stdout": False,
}
"""The settings of `hydra/launcher=submitit_local`; from `timeout_min` on those of Hydra's own."""

SLURM = {
    **SUBMITIT,
    **dict.fromkeys(("partition", "qos", "comment", "constraint", "exclude", "gres", "account")),
    **dict.fromkeys(("cpus_per_gpu", "gpus_per_task", "mem_per_gpu", "mem_per_cpu", "setup")),
    "signal_delay_s": 120,  # seconds before the limit of time at which runs are saved
    "max_num_timeout": 20,  # times that a job is queued again after its limit of time
    "additional_parameters": {},  # of sbatch
    "array_parallelism": 256,  # jobs that run at a time
}
"""The settings of `hydra/launcher=submitit_slurm`."""

RAY: dict[str, Any] = {
    "address": None,  # of a cluster: auto, or HOST:PORT; null: one of this machine is started
    "cpus_per_job": 1,
    "gpus_per_job": 0,
    "resources": {},  # others that a job takes, by the names of the cluster
    "max_retries": 3,  # times that a job is sent again whose worker or machine died
    "runs_per_job": "auto",  # runs that a job does; imports are paid once for all of them
    "workers": "auto",  # runs that a job does at a time; auto: one a core, or one a card
    "per_card": 1,
    "timeout": None,  # seconds after which a run is ended and recorded as failed
}
"""The settings of `hydra/launcher=ray`."""


NEEDS = {
    "RayLauncher": ("ray", "ray", "ray"),
    "SlurmLauncher": ("submitit_slurm", "submitit", "slurm"),
    "SubmititLocalLauncher": ("submitit_local", "submitit", "slurm"),
}
"""For launchers that need more: the option, the package, and the extra of ours that has it."""

PLAIN = {"_target_": f"{MODULE}.PlainSweeper", "max_batch_size": None, "params": None}
"""The settings of the sweeper of plain sweeps; they are Hydra's."""


def refuse_older_sweeper(sweeper: object) -> None:
    """Refuse, under Hydra 1.4, the release of a sweeper that is made for 1.3.

    Hydra 1.4 makes no objects within a plugin's settings, such as the sampler of Optuna.
    """
    if sweeper == "optuna" and not IS_1_3:
        package = "hydra-optuna-sweeper"
        if (found := metadata.version(package)).startswith(("0.", "1.0", "1.1", "1.2", "1.3")):
            raise UserError(
                f"hydra/sweeper=optuna: {package} {found} works with Hydra 1.3 alone, and this is "
                f"{hydra.__version__}. Install {package} 1.4."
            )


def start_server(launcher: object, keys: Collection[str]) -> None:
    """Have what many runs need imported beside, while they are planned.

    Args:
        launcher: Which does the runs.
        keys: What was given on the command line; a dry run measures, and is not to be disturbed.
    """
    if launcher == "local" and "ablation.dry_run" not in keys:
        server.start()


def register_plugins(prepare: Callable[[], None]) -> None:
    """Make our plugins known to Hydra; needed once in every process, before Hydra composes.

    Args:
        prepare: What a worker process of the launcher calls before it does a job.
    """
    # Hydra's would print a line of its own, and the error follows
    setter = vars(JobReturn)["return_value"].fset
    JobReturn.return_value = property(_value, setter)  # type: ignore[method-assign,assignment]
    plugins = Plugins.instance()  # first, since it imports what it scans, and some of it twice
    if MODULE not in sys.modules:
        package = sys.modules.get("hydra_plugins")
        if package is None:
            package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
            package.__path__ = []
        module = sys.modules[MODULE] = ModuleType(MODULE, __doc__)
        package.biscuits = module  # type: ignore[attr-defined]
        for name, base, home, given in (
            ("AblationSweeper", Sweeper, "runner.sweep.sweeper", {}),
            ("PlainSweeper", Sweeper, "runner.sweep.plain_sweeper", {}),
            ("LocalLauncher", Launcher, "runner.sweep.local_launcher", {"prepare": prepare}),
            ("RayLauncher", Launcher, "runner.sweep.ray_launcher", {"prepare": prepare}),
            ("SlurmLauncher", Launcher, "runner.sweep.slurm", {"prepare": prepare}),
            ("SubmititLocalLauncher", Launcher, "runner.sweep.submitit_jobs", {"prepare": prepare}),
        ):
            stand_in = _stand_in(name, base, home, given)
            setattr(module, name, stand_in)
            plugins.register(stand_in)
    store("basic", PLAIN, group="hydra/sweeper")
    store("ablation", {"_target_": f"{MODULE}.AblationSweeper"}, group="hydra/sweeper")
    store("local", LOCAL, group="hydra/launcher")
    store("ray", {"_target_": f"{MODULE}.RayLauncher", **RAY}, "hydra/launcher")
    store("submitit_slurm", {"_target_": f"{MODULE}.SlurmLauncher", **SLURM}, "hydra/launcher")
    local = {"_target_": f"{MODULE}.SubmititLocalLauncher", **SUBMITIT}
    store("submitit_local", local, "hydra/launcher")


def _value(end: JobReturn) -> Any:  # noqa: ANN401
    """Give back what a job gave, or raise what it raised."""
    if end.status is JobStatus.COMPLETED:
        return end._return_value
    raise end._return_value


def _stand_in(name: str, base: type[Plugin], home: str, given: Mapping[str, Any]) -> type[Plugin]:
    """Make a class whose instances are of the class of that name in the module `home`."""

    def new(cls: type[Plugin], **settings: Any) -> Any:  # noqa: ANN401, ARG001
        option, package, extra = NEEDS.get(name, ("", "", ""))
        spec = find_spec(package) if package else None
        if package and (spec is None or spec.origin is None):  # else a folder of that name
            raise UserError(
                f"hydra/launcher={option} needs {package}, which is not installed. "
                f"Run pip install 'biscuits-bench[{extra}]'."
            )
        with importing_torch():
            module = import_module(home)
        return getattr(module, name)(**settings, **given)

    stand_in: type[Plugin] = type(name, (base,), {"__new__": new, "__module__": MODULE})
    # Hydra registers concrete classes alone
    stand_in.__abstractmethods__ = frozenset()
    return stand_in
