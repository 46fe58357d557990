"""The command `python -m runner.export RUN --to FORM FILE`: a trained model, for other programs.

RUN is the folder of a finished run (outputs/NAME/VARIANT/seed=0), or its model.pt or best.pt. FORM:

    state_dict   the weights, as torch.save(network.state_dict(), FILE) writes them
    torch        a program that torch alone loads: torch.export.load(FILE).module()
    onnx         for onnxruntime and others; needs pip install 'biscuits-bench[onnx]'

    python -m runner.export outputs/mine/baseline/seed=0 --to onnx mine.onnx

The program takes images as they come from a file, uint8 [N, C, H, W]; with --normalized, and for
the weights alone, the normalisation is left to you. FILE.json beside it names the classes and says
how an image becomes the input; in ONNX the same is in the metadata.

Before FILE is written, it has answered real images as the original does: the run's own test images,
or those of --images.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from runner.errors import UserError
from runner.signals import stoppable
from runner.terminal import Parser, in_a_line, terminal
from runner.texts import say, short


@terminal()
def main(arguments: Sequence[str] | None = None) -> None:
    """Export, or say in a line why not, and exit with 1."""
    given = _parser().parse_intermixed_args(arguments)
    with in_a_line(), stoppable():
        _export(given)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m runner.export", description=__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="outputs/NAME/VARIANT/seed=S, or its model.pt")
    add("file", type=Path, metavar="FILE", help="what to write; FILE.json comes beside it")
    forms = ("state_dict", "torch", "onnx")
    add("--to", required=True, choices=forms, help="the form of the file")
    add("--images", action="append", metavar="FILE_OR_FOLDER", help="images to check it with")
    add("--normalized", action="store_true", help="leave the normalisation out of the network")
    return parser


def _export(given: argparse.Namespace) -> None:
    """Export a model.

    Raises:
        UserError: If that is not possible.
    """
    from runner.trained import load_run  # torch takes seconds to import
    from runner.trained.export import export
    from runner.trained.model import find_file
    from runner.trained.real_images import named_images, own_images

    _refuse_foreign(given.file)
    path = find_file(given.run.expanduser())
    model = load_run(path)
    images = named_images(model, given.images) if given.images else own_images(model, path.parent)
    for line in export(model, given.to, given.file, images, given.normalized):
        say(line)


def _refuse_foreign(file: Path) -> None:
    """Refuse to write over a file that is no export.

    Raises:
        UserError: If it is another file, or its folder does not exist.
    """
    if not file.parent.is_dir():
        raise UserError(f"The folder {short(file.parent)} does not exist. Create it.")
    told = file.with_name(f"{file.name}.json")
    if (os.path.lexists(file) or os.path.lexists(told)) and not (file.is_file() and told.is_file()):
        raise UserError(
            f"{short(file)} is there already, and is no export. Give another name, or remove it."
        )


if __name__ == "__main__":
    main()
