"""Plain values of a config or a file, checked against the fields of a dataclass.

Pydantic checks them all in one call; its errors are reworded here, by their types.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict  # typing's own, as pydantic needs it in Python 3.11

from runner.errors import UserError, did_you_mean
from runner.texts import printable

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
"""For `pydantic.with_config` above a dataclass; those within it inherit it."""

RULES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    **dict.fromkeys(("dict_type", "dataclass_type"), "a group of settings, as {{KEY: VALUE}}"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list, as [a,b]"),
    "literal_error": "{expected}",
    "greater_than": "> {gt:g}",
    "greater_than_equal": ">= {ge:g}",
    "less_than": "< {lt:g}",
    "less_than_equal": "<= {le:g}",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of at most {max_length}",
    "needs_python_object": "",  # an alternative that no YAML can give, such as a tensor
}
"""What a value must be, by the type of pydantic's error; the braces are for its context."""


def validate(cls: type[T], node: Mapping[str, Any], where: str = "", kind: str = "a setting") -> T:
    """Make a dataclass of plain values, each of which has to be of its field's type.

    A whole number passes for a float, a bool for no number, and a list for a tuple.

    Args:
        cls: The dataclass, with the config `STRICT`.
        node: Its fields.
        where: The dotted key that they stand under; empty at the top.
        kind: What each of them is, for the message about an unknown one.

    Raises:
        UserError: If a field is unknown, missing, of a wrong type or out of range.
    """
    try:
        # as JSON, in which pydantic is strict and still takes a list for a tuple
        content = json.dumps(node, ensure_ascii=False).encode()
        return _adapter(cls).validate_json(content, strict=True)  # type: ignore[arg-type, no-any-return]
    except UnicodeEncodeError as error:
        before = printable(error.object[max(0, error.start - 40) : error.start])
        place = where or "The config"
        raise UserError(f"{place} must be text in UTF-8, got other bytes after {before}") from None
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise UserError(_explain(cls, node, where, kind, problems)) from None


@lru_cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    with warnings.catch_warnings(action="ignore"):  # about annotations that are no types
        return TypeAdapter(cls)


def make_fields(hints: Mapping[str, Any], open_ended: bool = False) -> type[Mapping[str, Any]]:
    """Make a type for `validate`: a mapping with these keys, of which any may be left out.

    Args:
        hints: The keys and their types. Any value passes for an annotation that is no type.
        open_ended: Whether it may have other keys too.
    """
    typed_dict: Any = TypedDict  # which type checkers know as a form of its own
    made = typed_dict("Fields", dict(hints), total=False)
    made.__pydantic_config__ = {**STRICT, "extra": "allow"} if open_ended else STRICT
    try:
        _adapter(made)
    except Exception:  # there are types that pydantic cannot read; whoever has them checks them
        return make_fields(dict.fromkeys(hints, Any), open_ended)
    return made  # type: ignore[no-any-return]


def _explain(
    cls: type, node: Mapping[str, Any], where: str, kind: str, problems: Sequence[ErrorDetails]
) -> str:
    """Write what is wrong with the first wrong field, and how it should be."""
    for problem in problems:
        *path, key = problem["loc"]
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            advice = did_you_mean(str(key), _names(cls, path)) or " Remove it."
            kind = "a setting" if path else kind
            return f"{_dotted(where, *path, key)} is not {kind}.{advice}"
        if problem["type"] == "missing":
            place, _ = _follow(node, path)
            return f"{_dotted(where, *place, key)} is missing. Give it a value."
    # each alternative of a union complains by itself; what got farthest knows best
    first = problems[0]["loc"][0]
    found = [(*_follow(node, p["loc"]), p) for p in problems if p["loc"][0] == first]
    place, value, _ = max(found, key=lambda each: len(each[0]))
    rules = dict.fromkeys(_rule(problem) for at, _, problem in found if at == place)
    got = printable(json.dumps(value), 100)
    if "a whole number" in rules and isinstance(value, float) and value.is_integer():
        got += f". Write {value:.0f}"
    return f"{_dotted(where, *place)} must be {' or '.join(filter(None, rules))}, got {got}."


def _rule(problem: ErrorDetails) -> str:
    if (rule := RULES.get(problem["type"])) is None:
        return problem["msg"].removeprefix("Input should be ")
    return rule.format(**problem.get("ctx", {})).replace("'", "")


def _dotted(*parts: object) -> str:
    return ".".join(str(part) for part in parts if part != "")


def _names(cls: type | None, path: Sequence[str | int]) -> list[str]:
    """The names of a class's fields, or of those of one within it."""
    for part in path:
        cls = getattr(cls, "__annotations__", {}).get(part)
    return list(getattr(cls, "__annotations__", ()))


def _follow(node: Any, path: Sequence[str | int]) -> tuple[list[str | int], Any]:  # noqa: ANN401
    """The keys of a path that lead to a value, without pydantic's names of types, and the value."""
    place = []
    for part in path:
        with suppress(LookupError, TypeError):
            node = node[part]
            place.append(part)
    return place, node
