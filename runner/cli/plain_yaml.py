"""The YAML of a config, judged before anything is made of it, whoever wrote it.

What is huge, deep, or grows as it is read, and what names a Python type, ends in one line.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from runner.errors import UserError
from runner.store.files import Damaged, read_bytes

LARGEST = 200_000  # bytes of a file
DEEPEST = 30  # nodes within each other
MOST = 10_000  # nodes in all, each as often as it is repeated by an alias
WEIGHT = 480  # nodes that an interpolation counts as, so there are 20: they may double each other
LONGEST = 1000  # characters without quotes, of which a number may be made


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
        text = read_bytes(file, LARGEST).decode()
        _check_events(file, yaml.parse(text, Loader=_LOADER), aliases=not saved)
        if saved:
            _check_saved(file, text)
    except Damaged as error:
        raise UserError(
            f"{file} must be a file of at most {LARGEST} bytes, got one that {error}. Mend it."
        ) from None
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
            before = count
            count += 1
            if isinstance(event, yaml.ScalarEvent):
                count += WEIGHT * event.value.count("${")
                if not event.style and len(event.value) > LONGEST:
                    raise UserError(
                        f"{file} must have at most {LONGEST} characters in a value without quotes, "
                        f"got {len(event.value)}. Quote it, or cut it down."
                    )
            if isinstance(event, yaml.CollectionStartEvent):
                inside.append((event.anchor, before))
            elif event.anchor:
                sizes[event.anchor] = count - before
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            if anchor:
                sizes[anchor] = count - before
        if count > MOST or len(inside) > DEEPEST:
            raise UserError(
                f"{file} must have at most {MOST} values, where a ${{...}} counts as {WEIGHT}, "
                f"{DEEPEST} deep, got more. Cut it down."
            )


def _says(event: yaml.NodeEvent) -> bool:
    """Whether an event is more than the nothing of an empty file."""
    return bool(getattr(event, "value", True))


def _check_saved(file: Path, text: str) -> None:
    """Refuse what Hydra or OmegaConf would follow."""
    content = yaml.load(text, Loader=_LOADER)
    found = [key for key in ("hydra", "defaults") if isinstance(content, dict) and key in content]
    headers = [line.strip() for line in text.splitlines() if re.match(r"\s*#\s*@", line)]
    found += headers[:1]
    for event in yaml.parse(text, Loader=_LOADER):  # an escape may hide it in the text
        if interpolation := re.search(r"\$\{[^}\n]*\}?", getattr(event, "value", "")):
            found.append(interpolation[0])
            break
    if found:
        raise UserError(
            f"{file} must be the config of one run, got one with {' and '.join(found)}. "
            "Take that out, or put what is your own into a folder for --config-dir."
        )


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where it was built in
