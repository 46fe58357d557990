"""From a figure to SVG inside a page: its colours, text as text, the same bytes each time."""

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = (
    *("ink", "muted", "line", "paper", "band", "reference", "zero"),
    *("helps", "hurts", "negligible", "undecided", "inactive", "broken", "none"),
    *("c1", "c2", "c3", "c4", "c5", "c6"),
)
"""The colours of the page, variables of page.css."""

COLORS = {name: f"#fe01{number:02x}" for number, name in enumerate(NAMES, 1)}
"""What stands for them while matplotlib draws, which knows no variables."""

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": COLORS["line"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": COLORS["muted"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "grid.color": COLORS["line"],
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.labelcolor": COLORS["ink"],
    "svg.fonttype": "none",
    "text.color": COLORS["ink"],
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": COLORS["muted"],
    "ytick.color": COLORS["muted"],
}

WIDTH = 5.0  # inches of 72 units: about what a phone is wide


def draw(title: str, key: str, height: float, paint: Callable[["Figure"], None]) -> str:
    """Draw a figure and give it back as an element of a page.

    Args:
        title: What it shows, for those who hear the page.
        key: Short and of its own in the page: no two figures share an id.
        height: In inches; the width is that of a phone, and scales.
        paint: Draws into the empty figure.
    """
    import matplotlib
    from matplotlib.figure import Figure

    sheet = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's has it
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(sheet, format="svg", metadata=nothing)
    return _embed(sheet.getvalue(), title, key)


def _embed(svg: str, title: str, key: str) -> str:
    """Turn a file of matplotlib's into an element that lies inside HTML."""
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.S)
    body = re.sub(r"<[^>]*>", lambda tag: _tidy(tag[0], key), body)
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    return (
        f'<svg {view[0]} role="img" aria-labelledby="{key}-title">'
        f'<title id="{key}-title">{html.escape(title)}</title>\n{body}\n</svg>'
    )


def _tidy(tag: str, key: str) -> str:
    """Shorten a tag, make its ids the figure's own, and its colours those of the page."""
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub(r'\b(?:xlink:)?href="#', f'href="#{key}-', tag)
    tag = re.sub(r'\bid="', f'id="{key}-', tag).replace("url(#", f"url(#{key}-")
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    tag = tag.replace("'DejaVu Sans'", "var(--font)")
    return re.sub(r"#fe01([0-9a-f]{2})", lambda found: _variable(int(found[1], 16)), tag)


def _variable(number: int) -> str:
    return f"var(--{NAMES[number - 1]})"
