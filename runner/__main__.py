"""The command `biscuits`, or `python -m runner`: composes a config and runs it.

A thin shell: help, completion and mistakes in a config never wait for torch.
"""

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path

import hydra

from runner.cli.application import make_parser, run_command
from runner.cli.explain import explain
from runner.cli.hydra_internals import Loader
from runner.cli.task import once, register, task
from runner.errors import UserError
from runner.names import CONF
from runner.signals import stoppable
from runner.store.packed import is_packed
from runner.terminal import terminal
from runner.texts import say
from runner.versions import made_by

HELP = """Biscuits: training tricks for convolutional networks, switched on, tuned and judged.

One run:    python -m runner 'tricks=[clipping,flooding]' tricks.flooding.level=0.05 seed=1
A preset:   python -m runner tricks=core tricks.anti_aliasing.enabled=false
A sweep:    python -m runner -m 'tricks=[clipping]' tricks.clipping.max_norm=0.1,1 'seed=range(3)'
Verdicts:   python -m runner ablation=one_at_a_time tricks=core ablation.seeds=5 name=mine
            (with ablation.dry_run=true: the runs, their cost, and what they could show)
Real data:  python -m runner data=image_folder data.root=FOLDER model=resnet20 tricks=core
Again:      python -m runner -cp FOLDER_OF_A_RUN -cn config again=true
Compare:    python -m runner.report outputs/NAME;  tensorboard --logdir outputs/NAME
Use it:     python -m runner.predict RUN IMAGE_OR_FOLDER ... --csv FILE
            python -m runner.export RUN --to state_dict|torch|onnx FILE
A look:     python -m runner.plot_images [KEY=VALUE ...];  python -m runner.plot_schedule ...
            python -m runner.anti_alias MODEL
Everything: python -m runner --cfg job

Groups (group=option), in {conf}:
{groups}

  -m, --multirun      every combination of the values given with commas
  -cd, --config-dir   a folder of your own tricks, models, data and experiments
  -cp FOLDER, -cn F   start from FOLDER/F.yaml
  --cfg job           print the config and stop
  -sc install=bash    tab completion: eval "$(biscuits -sc install=bash)"
  --hydra-help        the rest, which is Hydra's

Your own classes: BISCUITS_ALLOW=package.Class,... in the environment.
"""


@terminal()
def main() -> None:
    """Run the command line; what a user can mend ends in one line, without a traceback."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand us the exceptions; we print them
    loader = None
    try:
        parser = make_parser()
        given = _parse(parser, sys.argv[1:])
        own = [Path(given.config_dir).expanduser()] if given.config_dir else []
        if given.help or given.version:
            say(_help(own) if given.help else _version())
            return
        register(own)
        loader = Loader(own, main=Path(given.config_path).resolve() if given.config_path else CONF)
        query = given.shell_completion and any(o.startswith("query") for o in given.overrides)
        with stoppable(), _plain_words() if query else nullcontext():
            run_command(given, parser, loader, task)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if line := explain(error, loader):
            sys.exit(once(line))
        raise


@contextmanager
def _plain_words() -> Iterator[None]:
    """Complete with plain words alone: bash would execute what else the name of a file can say."""
    with redirect_stdout(io.StringIO()) as printed:
        yield
    for line in printed.getvalue().splitlines():
        print(*(word for word in line.split() if re.fullmatch(r"[\w./=,:@+~-]+", word)))


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options as Hydra does; those that make no sense, or would unpickle, are refused."""

    def refuse(message: str) -> None:
        meant = ""
        if match := re.search(r"unrecognized arguments: -+([a-z][\w./-]*)(?:=(\S*))?", message):
            rest = [a for a in arguments if "=" not in a and not a.startswith("-")]
            value = match[2] or (rest[0] if rest else "VALUE")
            meant = f" Settings have no dashes: {match[1].replace('-', '_')}={value}."
        raise UserError(f"The options must be those of --help, got others: {message}.{meant}")

    parser.error = refuse  # type: ignore[method-assign,assignment]
    given = parser.parse_intermixed_args(arguments)
    if given.experimental_rerun is not None:
        raise UserError(
            "--experimental-rerun would unpickle a file. Run a saved config again with "
            "-cp FOLDER -cn config again=true."
        )
    modes = ("run", "multirun", "cfg", "info", "shell_completion")
    if len(asked := [mode for mode in modes if getattr(given, mode)]) > 1:
        refuse(f"{' and '.join(asked)} at once")
    if given.resolve and not given.cfg:
        refuse("--resolve without --cfg")
    if given.config_path is not None and not (path := Path(given.config_path)).is_dir():
        unpack = f" It is packed: python -m runner.pack --unpack {path.parent}"
        packed = unpack if is_packed(path) else ""
        raise UserError(f"--config-path must be a folder, got {given.config_path}.{packed}")
    return given


def _version() -> str:
    return f"{made_by()} (Hydra {hydra.__version__})"


def _help(config_dirs: Sequence[Path]) -> str:
    """Write the help; the groups are found quicker than by Hydra, which takes a second for it."""
    groups: dict[str, set[str]] = {}
    for folder in (CONF, *config_dirs):
        for file in folder.glob("*/*.yaml"):
            groups.setdefault(file.parent.name, set()).add(file.stem)
    lines = (f"  {name + ':':<12}{', '.join(sorted(groups[name]))}" for name in sorted(groups))
    return HELP.format(conf=CONF, groups="\n".join(lines))


if __name__ == "__main__":
    main()
