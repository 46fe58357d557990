"""Names of folders and settings: readable, safe on any file system, never two for one thing."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.errors import UserError

HERE = Path(__file__).resolve().parent
CONF = next(
    folder for folder in (HERE / "conf", HERE.parent / "conf") if (folder / "config.yaml").is_file()
)
"""Where the configuration lies: inside an installed package, or beside it in a checkout."""

LONGEST = 120  # characters of a folder's name; file systems allow 255

OUTPUTS = "outputs"
"""Where everything is written. It may be a link; below it none may lead out."""


def write_value(value: object) -> str:
    """Write a config value as a part of a folder's name."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return re.sub(r"[^A-Za-z0-9._,=-]+", "_", text).strip("_.") or "_"


def shorten(text: str) -> str:
    """Cut a name that has grown too long; a hash of the whole keeps it apart from others."""
    text = re.sub(r"[^A-Za-z0-9._,=+~-]+", "_", text)  # from the keys of a file
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def inside(root: str, name: object, *parts: object) -> str:
    """Give back the path of a folder, which has to lie where it seems to.

    Args:
        root: `outputs`.
        name: Of the runs; with `/` in it, folders within each other.
        parts: The folder's own, below.

    Raises:
        UserError: If it leads out of the root, by name or by a link, or is too long.
    """
    for key, text in (("name", name), *zip(("variant", "seed"), parts, strict=False)):
        check_name(key, text)
    path = Path(root, str(name), *map(str, parts))
    try:
        lies_there = path.resolve().is_relative_to(Path(root).resolve())
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path} must be a folder, got {error}. Choose another name=NAME."
        ) from None
    if not lies_there:
        raise UserError(
            f"{path} must lie in {root}, got a link to {path.resolve()}. Remove it; to have all "
            f"the runs elsewhere, make {root} itself a link."
        )
    return str(path)


def check_name(key: str, text: object) -> None:
    """Refuse what is no name of a folder, or, for `name`, of folders within each other."""
    parts = text.split("/") if isinstance(text, str) and key == "name" else [text]
    for part in parts:
        plain = isinstance(part, str) and part.isprintable() and "/" not in part
        if not plain or str(part).strip() in ("", ".", ".."):
            given = json.dumps(text, default=str)
            raise UserError(
                f"{key} must be the name of a folder below {OUTPUTS}, got {given}. "
                "Use letters and digits."
            )
    if len(str(text).encode()) > 200:
        raise UserError(
            f"{key} must be at most 200 bytes, got {len(str(text).encode())}. Choose a shorter one."
        )


def label(folder: Path) -> str:
    """Write a run's folder as short as it can be told: from here, if it lies below."""
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Run through the leaves of nested mappings, as dotted keys and values."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
