"""The three files of a report, written into the folder that it is about."""

from pathlib import Path
from typing import Any

from runner.ablation.verdicts import Findings
from runner.report import html, markdown, multirun, plain
from runner.report.multirun import Multirun
from runner.store.files import write_json, write_text

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


def write_report(found: Findings | Multirun) -> list[Path]:
    """Write `report.html`, `report.md` and `report.json`; give back where they lie.

    Args:
        found: What an ablation came to so far, or a folder of runs without a plan.

    Raises:
        UserError: If the folder cannot be written into.
    """
    if isinstance(found, Findings):
        return _write(found.root, html.page(found), markdown.page(found), plain.content(found))
    texts = multirun.page(found), multirun.markdown_page(found)
    return _write(found.root, *texts, multirun.content(found))


def _write(root: Path, page: str, text: str, content: dict[str, Any]) -> list[Path]:
    write_text(root / HTML, page)
    write_text(root / MARKDOWN, text)
    write_json(root / JSON, content)
    return [root / name for name in (HTML, MARKDOWN, JSON)]
