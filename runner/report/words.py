"""Numbers and names as a reader meets them: units, signs, lengths; safe to show anywhere."""

import math
import re

from runner.ablation.wording import SHARES
from runner.store.runs import number as number
from runner.texts import printable as printable
from runner.texts import printable_lines as printable_lines
from runner.texts import shorten as shorten


def is_share(name: str) -> bool:
    """Tell whether a metric is a share, such as an accuracy, and shown in percent."""
    return name.endswith(SHARES)


def scale(name: str) -> float:
    """Give back by what a number is multiplied to be shown."""
    return 100.0 if is_share(name) else 1.0


def unit(name: str) -> str:
    """Name the unit of a difference."""
    return "percentage points" if is_share(name) else spaced(name)


def spaced(name: str) -> str:
    """Write `test/shift_consistency` as `test shift consistency`."""
    return printable(re.sub(r"[/_]+", " ", name))


def difference(value: float | None, name: str) -> str:
    """Write a difference of a number with its sign, `+0.42`; `-` if there is none."""
    return "-" if value is None else _zero(f"{value:+.4g}", f"{100 * value:+.2f}", name)


def size(value: float | None, name: str) -> str:
    """Write the size of a difference, without a sign; `-` if there is none."""
    return "-" if value is None else _zero(f"{value:.3g}", f"{100 * value:.2f}", name)


def with_unit(value: float, name: str) -> str:
    """Write the size of a difference with its unit: `0.5 points`, or `0.01`."""
    return f"{100 * value:.3g} points" if is_share(name) else f"{value:.3g}"


def score(value: float, name: str) -> str:
    """Write a number that was reported: `98.7 %` of a share, three digits of another."""
    share = is_share(name) or name.endswith("share")
    return f"{100 * value:.3g} %" if share else f"{value:.3g}"


def between(interval: tuple[float, float] | None, name: str) -> str:
    """Write an interval, `+0.11 to +0.73`; nothing if there is none, or it is endless."""
    if interval is None or not all(map(math.isfinite, interval)):
        return ""
    return " to ".join(difference(end, name) for end in interval)


def ratio(value: float | None) -> str:
    """Write a ratio, `x1.22`; `-` if there is none."""
    return "-" if value is None else f"x{value:.2f}"


def count(number: int, noun: str) -> str:
    """Write `1 run` or `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _zero(plain: str, percent: str, name: str) -> str:
    """Choose by the number's kind; nothing is written as minus nothing."""
    text = percent if is_share(name) else plain
    return text.lstrip("+-") if not text.strip("+-0.") else text
