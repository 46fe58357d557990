"""All that the plan of an ablation is composed from: where it is the same, so is the plan.

To compose and check a thousand variants anew takes longer than to see that their runs are done.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

import tricks
from runner.ablation.plan import Plan
from runner.allowed import USERS
from runner.names import CONF, HERE
from runner.run.fingerprint import LIBRARIES
from runner.run.own_code import digest_own
from runner.store.files import digest
from runner.sweep.freeze import comparable
from runner.versions import version_of

MOST = 2000
"""Folders and files of configs that are looked at; where there are more, nothing is said."""

CODE = (HERE, Path(tricks.__file__).parent)


def seal(plan: Plan, origin: str | None) -> str:
    """Give back a hash of a plan and of what it was composed from; "" if that is not known."""
    return digest({"plan": comparable(plan), "origin": origin}) if origin else ""


def find_origin(
    master: DictConfig, arguments: Sequence[str], folders: Iterable[Path]
) -> str | None:
    """Give back a hash of all that plans are composed from, but the plan; None if it has no end.

    Args:
        master: The composed config of the command, with Hydra's node.
        arguments: The overrides that were typed.
        folders: Where configs are looked for.
    """
    files = _configs([CONF, *folders])
    if files is None or (variables := _variables([*arguments, *files.values()])) is None:
        return None
    if any("searchpath" in override for override in master.hydra.overrides.hydra):
        return None
    node = OmegaConf.masked_copy(master, [str(key) for key in master if key != "hydra"])
    code = sorted(file for folder in CODE for file in folder.rglob("*.py"))
    content = {
        "config": OmegaConf.to_container(node, resolve=True),
        "choices": OmegaConf.to_container(master.hydra.runtime.choices),
        "typed": [str(master.hydra.job.config_name), *arguments],
        "files": {
            name: _hash(text.encode("utf-8", "surrogateescape")) for name, text in files.items()
        },
        "variables": variables,
        "code": {str(file): _hash(file.read_bytes()) for file in code},
        "code of your own": [*sorted(USERS), digest_own(n.rpartition(".")[0] for n in USERS)],
        "versions": [sys.version, *map(version_of, (*LIBRARIES, "pydantic"))],
    }
    return digest(content)


def _configs(folders: Sequence[Path]) -> dict[str, str] | None:
    """Read the YAML files of folders; None if there are too many."""
    files: dict[str, str] = {}
    for number, path in enumerate(_walk(folders)):
        if number == MOST:
            return None
        if path.suffix in (".yaml", ".yml") and path.is_file():
            files[str(path)] = path.read_bytes().decode("utf-8", "surrogateescape")
    return files


def _walk(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for place, _, names in os.walk(folder, followlinks=True):
            yield Path(place)
            yield from (Path(place, name) for name in sorted(names))


def _variables(texts: Iterable[str]) -> Mapping[str, str | None] | None:
    """Give back the variables of the environment that texts name; None if they ask for more."""
    named = set[str]()
    for text in texts:
        if re.search(r"\$\{[^{}]*\$", text):  # an interpolation in another
            return None
        for resolver, argument in re.findall(r"\$\{([^{}:]*):([^{},]*)", text):
            if resolver.strip() != "oc.env" or not re.fullmatch(r"\w+", argument.strip()):
                return None
            named.add(argument.strip())
    return {name: os.environ.get(name) for name in sorted(named)}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
