"""Pictures: SVG inside a page, in its colours and with the same bytes each time, or PNG files."""

import html
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Colors = Mapping[str, str]
"""The colours of a picture by the names of page.css, such as `ink`, `helps` and `c1`."""

NAMES = (
    *("ink", "muted", "line", "paper", "band", "reference", "zero"),
    *("helps", "hurts", "negligible", "undecided", "inactive", "broken", "none"),
    *("c1", "c2", "c3", "c4", "c5", "c6"),
)

PLACEHOLDERS = {name: f"#fe01{number:02x}" for number, name in enumerate(NAMES, 1)}
"""Drawn in place of the page's variables, which matplotlib does not know."""

WIDTH = 5.0  # inches of 72 units: about the width of a phone


@dataclass(frozen=True)
class Picture:
    """A picture of a report."""

    title: str
    """What it shows, for those who cannot see it."""
    key: str
    """Short and unique in the page: no two pictures share an id."""
    height: float
    """In inches; the width is that of a phone, and scales."""
    paint: "Callable[[Figure, Colors], None]"
    """Draws into the empty figure."""

    def svg(self) -> str:
        """Draw it as an element of a page."""
        sheet = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        style = {"svg.fonttype": "none", "svg.hashsalt": self.key, "figure.facecolor": "none"}
        with self._figure(PLACEHOLDERS, style) as figure:
            figure.savefig(sheet, format="svg", metadata=nothing)
        return _embed(sheet.getvalue(), self.title, self.key)

    def png(self) -> bytes:
        """Draw it as a file of its own, in the page's colours by day."""
        sheet = io.BytesIO()
        with self._figure(_daylight(), {"figure.facecolor": _daylight()["paper"]}) as figure:
            figure.savefig(sheet, format="png", dpi=150)
        return sheet.getvalue()

    @contextmanager
    def _figure(self, colors: Colors, style: dict[str, Any]) -> "Iterator[Figure]":
        import matplotlib  # takes half a second, which a sweep's workers need not spend
        from matplotlib.figure import Figure

        with matplotlib.rc_context(_style(colors) | style), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure = Figure(figsize=(WIDTH, self.height), layout="constrained")
            self.paint(figure, colors)
            yield figure


def _style(colors: Colors) -> Any:  # noqa: ANN401
    return {
        "axes.axisbelow": True,
        "axes.edgecolor": colors["line"],
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": colors["muted"],
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "grid.color": colors["line"],
        "grid.linewidth": 0.5,
        "legend.frameon": False,
        "legend.labelcolor": colors["ink"],
        "text.color": colors["ink"],
        "text.parse_math": False,  # a dollar in a name is a dollar
        "xtick.color": colors["muted"],
        "ytick.color": colors["muted"],
    }


@cache
def _daylight() -> Colors:
    """Read the colours of the light page."""
    light = (files("runner.report") / "page.css").read_text("utf-8").partition("@media")[0]
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", light))


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
    return re.sub(r"#fe01(..)", lambda found: f"var(--{NAMES[int(found[1], 16) - 1]})", tag)
