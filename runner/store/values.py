"""YAML that holds plain values alone, judged as the parser sees it, before anything is built.

The one reader of YAML that others may have written: in run folders, saved configs, users' folders.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runner.store.files import DEEPEST, MOST, Damaged, read_bytes

WEIGHT = 480
"""Values that an interpolation counts as, since each may double another."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where it was built in

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

NUMBER = re.compile(r"[-+]?([0-9][0-9_]*)?\.?[0-9_]*([eE][-+]?[0-9]+)?$")
"""Texts that OmegaConf would read as numbers, and others."""


class _Dumper(DUMPER):  # type: ignore[misc,valid-type]
    """Writes what OmegaConf reads as it is, in the way that it would write it."""

    def ignore_aliases(self, _: object) -> bool:
        """Write what is there twice twice."""
        return True


def _quoted(dumper: Any, text: str) -> yaml.ScalarNode:  # noqa: ANN401
    style = "'" if NUMBER.match(text) else None
    node: yaml.ScalarNode = dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)
    return node


_Dumper.add_representer(str, _quoted)


def dump_values(content: Mapping[str, Any]) -> str:
    """Write plain values as YAML, twenty times as fast as OmegaConf."""
    text: str = yaml.dump(
        content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    return text


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a file may have; by default what the runner itself writes."""

    bytes: int = MOST
    values: float = math.inf
    """Each as often as an alias repeats it."""
    longest: float = math.inf
    """Characters of a value without quotes, of which a number may be made."""
    aliases: bool = False
    links: bool = False
    """Whether the file may be one."""
    interpolations: bool = True
    """Texts with `${`, which OmegaConf would follow."""


def read_values(path: Path, limits: Limits = Limits()) -> object:
    """Read a YAML file of plain values; None if it is empty.

    Raises:
        FileNotFoundError: If it is not there.
        Damaged: If it is beyond the limits, has a tag, or is no YAML; the text follows its name.
    """
    content = read_bytes(path, limits.bytes, follow=limits.links)
    return parse_values(content, limits)


def parse_values(content: bytes, limits: Limits = Limits()) -> object:
    """Read YAML of plain values; None if it is empty.

    Raises:
        Damaged: As `read_values` does.
    """
    try:
        text = content.decode()
        _judge(yaml.parse(text, Loader=LOADER), limits)
        return yaml.load(text, Loader=LOADER)
    except Damaged:
        raise
    except (ValueError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split()).replace('"<unicode string>", ', "")
        raise Damaged(f"must be YAML in UTF-8: {problem}") from error


def _judge(events: Iterable[yaml.Event], limits: Limits) -> None:
    """Go once through what the parser sees; an alias counts as what it repeats."""
    sizes: dict[str | None, int] = {}  # of what has an anchor
    inside: list[tuple[str | None, int]] = []  # the anchors of what is open, the count before it
    count = 0
    for event in events:
        anchor, before = getattr(event, "anchor", None), count
        if isinstance(event, yaml.NodeEvent) and (problem := _problem(event, limits)):
            raise Damaged(f"{problem} in line {event.start_mark.line + 1}")
        if isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise Damaged(f"must be without the alias *{anchor}, a part of itself")
            count += sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            count += 1 + WEIGHT * event.value.count("${")
            sizes[anchor] = count - before
        elif isinstance(event, yaml.CollectionStartEvent):
            count += 1
            inside.append((anchor, before))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            sizes[anchor] = count - before
        if len(inside) > DEEPEST:
            raise Damaged(f"must be at most {DEEPEST} deep, got more")
        if count > limits.values:
            most = f"{limits.values} values, where a ${{...}} counts as {WEIGHT}"
            raise Damaged(f"must have at most {most}, got more")


def _problem(event: yaml.NodeEvent, limits: Limits) -> str | None:
    """Find what is wrong with a value by itself."""
    value = getattr(event, "value", "")
    if event.anchor and not limits.aliases:
        return f"must be without anchors and aliases, got the anchor {event.anchor}"
    if getattr(event, "tag", None):
        return f"must have no tags, got {event.tag}"
    if len(value) > limits.longest and not event.style:
        return f"must have at most {limits.longest} characters in a value without quotes, got more"
    if not limits.interpolations and (found := re.search(r"\$\{[^}\n]*\}?", value)):
        return f"must be resolved, got {found[0]}"
    return None
