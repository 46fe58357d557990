"""The command `python -m runner.plot_schedule [KEY=VALUE ...]`: draws the learning rates of a run.

The config is that of `python -m runner`; values with commas give several schedules in one picture.
Nothing is trained, and no model is built.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from torch import nn

from runner.build import build_data, build_optimizer, build_scheduler, build_tricks
from runner.cli.explain import explain
from runner.cli.hydra_internals import Loader
from runner.cli.task import register
from runner.config import Settings, check
from runner.data import updates_per_epoch
from runner.errors import UserError
from runner.store.files import write_atomically
from runner.terminal import terminal
from runner.texts import say
from tricks import Chain, Time, WarmRestarts, scale_learning_rates_

EXAMPLES = """
  python -m runner.plot_schedule 'tricks=[warm_restarts]' tricks.warm_restarts.T_0=2 epochs=14
  python -m runner.plot_schedule scheduler=cosine,linear,one_cycle
  python -m runner.plot_schedule 'tricks=[],[warm_restarts]' data=cifar10 --updates-per-epoch 352
"""

LINE = 110  # characters of the legend that fit on one line of the picture


class Curve(NamedTuple):
    """The learning rates of one training, for the first parameter group."""

    label: str
    rates: list[float]
    """Of every update."""
    updates_per_epoch: int
    restarts: list[float]
    """In epochs, without the start of the training."""
    caveats: list[str]


def configs(loader: Loader, overrides: Sequence[str]) -> dict[str, Settings]:
    """Compose and check a config for each combination of the values given with commas.

    Returns:
        Settings by label: the variant of a single config, the values that differ among several.
        Among several, a setting that only some of them use is accepted.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_discrete_sweep()
        else [str(override.input_line)]
        for override in parsed
    ]
    combinations = list(product(*choices))
    if len(combinations) == 1:
        settings = _check(loader, overrides, overrides)
        return {settings.variant: settings}
    labels = product(*(values for values in choices if len(values) > 1))
    return {
        " ".join(label): _check(loader, combination)
        for label, combination in zip(labels, combinations, strict=True)
    }


def _check(loader: Loader, overrides: Sequence[str], given: Sequence[str] = ()) -> Settings:
    cfg = loader.compose(overrides)
    return check(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), given)


def count_updates(settings: Settings) -> int:
    """Count the updates of an epoch from the data, without downloading it.

    Raises:
        UserError: If the data is missing.
    """
    offline = {"download": False} if "download" in settings.data else {}
    try:
        data = build_data(dataclasses.replace(settings, data={**settings.data, **offline}))
    except UserError as error:
        raise UserError(f"{error} Or give --updates-per-epoch; then no data is read.") from error
    return updates_per_epoch(len(data.train.labels), settings.batch_size, settings.drop_last)


def trace(label: str, settings: Settings, updates_per_epoch: int) -> Curve:
    """Compute the learning rate of every update, with the optimizer and tricks of a training."""
    optimizer = build_optimizer(settings, nn.Linear(1, 1, bias=False))
    scheduler = build_scheduler(settings, optimizer, updates_per_epoch)
    chain = build_tricks(settings)
    updates, rates = settings.updates(updates_per_epoch), []
    for update in range(updates):
        time = Time(update, updates_per_epoch, updates, settings.seed)
        factor = chain.schedule(scheduler(update), time)
        scale_learning_rates_(optimizer, factor)
        rates.append(float(optimizer.param_groups[0]["lr"]))
    restarts = list(_restarts(chain, updates, updates_per_epoch))
    caveats = chain.caveats(updates, updates_per_epoch)
    return Curve(label, rates, updates_per_epoch, restarts, caveats)


def _restarts(chain: Chain, updates: int, updates_per_epoch: int) -> Iterator[float]:
    """Yield the restarts, in epochs; half an update after a cycle's end is in the next cycle."""
    for trick in chain:
        if isinstance(trick, WarmRestarts):
            unit, end = 1 if trick.unit == "update" else updates_per_epoch, 0.0
            while (end := trick.cycle_ends(end + 0.5 / unit)[1]) * unit < updates:
                yield end * unit / updates_per_epoch


def draw(curves: Sequence[Curve], file: Path) -> None:
    """Draw the rates over the epochs, constant within an update; dotted lines are restarts.

    Raises:
        UserError: If the folder does not exist, or the suffix is not a format of pictures.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    formats, suffix = figure.canvas.get_supported_filetypes(), file.suffix.removeprefix(".")
    if suffix not in formats:
        raise UserError(f"--out must end in .png, .pdf or .svg, got {file}.")
    if not file.parent.is_dir():
        raise UserError(f"--out: no folder {file.parent}. Create it first.")
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        color = f"C{number % 10}"
        epochs = [update / curve.updates_per_epoch for update in range(len(curve.rates) + 1)]
        held = [*curve.rates, curve.rates[-1]]  # to the end of the last update
        axes.plot(epochs, held, drawstyle="steps-post", color=color, label=curve.label, lw=1.8)
        for restart in curve.restarts:
            axes.axvline(restart, color=color, linestyle=":", linewidth=1.2, zorder=1)
    end = max(len(curve.rates) / curve.updates_per_epoch for curve in curves)
    axes.set(xlabel="epoch", ylabel="learning rate", xlim=(0, end), ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=15, steps=[1, 2, 5, 10], integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) == 1:
        axes.set_title(curves[0].label)
    else:
        longest = max(len(curve.label) for curve in curves)
        columns = max(1, min(3, LINE // (longest + 6)))  # 6 for the line drawn before each
        figure.legend(loc="outside upper left", ncols=columns, frameon=False)
        figure.set_figheight(4 + 0.22 * math.ceil(len(curves) / columns))
    write_atomically(file, lambda opened: figure.savefig(opened, format=suffix, dpi=120))


def summary(curve: Curve) -> str:
    """Describe a curve in one line: its highest and last rate, and its caveats."""
    numbers = f"highest {max(curve.rates):.4g}  last {curve.rates[-1]:.4g}"
    return "  ".join([curve.label, numbers, *(f"note: {caveat}" for caveat in curve.caveats)])


@terminal()
def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the schedules of the command line; exit with one line if an argument is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m runner.plot_schedule",
        description=__doc__,
        epilog=f"for example:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="of python -m runner; a,b,c for several"
    )
    parser.add_argument("--out", type=Path, default=Path("schedule.png"), help="a .png, .pdf, .svg")
    parser.add_argument(
        "--updates-per-epoch", type=int, metavar="N", help="instead of counting them in the data"
    )
    parser.add_argument("-cd", "--config-dir", type=Path, help="a folder with your own configs")
    given = parser.parse_intermixed_args(arguments)
    own, loader = [given.config_dir] if given.config_dir else [], None
    out, updates = given.out, given.updates_per_epoch
    try:
        if updates is not None and updates < 1:
            raise UserError(f"--updates-per-epoch must be >= 1, got {updates}.")
        register(own)
        loader = Loader(own)
        curves = [
            trace(label, settings, updates or count_updates(settings))
            for label, settings in configs(loader, given.overrides).items()
        ]
        draw(curves, out)
        for curve in curves:
            say(f"{out}  {summary(curve)}")
    except Exception as error:
        if line := explain(error, loader):
            sys.exit(line)
        raise


if __name__ == "__main__":
    main()
