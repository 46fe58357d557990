"""The command `python -m runner.verify RUN [RUN ...]`: does a run again, and compares every bit.

The run that its config.yaml describes is done once more in a temporary folder, on the same device.
Then are compared: each number of metrics.jsonl but those of time, each of result.json, the digest
of the weights, and which test samples were answered right. The run's own folder is only read, and
nothing in it is executed. Where a bit differs, it says which, and what has changed since.
"""

import argparse
import dataclasses
import io
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.build import build, find_device
from runner.compare import changes, count, differences
from runner.compose import flatten
from runner.config import Settings, check
from runner.errors import UserError
from runner.files import FORMAT, digest
from runner.folder import CONFIG, label
from runner.report.words import printable
from runner.run import attempt
from runner.runs import CORRECT, MACHINE, METRICS, RESULT, STATUS, Run, read_run


@dataclass(frozen=True)
class Comparison:
    """What came of doing a run again."""

    compared: str
    """How much there was to compare."""
    difference: str | None
    """What differs first; None if every bit is the same."""
    changed: tuple[str, ...]
    """What is not as it was when the run was made, and so may be why."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify each run, and exit with 1 if one is not the same, or cannot be verified."""
    parser = argparse.ArgumentParser(
        prog="python -m runner.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="NAME/VARIANT/seed=S")
    mistakes = []
    for folder in parser.parse_args(arguments).runs:
        try:
            found = verify(folder)
        except UserError as error:
            mistakes.append(printable(error))
        except KeyboardInterrupt:
            sys.exit(130)
        else:
            if found.difference is None:
                print(printable(f"{label(folder)} equal to the bit: {found.compared}"), flush=True)
                continue
            mistakes.append(printable(f"{label(folder)} differs: {found.difference}"))
            mistakes += [f"  changed: {printable(what)}" for what in found.changed or (UNKNOWN,)]
    if mistakes:
        sys.exit("\n".join(mistakes))


UNKNOWN = "nothing that run.json tells of: so a file was, or the run does not repeat itself"


def verify(folder: Path) -> Comparison:
    """Do a run again, and compare it with what is saved of it.

    Args:
        folder: The folder of the run, which is only read.

    Raises:
        UserError: If the run is not done, cannot be read, or cannot be done again here.
    """
    saved = _read(folder)
    given = _read_config(folder / CONFIG)
    settings = _on_its_device(folder, given, saved.machine)
    with tempfile.TemporaryDirectory(prefix="biscuits-verify-") as name:
        place = Path(name)
        ended = _do_again(folder, place, settings)
        again = read_run(place, saved.variant)
        difference = ended or next(differences(saved, again), None)
        # the config as it was given, without the device that was filled in
        changed = changes(saved, again, digest(given.to_dict())) if difference else ()
        return Comparison(count(saved), difference, tuple(changed))


def _read(folder: Path) -> Run:
    """Read what is saved of a run, all that will be compared."""
    where, run = label(folder), read_run(folder, folder.parent.name)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{where} must be the folder of a run, got one without {CONFIG}. "
            "Give a folder as outputs/NAME/VARIANT/seed=0."
        )
    if run.damage is None and run.state != "done":
        state = "nothing that tells how it ended" if run.state == "damaged" else run.state
        raise UserError(
            f"{where} must be done, got {state}. Go on with it by the command that began it."
        )
    damage = run.damage
    for name, content in ((RESULT, run.result), (MACHINE, run.machine), (STATUS, run.status)):
        if content and content.get("format") != FORMAT:
            raise UserError(
                f"{label(folder / name)} must be of format {FORMAT}, got {content.get('format')}. "
                "Verify the run with the version that wrote it."
            )
    try:
        if not all(isinstance(line, dict) for line in run.metrics):
            damage = f"{METRICS} is damaged (a line is not an object)"
    except (ValueError, OSError) as error:
        damage = f"{METRICS} is damaged ({error})"
    if damage is None and run.correct() is None:
        damage = f"{CORRECT} is damaged or not there"
    if damage is not None:
        raise UserError(f"{where} must be whole, got one where {damage}. Do it over: again=true.")
    return run


def _read_config(path: Path) -> Settings:
    """Read config.yaml as data: nothing of Hydra's or OmegaConf's own is followed in it."""
    where = label(path)
    try:
        config, text = OmegaConf.load(path), path.read_text()
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{where} must be YAML, got {error}. Put it back as it was.") from None
    if not isinstance(config, DictConfig):
        raise UserError(f"{where} must be a mapping, got another. Put it back as it was.")
    keys = {key for key, _ in flatten(OmegaConf.to_container(config, resolve=False))}
    own = {part for key in keys for part in key.split(".") if part.startswith("_")}
    for odd in (*sorted(own - {"_target_"}), *re.findall(r"\$\{.*", text)):
        raise UserError(f"{where} must be resolved, got {odd}. Put it back as it was.")
    try:
        return check(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _on_its_device(folder: Path, settings: Settings, machine: Mapping[str, Any]) -> Settings:
    """Take the device that the run was made on, where its config leaves that open."""
    if settings.device == "auto":
        settings = dataclasses.replace(settings, device=str(machine.get("device", "auto")))
    try:
        find_device(settings.device)
    except UserError:
        raise UserError(
            f"{label(folder)} must be done again on {settings.device}, where it was made, got a "
            "machine that has none. Verify it on one that has: another device rounds otherwise."
        ) from None
    return settings


def _do_again(folder: Path, place: Path, settings: Settings) -> str | None:
    """Do the run in another folder; give back how it ended if it came to no result."""
    try:
        bench = build(settings)
    except UserError as error:
        raise UserError(f"{label(folder)} cannot be done again: {error}") from error
    try:
        with redirect_stdout(io.StringIO()):  # it would tell of a folder that will be gone
            attempt(place, settings, bench, quiet=False)
    except UserError as error:
        return f"it was done, and fails now: {error.__cause__ or error}"
    return None


if __name__ == "__main__":
    main()
