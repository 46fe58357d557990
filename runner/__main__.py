"""The command `biscuits`, or `python -m runner`: composes a config and runs it.

A thin shell: help, completion and mistakes in a config never wait for torch.
"""

import os
import sys
from pathlib import Path

import hydra
from omegaconf import OmegaConf

from runner.compose import CONF, register, task
from runner.errors import UserError
from runner.mistakes import explain

HELP = """Biscuits: training tricks for convolutional networks, switched on, tuned and judged.

One run:    python -m runner 'tricks=[clipping,flooding]' tricks.flooding.level=0.05 seed=1
A preset:   python -m runner tricks=page tricks.anti_aliasing.enabled=false
A sweep:    python -m runner -m 'tricks=[clipping]' tricks.clipping.max_norm=0.1,1 'seed=range(3)'
Verdicts:   python -m runner ablation=one_at_a_time tricks=page ablation.seeds=5 name=mine
            (with ablation.dry_run=true: the runs, their cost, and what they could show)
Real data:  python -m runner data=image_folder data.root=FOLDER model=resnet20 tricks=page
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
    if {"-h", "--help"}.intersection(sys.argv[1:]):
        print(HELP.format(conf=CONF, groups=_groups()))
        return
    if any(argument.startswith("--experimental-rerun") for argument in sys.argv[1:]):
        sys.exit(
            "--experimental-rerun would unpickle a file. Run a saved config again with "
            "-cp FOLDER -cn config again=true."
        )
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand us the exceptions; we print them
    try:
        sys.argv[1:] = _absolute_config_path(sys.argv[1:])
        register(folder for _, folder in _values(sys.argv[1:], "--config-dir", "-cd"))
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if line := explain(error):
            sys.exit(line)
        raise


def _groups() -> str:
    """List the groups; quicker than Hydra, which takes a second for it."""
    lines = []
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir()):
        options = sorted(file.stem for file in folder.glob("*.yaml"))
        if options:
            lines.append(f"  {folder.name + ':':<12}{', '.join(options)}")
    return "\n".join(lines)


def _values(arguments: list[str], *names: str) -> list[tuple[int, Path]]:
    """Find the folders given with an option before Hydra does, and which arguments they are."""
    found = []
    for number, argument in enumerate(arguments):
        name, has_value, value = argument.partition("=")
        if name in names and has_value:
            found.append((number, Path(value)))
        elif name in names and number + 1 < len(arguments):
            found.append((number + 1, Path(arguments[number + 1])))
    return found


def _absolute_config_path(arguments: list[str]) -> list[str]:
    """Hydra takes a relative --config-path from its own caller; people mean from where they are."""
    absolute = list(arguments)
    for number, folder in _values(arguments, "--config-path", "-cp"):
        if not folder.is_dir():
            raise UserError(f"--config-path must be a folder, got {folder}.")
        option, has_value, _ = arguments[number].partition("=")
        prefix = f"{option}=" if has_value and option.startswith("-") else ""
        absolute[number] = prefix + str(folder.resolve())
        _refuse_foreign_hydra(folder, arguments)
    return absolute


def _refuse_foreign_hydra(folder: Path, arguments: list[str]) -> None:
    """A config that starts a run may come from somebody else; Hydra would run what it names."""
    for _, name in _values(arguments, "--config-name", "-cn"):
        file = folder / f"{name.name.removesuffix('.yaml')}.yaml"
        keys = OmegaConf.load(file).keys() if file.is_file() else []
        if foreign := {"hydra", "defaults"}.intersection(map(str, keys)):
            raise UserError(
                f"{file} must be the config of one run, got one with {' and '.join(foreign)}. "
                "Take that out, or put what is your own into a folder for --config-dir."
            )


if __name__ == "__main__":
    main()
