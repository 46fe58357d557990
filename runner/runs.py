"""Runs as their files tell them: read, never executed; also while they are still being written."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESULT, STATUS, MACHINE = "result.json", "status.json", "run.json"
METRICS, CORRECT = "metrics.jsonl", "correct.npy"


@dataclass(frozen=True)
class Run:
    """The files of one run; the larger ones are read when they are asked for."""

    folder: Path
    variant: str
    seed: str
    """As the folder is called: `0`, or `2` of `seed=2`."""
    status: dict[str, Any]
    """{} if status.json is missing or damaged."""
    result: dict[str, Any] | None
    """None if the run is not done, or result.json is missing or damaged."""
    damage: str | None
    """What could not be read, in words; None if all could."""

    @property
    def state(self) -> str:
        """`done`, `running`, `stopped`, `failed`, `diverged`; `damaged` if it cannot be told."""
        if self.result is not None:
            return "done"
        found = str(self.status.get("status", "damaged"))
        return "damaged" if found == "done" or self.damage else found

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Its evaluations; a line that is cut short is left out."""
        return read_metrics(self.folder)

    @cached_property
    def machine(self) -> dict[str, Any]:
        """run.json: with what it was made."""
        content, _ = _read(self.folder / MACHINE)
        return content or {}

    def correct(self) -> NDArray[np.bool_] | None:
        """[N] bool: which test samples were answered right; None if that cannot be read."""
        try:
            found = np.load(self.folder / CORRECT, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if found.ndim == 1 and found.dtype == np.bool_ else None


def read_run(folder: Path, variant: str) -> Run:
    """Read a run's folder; whatever is missing or damaged is told, not raised."""
    status, broken = _read(folder / STATUS)
    result, cut = _read(folder / RESULT)
    damage = "; ".join(text for text in (broken, cut) if text) or None
    return Run(folder, variant, folder.name.partition("=")[2], status or {}, result, damage)


def find_runs(folder: Path) -> Iterator[Run]:
    """Find the runs below a folder, by their status files."""
    for path in sorted(folder.rglob(STATUS)):
        place = path.parent
        variant = os.path.relpath(place.parent, folder)
        yield read_run(place, place.parent.name if variant in (".", "..") else variant)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the evaluations of a run; a last line cut short by a crash is left out."""
    path = folder / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _read(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A JSON file and nothing, or nothing and what is wrong with it; neither if it is not there."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None, None
    except (ValueError, OSError) as error:
        return None, f"{path.name} is damaged ({error})"
    if not isinstance(content, dict):
        return None, f"{path.name} is damaged (not an object)"
    return content, None
