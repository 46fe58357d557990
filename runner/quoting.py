"""Values as Hydra's grammar of overrides and a shell read them back."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

_WORDS = {"true", "false", "null", "inf", "nan", "yes", "no", "on", "off"}


def literal(value: Any) -> str:  # noqa: ANN401
    """Write a value in the grammar of Hydra's overrides.

    >>> literal({"a": [1, "x y", None, True]})
    "{a:[1,'x y',null,true]}"
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(literal, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) and value.lower() not in _WORDS:
        return value
    return QuotedString(value, Quote.single).with_quotes()


def as_text(key: str, text: str) -> str:
    r"""Write what to type in a shell to give a setting a text, character for character.

    >>> print(as_text("data.root", "my photos (2)"))
    'data.root="my photos (2)"'
    """
    dollar = re.sub(r"(\\*)\$\{", lambda m: 2 * m[1] + r"\${", text)  # else OmegaConf follows it
    return shlex.quote(f"{key}={QuotedString(dollar, Quote.double).with_quotes()}")
