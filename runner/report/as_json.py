"""report.json: everything, as plain values for a program."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from runner.ablation.verdicts import Findings
from runner.report.where import Where, per_class
from runner.store.runs import Run


def content(findings: Findings, where: Where | None = None) -> dict[str, Any]:
    """Give back all findings as plain values; of each run what its files say, without curves."""
    fields = {f.name: getattr(findings, f.name) for f in dataclasses.fields(findings)}
    fields.pop("root")
    runs = fields.pop("runs").values()
    return {
        "kind": "ablation",
        "decided": findings.decided,
        **plain(fields),
        "per_class": per_class(where) if where else {},
        "runs": run_list(findings.root, runs),
    }


def run_list(root: Path, runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Give back each run with its state, its numbers and what went wrong."""
    return [
        {
            "folder": str(_below(run.folder, root)),
            "variant": run.variant,
            "seed": run.seed,
            "state": run.state,
            "damage": run.damage,
            "status": plain(run.status),
            "result": plain(run.result),
            "made_with": plain(run.machine),
        }
        for run in runs
    ]


DEEPEST = 12  # levels; runs and findings have fewer


def plain(value: Any, depth: int = 0) -> Any:  # noqa: ANN401
    """Turn dataclasses, tuples and mappings into what JSON knows; None for what it does not."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == DEEPEST:
        return None
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name), depth + 1) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, depth + 1) for entry in value]
    return str(value)


def _below(folder: Path, root: Path) -> Path:
    return folder.relative_to(root) if folder.is_relative_to(root) else folder
