"""The command `python -m runner.verify RUN [RUN ...]`: does a run again, and compares every bit.

The run is done again from its config.yaml, in a temporary folder and on the same device. Compared
are each number of metrics.jsonl but the times, each number of result.json, the digest of the
weights, and which test samples were answered right. The run's own folder is only read, and
nothing in it is executed. Where a bit differs, it says which, and what has changed since.
"""

import argparse
import dataclasses
import io
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from os.path import lexists
from pathlib import Path
from shlex import quote
from typing import Any

from runner.ablation.table import find_damage
from runner.build import build
from runner.config import Settings
from runner.device import find_device
from runner.errors import UserError
from runner.names import label
from runner.ranks import Elsewhere, Ranks, joined
from runner.run.attempt import attempt
from runner.run.compare import changes, count, differences
from runner.run.process import isolated
from runner.run.saved import read_settings
from runner.run.status import command
from runner.store.files import FORMAT
from runner.store.identity import digest_config
from runner.store.packed import is_packed
from runner.store.runs import CONFIG, CORRECT, MACHINE, RESULT, STATUS, Run, read_run
from runner.terminal import terminal
from runner.texts import printable, say
from runner.torchrun import counted


@terminal()
def main(arguments: Sequence[str] | None = None) -> None:
    """Verify each run, and exit with 1 if one is not the same, or cannot be verified."""
    parser = argparse.ArgumentParser(
        prog="python -m runner.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="outputs/NAME/VARIANT/seed=S"
    )
    mistakes, has_failed = list[str](), False
    for folder in parser.parse_args(arguments).runs:
        try:
            mistakes += verify(folder)
        except UserError as error:
            mistakes.append(printable(str(error), LONGEST))
        except Elsewhere:
            has_failed = True  # which another rank tells, and all go on to the next run
        except KeyboardInterrupt:
            sys.exit(130)
    if mistakes or has_failed:
        sys.exit("\n".join(mistakes) or 1)


LONGEST, MOST = 1000, 40  # characters of a line, and lines about what has changed
UNKNOWN = "nothing that run.json records: a file was edited, or the run is not deterministic"


def verify(folder: Path) -> list[str]:
    """Do a run again, and compare it with what is saved of it.

    Args:
        folder: The folder of the run, which is only read.

    Returns:
        The first difference and what may be the reason, each as a line; none if every bit is the
        same, which is printed.

    Raises:
        UserError: If the run is not done, cannot be read, or cannot be done again here.
    """
    with tempfile.TemporaryDirectory(prefix="biscuits-verify-") as name:
        place = Path(name)
        with isolated(), joined() as ranks:
            saved, given, settings = ranks.together(partial(_prepared, folder))
            ended = _do_again(folder, place, settings, ranks)
        if not ranks.is_first:
            return []
        again = read_run(place, saved.variant)
        difference = ended or next(differences(saved, again), None)
        if difference is None:
            say(f"{label(folder)} is bit-identical: {count(saved)}")
            return []
        # the config as it was given, without the device that was filled in
        reasons = [*changes(saved, again, digest_config(given.to_dict()))][:MOST] or [UNKNOWN]
        lines = (f"{label(folder)} differs: {difference}", *(f"  changed: {r}" for r in reasons))
        return [printable(line, LONGEST) for line in lines]


def _prepared(folder: Path) -> tuple[Run, Settings, Settings]:
    """Read a run, its config, and the same with its device filled in."""
    saved, given = _read(folder), read_settings(folder / CONFIG)
    settings = _on_its_device(folder, given, saved.machine)
    _refuse_other_ranks(folder, saved.machine)
    return saved, given, settings


def _read(folder: Path) -> Run:
    """Read all that will be compared."""
    where, run = label(folder), read_run(folder, folder.parent.name)
    if not lexists(folder / CONFIG) and not is_packed(folder):
        raise UserError(
            f"{where} is not the folder of a run: it has no {CONFIG}. "
            "Expected a folder such as outputs/NAME/VARIANT/seed=0."
        )
    if run.damage is None and run.state != "done":
        state = "its status is unknown" if run.state == "damaged" else run.state
        raise UserError(
            f"{where} is not done ({state}). Finish it with the command that started it."
        )
    damage = find_damage(run, thorough=True)
    if run.correct() is None:
        damage.append(f"{CORRECT} is damaged or not there")
    if damage:
        raise UserError(
            f"{where} is damaged: {damage[0]}. Verify it with the version that wrote it, or "
            f"do it again: {command(folder, 'again=true')}"
        )
    for name, content in ((RESULT, run.result), (MACHINE, run.machine), (STATUS, run.status)):
        if content and content.get("format") != FORMAT:
            raise UserError(
                f"{label(folder / name)} has format {content.get('format')}; this version reads "
                f"{FORMAT}. Verify the run with the version that wrote it."
            )
    return run


def _on_its_device(folder: Path, settings: Settings, machine: Mapping[str, Any]) -> Settings:
    """Fill in the device that the run was made on, where its config leaves that open."""
    if settings.device == "auto":
        device = str(machine.get("device", "auto"))
        device = device.partition(":")[0] if counted() > 1 else device  # each rank has its own card
        settings = dataclasses.replace(settings, device=device)
    try:
        find_device(settings.device)
    except UserError:
        raise UserError(
            f"{label(folder)} was made on {settings.device}, which is not here. Verify it on a "
            "machine that has one: another device rounds differently."
        ) from None
    return settings


def _refuse_other_ranks(folder: Path, machine: Mapping[str, Any]) -> None:
    """Refuse to verify a run with another number of ranks, which rounds differently."""
    if (made := machine.get("ranks", 1)) != counted():
        start = f"torchrun --nproc-per-node={made}" if made != 1 else "python"
        raise UserError(
            f"{label(folder)} was made by {made} rank{'s' * (made != 1)}, and this is "
            f"{counted()}. Verify it with: {start} -m runner.verify {quote(label(folder))}"
        )


def _do_again(folder: Path, place: Path, settings: Settings, ranks: Ranks) -> str | None:
    """Do the run in another folder; give back how it failed, if it did."""
    try:
        bench = ranks.together(lambda: build(settings, ranks=ranks))
    except Exception as error:  # a config made by hand can fail in any way
        raise UserError(f"{label(folder)} cannot be done again: {error}") from error
    try:
        with redirect_stdout(io.StringIO()):  # it would name a folder that will be gone
            attempt(place, settings, bench, quiet=not ranks.is_first)
    except Exception as error:
        return f"it fails now: {error.__cause__ or error}"
    return None


if __name__ == "__main__":
    main()
