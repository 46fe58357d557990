"""The command `python -m runner.pack DIR [DIR ...]`: finished runs in one archive a variant.

DIR is outputs/NAME, a part of it, or outputs. A finished run has twelve files; packed, its small
ones lie in outputs/NAME/VARIANT/runs.zip, with those of the other seeds. Files of more than 16 MiB
stay where they are. Packed runs are read as before, by every command, and count as done; to do one
again, unpack it first. TensorBoard shows their means, and not the runs themselves.

    python -m runner.pack outputs/mine
    python -m runner.pack --unpack outputs/mine

It may be killed, and is repeated then: a file is removed once the archive holds it.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.errors import UserError
from runner.names import label
from runner.report.format import count
from runner.store.files import remove_leftovers
from runner.store.lock import lock_folder
from runner.store.opening import Damaged
from runner.store.packed import ARCHIVE, RUN
from runner.store.packing import pack, unpack
from runner.terminal import Parser, in_a_line, terminal
from runner.texts import complain, printable, say, size

LONGEST = 1000  # characters of a line


@terminal()
def main(arguments: Sequence[str] | None = None) -> None:
    """Pack or unpack, and exit with 1 if a run could not be."""
    parser = Parser(prog="python -m runner.pack", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="outputs/NAME")
    parser.add_argument("--unpack", action="store_true", help="put the files back into folders")
    given = parser.parse_args(arguments)
    problems: list[str] = []
    with in_a_line():
        for folder in dict.fromkeys(Path(os.path.abspath(each)) for each in given.folders):
            if not folder.is_dir():
                raise UserError(f"{label(folder)}: no such folder. Expected outputs/NAME.")
            problems += _do(folder, given.unpack)
    for problem in problems:
        complain(printable(problem, LONGEST))
    if problems:
        sys.exit(1)


def _do(folder: Path, back: bool) -> list[str]:
    """Pack or unpack what is below a folder; give back a line for each run that stays as it is."""
    variants = [*_variants(folder)]
    if not variants:
        raise UserError(f"{label(folder)} has no runs. Expected outputs/NAME.")
    problems, before = list[str](), _measure(folder)
    for variant, runs in variants:
        try:
            with lock_folder(variant.parent):
                remove_leftovers(variant)
                problems += unpack(variant) if back else pack(variant, runs)
        except Damaged as error:
            remedy = "Put it back from a copy, or remove it and do its runs again."
            problems.append(f"{label(variant / ARCHIVE)} {error}. {remedy}")
        except UserError as error:
            problems.append(str(error))
    was, now = (f"{count(n, 'file')}, {size(taken)}" for n, taken in (before, _measure(folder)))
    say(f"{label(folder)}: {count(len(variants), 'variant')}: {was} -> {now}")
    return problems


def _variants(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Find the folders of variants, this one or some below it, with those of their runs."""
    for place, below, names in os.walk(folder):
        runs = sorted(name for name in below if RUN.fullmatch(name))
        if runs or ARCHIVE in names:
            yield Path(place), runs
        below[:] = sorted(set(below) - set(runs))


def _measure(folder: Path) -> tuple[int, int]:
    """Count the files below a folder, and their bytes."""
    paths = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    return len(paths), sum(os.lstat(path).st_size for path in paths)


if __name__ == "__main__":
    main()
