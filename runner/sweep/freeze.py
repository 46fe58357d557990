"""A frozen plan: what a launcher gets of it, and what keeps other runs out of its folder."""

import copy
import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloudpickle  # Hydra imports some plugins twice, and their classes are not those of modules
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.ablation.plan import Plan
from runner.config import check
from runner.errors import UserError
from runner.names import OUTPUTS, inside
from runner.run.status import is_run_of
from runner.store.files import read_json
from runner.store.identity import ADDED
from runner.store.runs import MACHINE, leads_out


def refuse_foreign_runs(root: Path, plan: Plan) -> None:
    """Refuse folders that hold other runs: they would be counted, or be in the way.

    Raises:
        UserError: If the config of a run there is not the planned one, with what differs.
    """
    for variant in plan.variants:
        for seed, planned in plan.digests(variant).items():
            folder = plan.folder(root, variant, seed)
            machine = None if leads_out(folder) else read_json(folder / MACHINE)[0]
            if (machine or {}).get("config", planned) != planned:
                is_run_of(folder, check(OmegaConf.create(plan.config_of(variant, seed))))
                raise UserError(
                    f"{folder} holds a run whose config is written in another way (1 for 1.0). "
                    "Remove that folder, and the run is done again."
                )


class Frozen:
    """Stands in for Hydra's loader: a launcher gets what was frozen, whatever the YAML says now.

    A job's overrides are `variant=V` and `seed=S`. Options that change no bit of a run (`again`,
    `resume`, ...) are no part of the plan, and may change each time.
    """

    def __init__(self, plan: Plan, again: bool, options: Mapping[str, Any]) -> None:
        self.plan, self.again, self.options = plan, again, options
        self._known: dict[tuple[str, bool], bytes] = {}
        self._hydra: bytes | None = None

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Give back the config of a run, with Hydra's node as the master has it.

        Raises:
            UserError: If a link leads its folder out of the output folder.
        """
        variant, seed = (override.partition("=")[2] for override in sweep_overrides)
        inside(OUTPUTS, self.plan.name, variant, f"seed={seed}")
        key = variant, self.again
        if key not in self._known:
            self._known[key] = cloudpickle.dumps(self._compose(master_config, variant))
        config = pickle.loads(self._known[key])  # ours; ten times as fast as deepcopy
        assert isinstance(config, DictConfig)
        config.seed = int(seed)
        config.hydra.overrides.task = list(sweep_overrides)
        config.hydra.sweep.subdir = f"{variant}/seed={seed}"
        return config

    def _compose(self, master_config: DictConfig, variant: str) -> DictConfig:
        """Give back the config of a variant's first run, but for what each run has of its own."""
        if self._hydra is None:
            hydra = copy.deepcopy(OmegaConf.masked_copy(master_config, "hydra"))
            OmegaConf.set_readonly(hydra.hydra, False)  # a launcher writes into it
            with open_dict(hydra):
                hydra.hydra.sweep.dir = f"{OUTPUTS}/{self.plan.name}"
            self._hydra = cloudpickle.dumps(hydra)
        options = {**self.options, "again": self.again}
        content = {**self.plan.config_of(variant, self.plan.seeds[0]), **options}
        config: DictConfig = pickle.loads(self._hydra)
        with open_dict(config):
            config.merge_with(OmegaConf.create(content))
        return config


def refuse_other(root: Path, before: Plan, now: Plan) -> Plan:
    """Give back the folder's plan, to resume it, if the plan that was asked for is the same.

    Where seeds are added until all is decided, the folder may have more of them, and the limit
    may change.

    Raises:
        UserError: If the plans differ, with what differs.
    """
    one, other = comparable(before), comparable(now)
    differing = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    if "ablation.until" in differing:  # what follows from it
        differing = [key for key in differing if key not in ("ablation.looks", "seeds")]
    if "variants" in differing:  # those of one side differ in all that they have
        here = tuple(f"{name}: " for name in before.variants if name in now.variants)
        known = tuple(f"{name}: " for name in {**before.variants, **now.variants})
        differing = [k for k in differing if not k.startswith(known) or k.startswith(here)]
    if not differing:
        return dataclasses.replace(before, question=now.question)
    listed = "; ".join(f"{k} is {one.get(k)}, not {other.get(k)}" for k in differing[:5])
    more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
    advice = ""
    if differing == ["seeds"]:
        advice = (
            " Seeds added after a look would spoil the error rate of a fixed design: start an "
            f"ablation with ablation.until=decided, on new seeds (seed={before.seeds[-1] + 1})."
        )
    raise UserError(
        f"{root} holds another ablation: {listed}{more}.{advice} "
        "Give this one a name of its own (name=NAME), or remove that folder."
    )


def comparable(plan: Plan) -> dict[str, Any]:
    """Give back what has to be the same of two plans for one to go on with the other."""
    fixed = {"seeds": list(plan.seeds)} if not plan.question.grows else {}
    changes = {f"{v}: {k}": value for v, each in plan.changes.items() for k, value in each.items()}
    return {
        **{f"ablation.{k}": v for k, v in vars(plan.question).items() if k != "most_seeds"},
        **fixed,
        "the first seed": plan.seeds[0],
        **ADDED,  # which a plan of an older version does not have
        **plan.config,
        "variants": sorted(plan.variants),
        **changes,
    }
