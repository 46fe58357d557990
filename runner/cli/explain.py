"""Hydra's and OmegaConf's complaints about a command line, each as one line with the remedy."""

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner.cli.suggest import ALL, elsewhere, unknown_key, unknown_option
from runner.errors import UserError, causes
from runner.quoting import as_text
from runner.texts import printable

if TYPE_CHECKING:
    from runner.cli.hydra_internals import Loader

LONGEST = 2000  # characters of a line


def explain(
    error: Exception, loader: "Loader | None" = None, overrides: Sequence[str] = ()
) -> str | None:
    """Give back one line about a mistake in the configuration; None if the error is another."""
    given = loader.asked[1] if loader else overrides
    line = _explain(error, loader, given)
    return line and printable(re.sub(r"\s*\n\s*", " ", line.strip()), LONGEST)


def _explain(error: Exception, loader: "Loader | None", overrides: Sequence[str]) -> str | None:
    if "Config group override must be" in str(error):
        return "A group must be given one of its options, not null. Write GROUP=OPTION."
    if ours := next((link for link in causes(error) if isinstance(link, UserError)), None):
        return _meant_as_text(str(ours), overrides)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be used: {error.strerror}."
    if not isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
        return None
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, overrides)
    text = "\n".join(str(link) for link in (error, error.__cause__) if link and str(link))
    if loader:
        if match := re.search(
            r"Could not override '([^']+)'|config\. '([^']+)' does not exist", text
        ):
            return unknown_key(match[1] or match[2], loader, removed=match[1] is None)
        if match := re.search(r"Could not (?:find|load) '([^']+/[^']+)'", text):
            return unknown_option(match[1], loader)
    if line := _interpolation(text, overrides):
        return line
    if match := re.search(r"Ambiguous value for argument '([^'=]+)=(.+?)'\n", text):
        return _several(*match.groups())
    for pattern, answer in PATTERNS.items():
        if match := re.search(pattern, text, re.DOTALL):
            return answer.format(*match.groups())
    return " ".join(re.sub(r"\bSee https?://\S+.*|full_key: .*|object_type=.*", "", text).split())


PATTERNS = {
    r"Sweep parameters '(.+?)' requires --multirun": "{0} is several values. Sweep over them "
    "with -m.",
    r"does not support sweep type : INTERVAL_SWEEP": "interval(...) needs a sweeper that draws "
    "from it. Write the values as a,b,c or range(START,STOP,STEP).",
    r"Parent traversal .*\('(.+?)'\)": "{0} must lie in the folder where configs are looked for. "
    "Give its folder with --config-dir, or -cp for a saved config.",
    r"An item is already at '(.+?)'": "{0} has a value already: give another without the plus.",
    r"Missing mandatory value: (\S+)": "{0} must be given: {0}=VALUE.",
}
"""What Hydra's message matches, and ours instead."""


def _unreadable(override: str, overrides: Sequence[str]) -> str:
    """Say what to type for an override that Hydra cannot read."""
    if joined := _joined(override, overrides):
        return f"The shell has split an override at its spaces. Write {joined}."
    key, equals, value = override.partition("=")
    if not equals:
        return (
            f'{key} has no value. Write KEY=VALUE, without spaces around "=". --help has examples.'
        )
    if not _readable(f"{key}=1"):
        return f"{printable(key)} is not the name of a setting. {ALL}"
    if _readable(meant := f"{key}={value.lstrip('= ')}") and value.startswith("="):
        return f"{override} has one = too many. Write {shlex.quote(meant)}."
    if _readable(meant := f"{key}={_PAIR.sub(lambda m: m[2] + ':', value)}"):
        return f"{override}: keys within {{}} have no quotes. Write {shlex.quote(meant)}."
    if re.match(r"[\[{]|(choice|range|interval|glob|sort|shuffle)\(", value):
        if _readable(meant := f"{override}{_closing(value)}"):
            return f"{override} lacks a closing bracket. Write {shlex.quote(meant)}."
        return (
            f"Cannot read {override}. A list is '{key}=[a,b]', a mapping '{key}={{a:1,b:2}}', "
            f"a sweep -m {key}=a,b or -m '{key}=range(START,STOP)'."
        )
    meant = elsewhere(key, value) or as_text(key, value)
    return f"The value {value} needs quotes inside those of the shell. Write {meant}."


_PAIR = re.compile(r"""(["'])(\w[\w .-]*)\1 *:""")


def _closing(value: str) -> str:
    """The brackets that are still open, closed."""
    still = []
    for letter in value:
        if letter in "[{(":
            still.append("]})"["[{(".index(letter)])
        elif still and letter == still[-1]:
            still.pop()
    return "".join(reversed(still))


def _joined(override: str, overrides: Sequence[str]) -> str:
    """Join what a shell took apart at spaces, if that is an override: `epochs = 3`."""
    if override not in overrides:
        return ""
    place = list(overrides).index(override)
    for start in (place, place - 1):
        for end in range(place + 1, min(len(overrides), start + 9) + 1):
            parts = overrides[max(start, 0) : end]
            if "=" in "".join(parts[1:]) or parts[0][-1:] in "=[,{":
                text = re.sub(r" *= *", "=", " ".join(parts), count=1)
                if len(parts) > 1 and text.partition("=")[2] and _readable(text):
                    return shlex.quote(text)
    return ""


def _readable(override: str) -> bool:
    with suppress(HydraException):
        OverridesParser.create().parse_override(override)
        return True
    return False


def _several(key: str, values: str) -> str:
    """Say of several values where there may be one how all are tried, and how they are one."""
    if key == "tricks":
        return f"To switch on all of them: 'tricks=[{values}]'; to try each alone: add -m."
    how = f"make it a factor: 'ablation.factors={{{key}:[{values}]}}'"
    if key == "seed":
        how = f"'ablation.seeds=[{values}]'"
    also = "" if key in ("name", "variant") else f"; in an ablation, {how}"
    text = "" if _NUMBERS.fullmatch(values) else f" To give it as one text: {as_text(key, values)}."
    return f"{key} must have one value, got {values}. Sweep over them with -m{also}.{text}"


_NUMBERS = re.compile(r"[-+.,\de]+")


def _interpolation(text: str, overrides: Sequence[str]) -> str | None:
    """Say what is wrong with a `${...}`, and how to write one that is meant as it stands."""
    typed = [override for override in overrides if "${" in override]
    if re.search("Recursive interpolation|RecursionError", text):
        return f"{' and '.join(typed) or 'A ${...}'} refers to itself. Give a value."
    if match := re.search(r"Environment variable '(.+?)' not found", text):
        name = match[1]
        return f"The environment has no variable {name}. Set it, or write ${{oc.env:{name},VALUE}}."
    if match := re.search(r"Interpolation key '(.+?)' not found", text):
        what = f"${{{match[1]}}} names no setting. {ALL}"
    elif match := re.search(r"Unsupported interpolation type (\S+)", text):
        what = f"${{{match[1]}:...}} is not supported; ${{oc.env:NAME}} is."
    else:
        return None
    if typed:
        key, _, value = typed[0].partition("=")
        what += f" To set this text literally: {as_text(key, value)}."
    return what


def _meant_as_text(line: str, overrides: Sequence[str]) -> str:
    """Add to a line about a value that is no text how it is given as one."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if re.match(rf"{re.escape(key)} must be (text|the name)\b", line) and _readable(override):
            read = OverridesParser.create().parse_override(override).value()
            if read is not None and not isinstance(read, str):
                return f"{line} To give it as text: {as_text(key, value)}."
    return line
