"""The YAML of a config, judged before anything is made of it, whoever wrote it.

What is huge, deep, or grows as it is read, and what names a Python type, ends in one line.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from runner.errors import UserError

LARGEST = 200_000  # bytes of a file
DEEPEST = 30  # nodes within each other
MOST = 10_000  # nodes in all, each as often as it is repeated by an alias


def check_yaml(file: Path, saved: bool = False) -> None:
    """Refuse a file that is no plain YAML mapping of a sensible size.

    Args:
        file: The file.
        saved: Whether it has to be the config of one run, as a run saves it: values alone, with
            nothing that Hydra, OmegaConf or YAML would follow.

    Raises:
        UserError: If it is not.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise UserError(f"{file} must be at most {LARGEST} bytes, got more. Cut it down.")
        text = data.decode()
        _check_events(file, yaml.parse(text, Loader=_LOADER), aliases=not saved)
        if saved:
            _check_saved(file, text)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{file} must be YAML in UTF-8, got {told}. Mend it.") from None


def _check_events(file: Path, events: Iterable[yaml.Event], aliases: bool) -> None:
    """Go once through what the parser sees, before it builds anything."""
    sizes: dict[str, int] = {}  # of what has an anchor
    inside: list[tuple[str | None, int]] = []  # the anchors of what is open, the count before it
    count = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if not aliases or event.anchor not in sizes:
                raise UserError(f"{file} must be without the alias *{event.anchor}. Write it out.")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            if event.tag is not None:
                raise UserError(f"{file} must have no tags, got {event.tag}. Take it out.")
            if not inside and not isinstance(event, yaml.MappingStartEvent) and _says(event):
                raise UserError(f"{file} must be a mapping, as KEY: VALUE, got another.")
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                inside.append((event.anchor, count - 1))
            elif event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            if anchor:
                sizes[anchor] = count - before
        if count > MOST or len(inside) > DEEPEST:
            raise UserError(
                f"{file} must have at most {MOST} values, {DEEPEST} deep, got more. Cut it down."
            )


def _says(event: yaml.NodeEvent) -> bool:
    """Whether an event is more than the nothing of an empty file."""
    return bool(getattr(event, "value", True))


def _check_saved(file: Path, text: str) -> None:
    """Refuse what Hydra or OmegaConf would follow."""
    content = yaml.load(text, Loader=_LOADER)
    found = [key for key in ("hydra", "defaults") if isinstance(content, dict) and key in content]
    if header := re.search(r"^\s*#\s*@.*", text, re.MULTILINE):
        found.append(header[0].strip())
    if interpolation := re.search(r"\$\{[^}\n]*\}?", text):
        found.append(interpolation[0])
    if found:
        raise UserError(
            f"{file} must be the config of one run, got one with {' and '.join(found)}. "
            "Take that out, or put what is your own into a folder for --config-dir."
        )


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where it was built in
