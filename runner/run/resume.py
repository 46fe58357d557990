"""Whether a stopped run may resume here: only where it stays bit-identical to an uninterrupted one.

What must be the same is declared in one place, `bits_depend_on` of runner/run/fingerprint.py,
beside the config and the data. `resume=anywhere` resumes all the same, and run.json records it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.build import Bench
from runner.config import Settings
from runner.data.remembered import remembered
from runner.errors import Unfit, UserError
from runner.names import label
from runner.run.fingerprint import bits_depend_on, digest_tensors
from runner.run.status import command
from runner.store.files import Damaged, checked, read_json
from runner.store.identity import FORMATS, renamed
from runner.store.runs import CONFIG, MACHINE
from runner.store.values import read_values
from runner.texts import printable, say


def begun_with(folder: Path) -> dict[str, Any]:
    """Give back what the run in a folder has of what `auto` chooses; {} if there is none."""
    try:
        found = renamed(checked(read_values(folder / CONFIG)))
    except (FileNotFoundError, Damaged):  # which `is_run_of` reports
        return {}
    threads, memory_format = found.get("threads"), found.get("memory_format")
    sound = type(threads) is int and 1 <= threads <= 1024
    return {
        **({"threads": threads} if sound else {}),
        **({"memory_format": memory_format} if memory_format in FORMATS.values() else {}),
    }


def device_begun_with(folder: Path, settings: Settings) -> str:
    """Give back the device to resume on: with `auto`, the CPU if the run was begun there."""
    is_open = settings.device == "auto" and settings.resume == "exact" and not settings.again
    begun = (read_json(folder / MACHINE)[0] or {}).get("device") if is_open else None
    return "cpu" if begun == "cpu" and torch.cuda.is_available() else settings.device


def environment(bench: Bench, machine: Mapping[str, Any]) -> dict[str, str]:
    """Give back what the bits of a run depend on beside its config: data, code, hardware."""
    splits = (bench.data.train, bench.data.validation, bench.data.test)
    tensors = dict[str, Tensor | Iterable[Tensor]]()
    for number, split in enumerate(splits):
        tensors |= {f"{number}/images": split.chunks(), f"{number}/labels": split.labels}
    loaded = digest_tensors(bench.training.model.state_dict()) if bench.has_loaded else None
    read = {"the first weights": loaded} if loaded else {}
    data = remembered(splits, "digest", lambda: digest_tensors(tensors))
    return {"data": data, **read, **bits_depend_on(machine)}


def restore(
    folder: Path, settings: Settings, bench: Bench, state: Mapping[str, Any], here: dict[str, str]
) -> list[str]:
    """Restore a checkpoint's state, if the run may resume here.

    Returns:
        The changes of the environment since the run began, in words.

    Raises:
        UserError: If the run may not resume here, or the checkpoint is of another run.
    """
    try:
        saved = dict(state["made_with"])
        changes = [str(change) for change in state.get("moves", ())]
        updates, total = state["training"]["updates"], settings.updates(len(bench.batches))
        if type(updates) is not int or not 0 <= updates <= total:
            raise ValueError(f"it is from update {updates} of {total}")
        # an older checkpoint lacks some of them
        if differing := [key for key in saved if saved[key] != here.get(key)]:
            pairs = ((key, _short(saved.get(key)), _short(here.get(key))) for key in differing)
            listed = printable("; ".join(f"{key} changed ({a} -> {b})" for key, a, b in pairs))
            if "data" in differing or settings.resume == "exact":
                remedy = f"To restart it: {command(folder, 'again=true')}"
                if "data" not in differing:
                    anywhere = command(folder, "++resume=anywhere")
                    remedy += f"; to resume it with other bits: {anywhere}"
                raise Unfit(f"Cannot resume {label(folder)}: {listed}. {remedy}")
            changes.append(f"from update {updates}: {listed}")
            say(f"{label(folder)}  resuming, although {listed}")
        bench.training.load_state_dict(state["training"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"Cannot resume {label(folder)}: its checkpoint does not fit this run "
            f"({' '.join(str(error).split())[:300]}). "
            f"To restart it: {command(folder, 'again=true')}"
        ) from error
    return changes


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else printable(text, 200)
