"""The YAML of a config, judged before Hydra reads it, whoever wrote it.

What is huge, deep, or grows as it is read, and what names a Python type, ends in one line.
"""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from runner.errors import UserError
from runner.names import CONF
from runner.store.files import Damaged, read_bytes
from runner.store.values import Limits, read_values

try:
    from omegaconf._yaml import get_yaml_loader  # type: ignore[import-not-found,unused-ignore]
except ImportError:  # before 2.4
    from omegaconf._utils import get_yaml_loader

LARGEST = 200_000  # bytes of a file
OWN = Limits(bytes=LARGEST, values=10_000, longest=1000, aliases=True, links=True)
SAVED = replace(OWN, aliases=False, links=False, interpolations=False)
"""What may be in a user's own file, and in the config of a run."""


def check_yaml(file: Path, saved: bool = False) -> dict[Any, Any]:
    """Refuse a file that is no plain YAML mapping of a sensible size; give back what it holds.

    Args:
        file: The file.
        saved: Whether it has to be the config of one run, as a run saves it: values alone, with
            nothing that Hydra, OmegaConf or YAML would follow.

    Raises:
        FileNotFoundError: If it is not there.
        UserError: If it is not.
    """
    try:
        content = read_values(file, SAVED if saved else OWN)
    except Damaged as error:
        raise UserError(f"{file} {error}. Correct that file.") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError(f"{file} must be a mapping, as KEY: VALUE. Correct that file.")
    if saved:
        _refuse_directives(file, content)
    return content


def load_yaml(text: str) -> Any:  # noqa: ANN401
    """Read YAML as OmegaConf does, by libyaml where there is one: in a tenth of the time."""
    return yaml.load(text, Loader=_loader())


@cache
def _loader() -> Any:  # noqa: ANN401
    usual = get_yaml_loader()  # which makes a class each time
    if not hasattr(yaml, "CSafeLoader") or issubclass(usual, yaml.CSafeLoader):
        return usual
    parser, *rest = yaml.CSafeLoader.__bases__

    class Loader(parser, usual):  # type: ignore[misc,valid-type]
        def __init__(self, text: str) -> None:
            parser.__init__(self, text)
            for base in rest:
                base.__init__(self)

    return Loader


@cache
def our_options(group: str) -> dict[str, Any]:
    """Read the files of a group in `conf/`, by their names; once in a process."""
    files = sorted(CONF.glob(f"{group}/*.yaml"))
    return {file.stem: load_yaml(file.read_text()) for file in files}


def _refuse_directives(file: Path, content: dict[Any, Any]) -> None:
    """Refuse the keys and the header that Hydra would follow in a saved config."""
    found = [key for key in ("hydra", "defaults") if key in content]
    lines = read_bytes(file, LARGEST).decode().splitlines()
    found += [line.strip() for line in lines if re.match(r"\s*#\s*@", line)][:1]
    if found:
        raise UserError(
            f"{file} must be the config of one run, got one with {' and '.join(found)}. "
            "Take that out, or put what is your own into a folder for --config-dir."
        )
