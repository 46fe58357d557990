"""Names of folders and settings: readable, safe on any file system, never two for one thing."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
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


Plain = int | float | str | None


def write_value(value: object) -> str:
    """Write a config value as a part of a folder's name; different values are written differently.

    Numbers and plain words stand as they are. Of any other text the end is shown, which says most
    of a path, and a digest of the whole.

    >>> write_value(1e10), write_value([0.9, 0.95]), write_value("fold0.npz")
    ('1e10', '0.9,0.95', 'fold0.npz')
    >>> write_value("/data/my photos")
    'my_photos-177c3a41'
    """
    if isinstance(value, list) and value and all(isinstance(v, Plain) for v in value):
        return ",".join(map(write_value, value)) + ("," if len(value) == 1 else "")
    if isinstance(value, float) and 1e6 <= abs(value) < math.inf:
        forms = (f"{value:.{digits}e}" for digits in range(17))
        return re.sub(r"e\+0?", "e", next(form for form in forms if float(form) == value))
    text = json.dumps(value, separators=(",", ":"))
    if isinstance(value, str):
        if re.fullmatch(r"[A-Za-z0-9._-]+", value) and not _is_number_or_word(value):
            return value
        return _end_and_digest(re.split(r"[/\\]", value.rstrip("/\\"))[-1], text)
    return text if isinstance(value, Plain) else _end_and_digest(text, text)


def write_label(text: str) -> str:
    """Write the name of a level; a `+` stands between those of several factors alone."""
    return text if re.fullmatch(r"[A-Za-z0-9._,=-]+", text) else _end_and_digest(text, text)


def _is_number_or_word(text: str) -> bool:
    """Whether a text is written as a number, null, true or false is."""
    with suppress(ValueError):
        json.loads(text)
        return True
    return False


def _end_and_digest(text: str, whole: str) -> str:
    end = re.sub(r"[^A-Za-z0-9.]+", "_", text)[-24:].strip("_.")
    return f"{end}-{_digest(whole)}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


def shorten(text: str) -> str:
    """Write a name as a folder's; what is too long or has odd characters gets a digest."""
    plain = re.sub(r"[^A-Za-z0-9._,=+~-]+", "_", text)  # from the keys of a file
    if plain == text and len(text) <= LONGEST:
        return text
    return f"{plain[: LONGEST - 9]}-{_digest(text)}"


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
    """Write a run's folder relative to the current one, if it lies below that."""
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Run through the leaves of nested mappings, as dotted keys and values."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
