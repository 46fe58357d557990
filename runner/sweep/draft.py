"""From an ablation's config to its plan: the design laid out, its variants composed and checked."""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict

from runner.ablation.designs import design
from runner.ablation.plan import Plan
from runner.ablation.tuning import Tuned
from runner.auto import choose, is_open, settle
from runner.build import build_data
from runner.config import Settings, check
from runner.data import DataSet
from runner.errors import UserError
from runner.names import flatten
from runner.quoting import literal
from runner.sweep.across import as_factors, find_across, lay_out_across
from runner.sweep.metrics import needed_for, refuse_unmeasured
from runner.sweep.order import Chooser, read_tricks
from runner.sweep.settings import AblationSettings, find_factors

NOTHING: Mapping[str, Any] = MappingProxyType({})

WITHOUT_NETWORK = ("optimizer", "scheduler", "loss", "epochs")
"""Settings that change nothing of a network."""

RUN_KEYS = ("variant", "seed", "again")
"""The keys of a run that its place in the ablation gives it."""


class Composer(Chooser, Protocol):
    """What composes the variants, in a few compositions: the loader of `runner/cli/`."""

    def compose_variants(
        self, master: DictConfig, base: Sequence[str], variants: Mapping[str, Sequence[str]]
    ) -> dict[str, DictConfig]:
        """Compose each variant by the overrides of all and its own."""

    def folders(self) -> list[Path]:
        """Name the folders in which configs are looked for."""


class Draft:
    """An ablation laid out: its variants by their overrides, before they are composed.

    Args:
        settings: The ablation's.
        master: The composed config, with Hydra's node.
        loader: Composes the variants.
        arguments: The overrides that were typed.
        cores: The cores that a run may use.
        elsewhere: Whether the runs are done on other machines than this.
        chosen: What was chosen before of what the config leaves open; None to choose it.

    Raises:
        UserError: If the design cannot be laid out, or something is given twice.
    """

    def __init__(
        self,
        settings: AblationSettings,
        master: DictConfig,
        loader: Composer,
        arguments: Sequence[str],
        cores: int,
        elsewhere: bool = False,
        chosen: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.master, self.loader = settings, master, loader
        tricks = read_tricks(master, loader, arguments, as_typed=settings.design == "cumulative")
        factors, levels = find_factors(settings, tricks)
        across = find_across(settings, tricks, levels)
        self.design = lay_out_across(design(settings.design, factors), across)
        self.factors, levels = (*factors, *as_factors(across)), {**levels, **across}
        self.across = tuple(across)
        overrides = [o for each in levels.values() for level in each.values() for o in level]
        keys = {override.partition("=")[0] for override in overrides}
        varied = {*levels, *(key for key in keys if not key.endswith(".enabled"))}
        tuned = check_grid(settings.tune or {}, varied)
        self.base = _base(arguments, varied, tuned, OverridesParser.create(cast(Any, loader)))
        self.cores, self.elsewhere, self.chosen = cores, elsewhere, chosen
        self.base += needed_for(settings.metric, master)
        self._checked = dict[tuple[str, ...], Settings]()
        self.rows = {
            variant: [
                o for f, label in zip(self.factors, row, strict=True) for o in levels[f.name][label]
            ]
            for variant, row in self.design.variants.items()
        }

    def compose(self, rows: Mapping[str, Sequence[str]]) -> dict[str, DictConfig]:
        """Compose a config for each of some rows of overrides."""
        composed = self.loader.compose_variants(self.master, self.base, rows)
        for config in composed.values():
            with open_dict(config):
                config.pop("ablation", None)  # an experiment may have chosen it
                config.name = self.master.name
        return composed

    def check(self, rows: Mapping[str, Sequence[str]]) -> dict[str, Settings]:
        """Compose and check each of some rows, with what was chosen for all; no row twice."""
        new = {name: row for name, row in rows.items() if tuple(row) not in self._checked}
        for name, config in (self.compose(new) if new else {}).items():
            self._checked[tuple(new[name])] = check(config)
        known = {name: self._checked[tuple(row)] for name, row in rows.items()}
        return {name: settle(each, self.chosen or {}) for name, each in known.items()}

    def _choose(self, variants: Sequence[Settings]) -> dict[str, Any]:
        """Choose once for all runs what the variants leave open; trials of the tuning count."""
        if not any(map(is_open, variants)):
            return {}
        tried = [
            [*row, *write_overrides({key: value})]
            for row in self.rows.values()
            for key, values in (self.settings.tune or {}).items()
            if not key.startswith(WITHOUT_NETWORK)
            for value in values
        ]
        composed = self.compose({str(number): row for number, row in enumerate(tried)})
        runs, sets = list[tuple[Settings, DataSet]](), dict[str, DataSet]()
        for row, config in zip(tried, composed.values(), strict=True):
            with suppress(UserError):  # which is raised where the trials are planned
                self._checked[tuple(row)] = check(config)
        for settings in (*variants, *self._checked.values()):
            with suppress(UserError):  # which is raised where the runs are built
                if (key := repr(settings.data)) not in sets:
                    sets[key] = build_data(settings)
                runs.append((settings, sets[key]))
        return choose(runs, self.cores, self.elsewhere) if runs else {}

    def plan(
        self,
        command: str,
        tuned: Mapping[str, Tuned] = NOTHING,
        epochs: Mapping[str, float] = NOTHING,
    ) -> Plan:
        """Compose and check the config of every variant.

        Args:
            command: What was typed, for the report.
            tuned: What was tuned; each variant gets what was chosen for it.
            epochs: Of variants that train for other than the config's.

        Raises:
            UserError: If a variant's config is wrong, two variants are the same run, or a setting
                would have no effect in any of them.
        """
        rows = {name: [*row] for name, row in self.rows.items()}
        for name, each in tuned.items():
            rows[name] += write_overrides(each.best.values)
        for name, length in epochs.items():
            rows[name] += write_overrides({"epochs": length})
        composed = self.compose(rows)
        _refuse_unused(list(composed.values()), self.base)
        checked = {variant: check(config) for variant, config in composed.items()}
        if self.chosen is None:
            self.chosen = self._choose([*checked.values()])
        flat = {name: flat_values(settle(each, self.chosen)) for name, each in checked.items()}
        _refuse_twins(flat)
        refuse_unmeasured(self.settings.metric, flat)
        first = next(iter(flat.values()))
        return Plan(
            name=str(self.master.name),
            question=self.settings.question,
            seeds=self.settings.numbers(int(self.master.seed)),
            factors=self.factors,
            across=self.across,
            variants=self.design.variants,
            contrasts=self.design.contrasts,
            config=first,
            changes={name: difference(first, values) for name, values in flat.items()},
            command=command,
            tuned={**tuned},
        )


def write_overrides(values: Mapping[str, Any]) -> list[str]:
    """Write settings as Hydra's overrides."""
    return [f"{key}={literal(value)}" for key, value in values.items()]


def check_grid(grid: Mapping[str, Sequence[Any]], varied: Collection[str]) -> Mapping[str, Any]:
    """Check what is to be tuned.

    Raises:
        UserError: If a key is a factor too, cannot be tuned, or has fewer than two values.
    """
    for key, values in grid.items():
        if key in varied:
            raise UserError(
                f"{key} is varied by the ablation and tuned by ablation.tune too. All values of a "
                "factor are judged, of what is tuned the best alone: drop one of them."
            )
        if key in ("name", *RUN_KEYS) or key.endswith(".enabled"):
            raise UserError(
                f"ablation.tune cannot choose {key}: it says which run it is, or what is judged. "
                "Tune settings, such as optimizer.lr."
            )
        texts = [json.dumps(float(v) if type(v) is int else v) for v in values]
        if len(texts) < 2 or len({*texts}) < len(texts):
            raise UserError(
                f"ablation.tune.{key} must have two different values or more, got "
                f"{json.dumps(values)}."
            )
    return grid


def _base(
    arguments: Sequence[str],
    varied: Collection[str],
    tuned: Collection[str],
    parser: OverridesParser,
) -> list[str]:
    """Give back the overrides that hold for every variant."""
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
        if key in varied or key in tuned:
            by = "tuned by ablation.tune" if key in tuned else "varied by the ablation"
            where = "" if key in tuned else " (ablation.factors or ablation.across)"
            raise UserError(f"{key} is given as {line} and {by} too{where}. Drop one of them.")
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


def flat_values(settings: Settings) -> dict[str, Any]:
    """Give back the settings of a run by dotted keys, without those of its place."""
    return {k: v for k, v in flatten(settings.to_dict()) if k not in RUN_KEYS}


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Give back what the second has otherwise than the first; `~key` for what it lacks."""
    changed = {k: v for k, v in other.items() if k not in one or one[k] != v}
    return {**changed, **{f"~{k}": None for k in one if k not in other}}
