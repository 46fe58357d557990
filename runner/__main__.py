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

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser

from runner.cli.explain import explain
from runner.cli.guard import guarded
from runner.cli.task import register, task
from runner.errors import UserError
from runner.names import CONF
from runner.signals import stoppable

HELP = """Biscuits: training tricks for convolutional networks, switched on, tuned and judged.

One run:    python -m runner 'tricks=[clipping,flooding]' tricks.flooding.level=0.05 seed=1
A preset:   python -m runner tricks=core tricks.anti_aliasing.enabled=false
A sweep:    python -m runner -m 'tricks=[clipping]' tricks.clipping.max_norm=0.1,1 'seed=range(3)'
Verdicts:   python -m runner ablation=one_at_a_time tricks=core ablation.seeds=5 name=mine
            (with ablation.dry_run=true: the runs, their cost, and what they could show)
Real data:  python -m runner data=image_folder data.root=FOLDER model=resnet20 tricks=core
Again:      python -m runner -cp FOLDER_OF_A_RUN -cn config again=true
Compare:    python -m runner.report outputs/NAME;  tensorboard --logdir outputs/NAME
A look:     python -m runner.anti_alias MODEL;  python -m runner.plot_schedule [KEY=VALUE ...]
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


def main() -> None:
    """Run the command line; what a user can mend ends in one line, without a traceback."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand us the exceptions; we print them
    parser = get_args_parser()
    try:
        given = _parse(parser, sys.argv[1:])
        if given.help:
            print(HELP.format(conf=CONF, groups=_groups()))
            return
        register([Path(given.config_dir)] if given.config_dir else ())
        version.setbase("1.3")
        query = given.shell_completion and any(o.startswith("query") for o in given.overrides)
        with guarded(), stoppable(), _plain_words() if query else nullcontext():
            _run_hydra(
                args=given,
                args_parser=parser,
                task_function=task,
                config_path=str(CONF),
                config_name="config",
            )
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if line := explain(error):
            sys.exit(line)
        raise


@contextmanager
def _plain_words() -> Iterator[None]:
    """Complete with plain words alone: bash would execute what else the name of a file can say."""
    with redirect_stdout(io.StringIO()) as printed:
        yield
    for line in printed.getvalue().splitlines():
        print(*(word for word in line.split() if re.fullmatch(r"[\w./=,:@+~-]+", word)))


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options as Hydra does; those that make no sense, or would unpickle, are refused.

    Hydra takes a relative --config-path from its own caller; people mean from where they are.
    """

    def refuse(message: str) -> None:
        raise UserError(f"The options must be those of --help, got others: {message}.")

    parser.error = refuse  # type: ignore[method-assign,assignment]
    given = parser.parse_args(arguments)
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
    if given.config_path is not None:
        if not Path(given.config_path).is_dir():
            raise UserError(f"--config-path must be a folder, got {given.config_path}.")
        given.config_path = str(Path(given.config_path).resolve())
    return given


def _groups() -> str:
    """List the groups; quicker than Hydra, which takes a second for it."""
    lines = []
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir()):
        options = sorted(file.stem for file in folder.glob("*.yaml"))
        if options:
            lines.append(f"  {folder.name + ':':<12}{', '.join(options)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
