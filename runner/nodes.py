"""A node of the config to an object, behind the allow-list."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runner.allowed import locate
from runner.config import OWN_KEYS, Node
from runner.errors import UserError


def call(node: Node, where: str, group: str, **given: Any) -> Any:  # noqa: ANN401
    """Call a node's target with its keys, without those that are the runner's own."""
    target = locate(node["_target_"], where, group)
    taken = {k: v for k, v in node.items() if k != "_target_" and k not in OWN_KEYS[group]}
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in taken.items()}
    with with_config_path(where):
        return target(**tuples, **given)


@contextmanager
def with_config_path(where: str) -> Iterator[None]:
    """Put the config's key before a constructor's error message."""
    try:
        yield
    # torch has a RuntimeError for what does not fit into memory, or into 64 bits
    except (ValueError, TypeError, RuntimeError, ArithmeticError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: {text}") from error
