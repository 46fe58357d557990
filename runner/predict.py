"""The command `python -m runner.predict RUN IMAGE_OR_FOLDER ...`: what a trained model sees.

RUN is the folder of a finished run (outputs/NAME/VARIANT/seed=0), or its model.pt or best.pt. A
folder of images is searched at any depth, in the order of torchvision's ImageFolder. The images are
read as the run read its own, and answered in batches of the same size: for the folder of the run's
own test images the answers are, on the same machine, those of its result to the bit.

    python -m runner.predict outputs/mine/baseline/seed=0 photos/ --csv answers.csv

Images that cannot be read are named, and left out. It exits with 0 if any could be read.
"""

import argparse
import csv
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from runner.errors import UserError
from runner.signals import stoppable
from runner.store.files import write_atomically
from runner.terminal import Parser, in_a_line, terminal
from runner.texts import complain, printable, say, short

if TYPE_CHECKING:
    from runner.trained import TrainedModel
    from runner.trained.answers import Answer, Answers

SHOWN = 50  # images, and classes, in the table of the terminal
NAME = 60  # characters of a file's or a class's name there
FIRST = b"file,class,probability"
"""What a table of answers begins with."""


@terminal()
def main(arguments: Sequence[str] | None = None) -> None:
    """Predict, and exit with 1 if no image could be read."""
    given = _parser().parse_intermixed_args(arguments)
    with in_a_line(), stoppable():
        _predict(given)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m runner.predict", description=__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="outputs/NAME/VARIANT/seed=S, or its model.pt")
    add("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="image files, or folders of them")
    add("--csv", type=Path, metavar="FILE", help="write file, class, and all probabilities there")
    add("--top", type=int, metavar="K", help="the K likeliest classes alone")
    add("--device", metavar="D", help="cpu, cuda or cuda:N; by default the run's kind of device")
    return parser


def _predict(given: argparse.Namespace) -> None:
    """Predict, and show or write the answers.

    Raises:
        UserError: If that is not possible.
    """
    from runner.trained.answers import Answers, find_images, place  # torch takes seconds to import
    from runner.trained.model import load_run

    if given.csv is not None:
        _refuse_foreign(given.csv)
    files = find_images(given.images)
    model = load_run(given.run)
    top = given.top
    if top is not None and not 1 <= top <= len(model.classes):
        raise UserError(f"--top must be from 1 to the {len(model.classes)} classes, got {top}.")
    notes = [*place(model, given.device)]
    every = Answers(model, files)
    with closing(every.all()) as answers:
        if given.csv is not None:
            write_atomically(given.csv, lambda file: _write(file, model, answers, top))
        else:
            _show(model, [*islice(answers, SHOWN)], top or 1)
        for _ in answers:  # only counted
            pass
    _summarize(every, given.csv)
    for note in [*notes, *every.notes()]:
        complain(f"note: {note}")


def _refuse_foreign(file: Path) -> None:
    """Refuse to write over a file that is not such a table.

    Raises:
        UserError: If it is another file, or its folder does not exist.
    """
    if not file.parent.is_dir():
        raise UserError(f"--csv: the folder {short(file.parent)} does not exist. Create it.")
    if not os.path.lexists(file):
        return
    begun = b""
    if file.is_file():
        with file.open("rb") as there:
            begun = there.read(len(FIRST))
    if begun != FIRST:
        raise UserError(
            f"--csv: {short(file)} is there already, and is no table of answers. Give another "
            "name, or remove it."
        )


def _write(
    file: BinaryIO, model: "TrainedModel", answers: "Iterable[Answer]", top: int | None
) -> None:
    """Write the table: all probabilities in the classes' order, or the likeliest classes."""
    text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
    table, more = csv.writer(text), range(2, (top or 1) + 1)
    heads = [name for n in more for name in (f"class {n}", f"probability {n}")]
    table.writerow([*FIRST.decode().split(","), *(heads if top else model.classes)])
    for path, probabilities in answers:
        likeliest = probabilities.argsort(descending=True, stable=True)[: top or 1].tolist()
        pairs = [part for n in likeliest for part in (model.classes[n], probabilities[n].numpy())]
        table.writerow([path, *pairs, *(() if top else probabilities.numpy())])
    text.flush()
    text.detach()


def _show(model: "TrainedModel", answers: "Sequence[Answer]", top: int) -> None:
    """Print the first answers."""
    from runner.report.text import lines, table  # with scipy, which takes a second

    heads, rows = ["file"], []
    for n in range(1, top + 1):
        heads += ["class", "probability"] if top == 1 else [f"class {n}", ""]
    for path, probabilities in answers:
        likeliest = probabilities.argsort(descending=True, stable=True)[:top].tolist()
        named = [(model.classes[n], f"{100 * float(probabilities[n]):.1f} %") for n in likeliest]
        rows.append([printable(path, NAME), *(printable(t, NAME) for pair in named for t in pair)])
    say(*lines(table(heads, rows, wide=(0, *range(1, 2 * top, 2)), right=range(2, 2 * top + 1, 2))))


def _summarize(every: "Answers", file: Path | None) -> None:
    """Print how many images each class got, and where all answers are."""
    if file is None and every.read <= 1:
        return
    from runner.report.text import lines, table  # with scipy, which takes a second

    if (more := every.read - SHOWN) > 0 and file is None:
        say(f"... and {more:,} more; --csv FILE writes all.")
    named = [
        [printable(every.model.classes[n], NAME), f"{count:,}"]
        for n, count in every.classes.most_common(SHOWN)
    ]
    say("", *lines(table(["class", "images"], named, wide=(0,), right=(1,))))
    if (others := len(every.classes) - SHOWN) > 0:
        say(f"... and {others:,} more classes.")
    if file is not None:
        say("", f"{every.read:,} answers in {short(file)}")


if __name__ == "__main__":
    main()
