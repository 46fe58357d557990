"""The command `python -m runner.plot_images [KEY=VALUE ...]`: draws what the network sees.

The first training images of a run: as they are, and as the network gets them in epochs 0, 1 and 2,
augmented and normalised, with the normalising undone for the eye. What the tricks that are on do to
the images and to their mixture is in it; those with a state act as in the first update. The config
is that of `python -m runner`. Nothing is trained, and no model is built.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from runner.build import build_batches, build_data, build_tricks, title
from runner.cli.explain import explain
from runner.cli.hydra_internals import Loader
from runner.cli.task import register
from runner.config import Settings, check
from runner.cores import usable_cores
from runner.data import Batches, DataSet
from runner.data.seen import as_trained, to_pixels
from runner.errors import UserError
from runner.nodes import with_config_path
from runner.store.files import write_atomically
from runner.terminal import terminal
from runner.texts import printable, say
from tricks import overrides

EXAMPLES = """
  python -m runner.plot_images data.augment.crop=1
  python -m runner.plot_images data=cifar10 'data.augment.transforms=[RandAugment]'
  python -m runner.plot_images 'tricks=[trivial_augment,random_erasing]' data=cifar10
  python -m runner.plot_images data=image_folder data.root=FOLDER --out seen.png
"""

COLUMNS, EPOCHS = 8, 3
LINE = 14  # characters of a class's name that fit above an image


def compose(loader: Loader, overrides: Sequence[str]) -> Settings:
    """Compose and check the config of one run."""
    cfg = loader.compose(overrides)
    return check(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), overrides)


def seen(
    batches: Batches,
    samples: Tensor,
    epoch: int,
    micro: int | None = None,
    classes: int | None = None,
) -> list[Tensor | None]:
    """Give back images as the network gets them in an epoch.

    Args:
        batches: Of the training split.
        samples: [n], places in the split.
        epoch: From 0.
        micro: Samples of a micro-batch; None for a whole batch.
        classes: How many classes there are.

    Returns:
        For each sample a picture [3, H, W], uint8; None where the epoch leaves it out.
    """
    order, size = batches.order(epoch)[: len(batches) * batches.batch_size], batches.batch_size
    found: list[Tensor | None] = []
    whole: dict[int, Tensor] = {}
    for sample in samples:
        places = (order == sample).nonzero().flatten().tolist()
        if places:
            batch, place = divmod(places[0], size)
            if batch not in whole:
                update, drawn = epoch * len(batches) + batch, next(batches.epoch(epoch, batch))
                whole[batch] = as_trained(batches, drawn, update, micro, classes)
            found.append(to_pixels(whole[batch][place, None], batches)[0])
        else:
            found.append(None)
    return found


def rows(
    batches: Batches, micro: int | None = None, classes: int | None = None
) -> tuple[Tensor, list[list[Tensor | None]]]:
    """Choose the first different samples of the training; give back their rows of pictures."""
    drawn = batches.order(0)[: len(batches) * batches.batch_size].tolist()
    samples = torch.tensor([*dict.fromkeys(drawn)][:COLUMNS], device=batches.split.labels.device)
    plain = Batches(batches.split, COLUMNS, batches.mean, batches.std)
    originals = seen(plain, samples, 0)
    lines = (seen(batches, samples, epoch, micro, classes) for epoch in range(EPOCHS))
    return samples, [originals, *lines]


def draw(batches: Batches, data: DataSet, file: Path, micro: int | None = None) -> None:
    """Draw the rows of pictures.

    Raises:
        UserError: If the folder does not exist, or the suffix is not a format of pictures.
    """
    from matplotlib.figure import Figure

    with with_config_path("tricks"):
        samples, lines = rows(batches, micro, len(data.classes))
    height, width = batches.split.shape[1:]
    across = len(samples)
    figure = Figure(figsize=(1.4 + 1.2 * across, 0.5 + 1.2 * len(lines) * height / width))
    figure.set_layout_engine("constrained")
    formats, suffix = figure.canvas.get_supported_filetypes(), file.suffix.removeprefix(".")
    if suffix not in formats:
        raise UserError(f"--out must end in .png, .pdf or .svg, got {file}.")
    if not file.parent.is_dir():
        raise UserError(f"--out: no folder {file.parent}. Create it first.")
    axes = figure.subplots(len(lines), across, squeeze=False)
    names = [data.classes[label] for label in batches.split.labels[samples].tolist()]
    for index, (line, label) in enumerate(
        zip(lines, ("original", *(f"epoch {epoch}" for epoch in range(EPOCHS))), strict=True)
    ):
        axes[index, 0].set_ylabel(label, rotation="horizontal", ha="right", va="center")
        for place, picture, name in zip(axes[index], line, names, strict=True):
            place.set(xticks=[], yticks=[])
            if index == 0:
                place.set_title(printable(name, LINE), fontsize=9, parse_math=False)
            if picture is None:
                place.text(0.5, 0.5, "not drawn", ha="center", va="center", fontsize=8)
                place.set_aspect(height / width)
            else:
                place.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in the name of a class
        write_atomically(file, lambda opened: figure.savefig(opened, format=suffix, dpi=120))


def summary(batches: Batches, settings: Settings) -> str:
    """Describe in one line what the picture shows."""
    what = f"{title(settings.data, 'data')}: the first of {len(batches.split.labels):,} images"
    by_tricks = any(overrides(t, hook) for t in batches.trick for hook in ("images", "batch"))
    if not (batches.augmentation.draws or batches.transforms or by_tricks):
        what += "  note: nothing is augmented; see data.augment"
    return what


@terminal()
def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the images of the command line; exit with one line if an argument is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m runner.plot_images",
        description=__doc__,
        epilog=f"for example:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of python -m runner")
    parser.add_argument("--out", type=Path, default=Path("images.png"), help="a .png, .pdf, .svg")
    parser.add_argument("-cd", "--config-dir", type=Path, help="a folder with your own configs")
    given = parser.parse_intermixed_args(arguments)
    own, loader = [given.config_dir] if given.config_dir else [], None
    try:
        register(own)
        loader = Loader(own)
        settings = compose(loader, given.overrides)
        torch.set_num_threads(usable_cores() if settings.threads == "auto" else settings.threads)
        data = build_data(settings)
        batches = build_batches(settings, data, build_tricks(settings))
        draw(batches, data, given.out, settings.micro_batch_size)
        say(f"{given.out}  {summary(batches, settings)}")
    except Exception as error:
        if line := explain(error, loader):
            sys.exit(line)
        raise


if __name__ == "__main__":
    main()
