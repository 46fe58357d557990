"""From an ablation's config to its plan: every variant composed, checked and frozen."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from runner.ablation.designs import design
from runner.ablation.plan import Plan
from runner.config import Settings, check
from runner.errors import UserError
from runner.names import OUTPUTS, flatten, inside
from runner.run.status import is_run_of
from runner.store.runs import read_run
from runner.sweep.across import as_factors, find_across, lay_out_across
from runner.sweep.metrics import needed_for, refuse_unmeasured
from runner.sweep.order import Chooser, read_tricks
from runner.sweep.settings import AblationSettings, Levels, find_factors

RUN_KEYS = ("variant", "seed", "again")
"""The keys of a run that its place in the ablation gives it."""


class Composer(Chooser, Protocol):
    """What composes the variants, in a few compositions: the loader of `runner/cli/`."""

    def compose_variants(
        self, master: DictConfig, base: Sequence[str], variants: Mapping[str, Sequence[str]]
    ) -> dict[str, DictConfig]:
        """Compose each variant by the overrides of all and its own."""


def make_plan(
    settings: AblationSettings,
    master: DictConfig,
    loader: Composer,
    arguments: Sequence[str],
    threads: int,
    command: str,
    epochs: Mapping[str, float] = MappingProxyType({}),
) -> Plan:
    """Lay out the design, and compose and check the config of every variant.

    Args:
        settings: The ablation's.
        master: The composed config, with Hydra's node.
        loader: Composes the variants.
        arguments: The overrides that were typed.
        threads: CPU threads of a run, where the config leaves them open.
        command: What was typed, for the report.
        epochs: Of variants that train for other than the config's.

    Raises:
        UserError: If a variant's config is wrong, two variants are the same run, or a setting
            would have no effect in any of them.
    """
    tricks = read_tricks(master, loader, arguments, as_typed=settings.design == "cumulative")
    factors, levels = find_factors(settings, tricks)
    across = find_across(settings, tricks, levels)
    laid_out = lay_out_across(design(settings.design, factors), across)
    factors, levels = (*factors, *as_factors(across)), {**levels, **across}
    base = _base(arguments, levels, OverridesParser.create(cast(Any, loader)))
    if master.threads == "auto":
        base.append(f"threads={threads}")
    base += needed_for(settings.metric, master)
    rows = {
        variant: [o for f, label in zip(factors, row, strict=True) for o in levels[f.name][label]]
        for variant, row in laid_out.variants.items()
    }
    for variant, length in epochs.items():
        rows[variant].append(f"epochs={length}")
    composed = loader.compose_variants(master, base, rows)
    for config in composed.values():
        with open_dict(config):
            config.pop("ablation", None)  # an experiment may have chosen it
            config.name = master.name
    _refuse_unused(list(composed.values()), base)
    flat = {variant: _flat(check(config)) for variant, config in composed.items()}
    _refuse_twins(flat)
    first = next(iter(flat.values()))
    refuse_unmeasured(settings.metric, flat)
    return Plan(
        name=str(master.name),
        question=settings.question,
        seeds=settings.numbers(int(master.seed)),
        factors=factors,
        across=tuple(across),
        variants=laid_out.variants,
        contrasts=laid_out.contrasts,
        config=first,
        changes={name: _difference(first, values) for name, values in flat.items()},
        command=command,
    )


def _base(
    arguments: Sequence[str], levels: Mapping[str, Levels], parser: OverridesParser
) -> list[str]:
    """Give back the overrides that hold for every variant."""
    overrides = [o for each in levels.values() for level in each.values() for o in level]
    keys = {override.partition("=")[0] for override in overrides}
    varied = {*levels, *(key for key in keys if not key.endswith(".enabled"))}
    kept = []
    for override in parser.parse_overrides(list(arguments)):
        key, line = override.key_or_group, str(override.input_line)
        of_ablation = key == "ablation" or key.startswith("ablation.")
        if of_ablation and not override.is_sweep_override():
            continue
        if override.is_sweep_override():
            values = ",".join(override.sweep_string_iterator())
            remedy = f"Make it a factor: 'ablation.factors={{{key}:[{values}]}}'."
            if key == "seed":
                remedy = f"Give their list: 'ablation.seeds=[{values}]'."
            elif of_ablation:
                remedy = f"Write a list as '{key}=[{values}]'."
            raise UserError(f"{key} has several values ({values}) in an ablation. {remedy}")
        if key in varied:
            raise UserError(
                f"{key} is given as {line} and varied by the ablation too (ablation.factors or "
                "ablation.across). Drop one of them."
            )
        kept.append(line)
    return kept


def _refuse_unused(configs: Sequence[DictConfig], overrides: Sequence[str]) -> None:
    """Refuse an override that no variant would use."""
    for override in overrides:
        if not override.lstrip("+~").startswith(("tricks.", "scheduler")):
            continue  # check() judges no other by the command line
        refusal = None
        for config in configs:
            try:
                check(config, [override])
                break
            except UserError as error:
                refusal = error
        else:
            if refusal:
                raise refusal


def _refuse_twins(flat: Mapping[str, Mapping[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for variant, values in flat.items():
        text = repr(sorted(values.items(), key=lambda item: item[0]))
        if text in seen:
            raise UserError(
                f"{variant} and {seen[text]} have the same config. "
                "Drop the level that changes nothing."
            )
        seen[text] = variant


def _flat(settings: Settings) -> dict[str, Any]:
    return {k: v for k, v in flatten(settings.to_dict()) if k not in RUN_KEYS}


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    changed = {k: v for k, v in other.items() if k not in one or one[k] != v}
    return {**changed, **{f"~{k}": None for k in one if k not in other}}


def refuse_foreign_runs(root: Path, plan: Plan) -> None:
    """Refuse folders that hold other runs: they would be counted, or be in the way.

    Raises:
        UserError: If the config of a run there is not the planned one, with what differs.
    """
    for variant in plan.variants:
        for seed, planned in plan.digests(variant).items():
            run = read_run(plan.folder(root, variant, seed), variant)
            if run.machine.get("config", planned) != planned:
                is_run_of(run.folder, check(OmegaConf.create(plan.config_of(variant, seed))))
                raise UserError(
                    f"{run.folder} holds a run whose config is written in another way (1 for 1.0). "
                    "Remove that folder, and the run is done again."
                )


class Frozen:
    """Stands in for Hydra's loader: a launcher gets what was frozen, whatever the YAML says now.

    A job's overrides are `variant=V` and `seed=S`. Options that change no bit of a run (`again`,
    `resume`, ...) are no part of the plan, and may change each time.
    """

    def __init__(self, plan: Plan, again: bool, options: Mapping[str, Any]) -> None:
        self.plan, self.again, self.options = plan, again, options

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Give back the config of a run, with Hydra's node as the master has it.

        Raises:
            UserError: If a link leads its folder out of the output folder.
        """
        variant, seed = (override.partition("=")[2] for override in sweep_overrides)
        inside(OUTPUTS, self.plan.name, variant, f"seed={seed}")
        hydra = copy.deepcopy(OmegaConf.masked_copy(master_config, "hydra"))
        OmegaConf.set_readonly(hydra.hydra, False)  # a launcher writes into it
        with open_dict(hydra):
            hydra.hydra.overrides.task = list(sweep_overrides)
            hydra.hydra.sweep.dir = str(master_config.hydra.sweep.dir)
            hydra.hydra.sweep.subdir = f"{variant}/seed={seed}"
        options = {**self.options, "again": self.again}
        config = OmegaConf.create({**self.plan.config_of(variant, int(seed)), **options})
        merged = OmegaConf.merge(hydra, config)
        assert isinstance(merged, DictConfig)
        return merged


def refuse_other(root: Path, before: Plan, now: Plan) -> Plan:
    """Give back the folder's plan, to resume it, if the plan that was asked for is the same.

    Where seeds are added until all is decided, the folder may have more of them, and the limit
    may change.

    Raises:
        UserError: If the plans differ, with what differs.
    """
    one, other = _comparable(before), _comparable(now)
    differing = [key for key in {**one, **other} if one.get(key) != other.get(key)]
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


def _comparable(plan: Plan) -> dict[str, Any]:
    fixed = {"seeds": list(plan.seeds)} if not plan.question.grows else {}
    changes = {f"{v}: {k}": value for v, each in plan.changes.items() for k, value in each.items()}
    return {
        **{f"ablation.{k}": v for k, v in vars(plan.question).items() if k != "most_seeds"},
        **fixed,
        "the first seed": plan.seeds[0],
        **plan.config,
        "variants": sorted(plan.variants),
        **changes,
    }
