"""The settings of launchers that are numbers, checked before anything is planned or sent."""

import math
from collections.abc import Sequence

from runner.errors import UserError


def require_whole(key: str, value: object, least: int, others: Sequence[str | None] = ()) -> None:
    """Refuse what is no whole number from `least` on, and none of some other values.

    Raises:
        UserError: If it is neither.
    """
    is_other = isinstance(value, str | None) and value in others
    if not is_other and (type(value) is not int or value < least):
        words = "".join(f"{_written(other)} or " for other in others)
        raise UserError(
            f"hydra.launcher.{key} must be {words}a whole number >= {least}, got {_written(value)}."
        )


def require_positive(key: str, value: object) -> None:
    """Refuse what is no finite number above 0.

    Raises:
        UserError: If it is none.
    """
    if not isinstance(value, int | float) or value is True or not 0 < value < math.inf:
        raise UserError(f"hydra.launcher.{key} must be a number > 0, got {_written(value)}.")


def _written(value: object) -> str:
    """Write a value as a config does."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
