"""Whether a stopped run may resume here: only where it stays bit-identical to an uninterrupted one.

What must be the same is declared in one place, `bits_depend_on` of runner/run/fingerprint.py,
beside the config and the data. `resume=anywhere` resumes all the same, and run.json records it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.build import Bench
from runner.config import Settings
from runner.errors import UserError
from runner.names import label
from runner.run.fingerprint import bits_depend_on, digest_tensors
from runner.texts import say


def environment(settings: Settings, bench: Bench, machine: Mapping[str, Any]) -> dict[str, str]:
    """Tell what a stopped run must find again, beside its config, to go on to the same bits."""
    splits = (bench.data.train, bench.data.validation, bench.data.test)
    tensors = {f"{i}/{name}": t for i, s in enumerate(splits) for name, t in s._asdict().items()}
    return {
        "data": digest_tensors(tensors),
        **bits_depend_on(machine, settings.model["_target_"]),
    }


def restore(
    folder: Path, settings: Settings, bench: Bench, state: Mapping[str, Any], here: dict[str, str]
) -> list[str]:
    """Take back a checkpoint's state, if the run may go on here.

    Args:
        folder: The folder of the run.
        settings: Its config.
        bench: Its objects, newly built; they change in place.
        state: What `runner.run.checkpoint.load` gave back.
        here: What `made_with` tells of this place.

    Returns:
        In words, where the run went on elsewhere than it had begun, if it ever did.

    Raises:
        UserError: If it may not, or the checkpoint is not one of this run.
    """
    try:
        saved = dict(state["made_with"])
        moves = [str(move) for move in state.get("moves", ())]
        updates, most = state["training"]["updates"], settings.epochs * len(bench.batches)
        if type(updates) is not int or not 0 <= updates <= most:
            raise ValueError(f"it has {updates} updates behind it, of {most}")
        differing = [key for key in {**saved, **here} if saved.get(key) != here.get(key)]
        told = [f"{k} was {_short(saved.get(k))}, is {_short(here.get(k))}" for k in differing]
        if "data" in differing or (differing and settings.resume == "exact"):
            _refuse(folder, told, other_data="data" in differing)
        if differing:
            moves.append(f"from update {updates}: {'; '.join(told)}")
            say(f"{label(folder)}  goes on elsewhere: {'; '.join(told)}")
        bench.training.load_state_dict(state["training"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{label(folder)} must hold a checkpoint of this run, got one that does not fit it: "
            f"{' '.join(str(error).split())[:300]}. Begin anew with again=true."
        ) from error
    return moves


def _refuse(folder: Path, told: list[str], other_data: bool) -> None:
    remedy = "" if other_data else ", or accept other bits from here on with resume=anywhere"
    raise UserError(
        f"{label(folder)} must go on with what it began with, got another: {'; '.join(told)}. "
        f"Go on where it began, begin anew with again=true{remedy}."
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 64 else text[:12]
