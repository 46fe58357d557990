"""The report of an ablation, or of any folder of runs: a page, Markdown, JSON, a table.

find (ablation/find.py) -> verdicts -> format, sentences, tables (in words) -> text, markdown, html,
with plots and curves as pictures; answers -> where (the classes); as_json for programs. From the
files alone: nothing found in a folder is executed, and every string of it is escaped.
"""

from pathlib import Path

from runner.ablation.verdicts import Findings
from runner.garbage import resting
from runner.report import as_json, html, markdown, multirun, where
from runner.report.multirun import Multirun
from runner.report.text import tuning_lines, verdict_table, verdicts
from runner.store.files import write_json, write_text

__all__ = ["tuning_lines", "verdict_table", "verdicts", "write_report"]

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


@resting()
def write_report(found: Findings | Multirun) -> list[Path]:
    """Write `report.html`, `report.md` and `report.json`; give back their paths.

    Args:
        found: The findings of an ablation so far, or a folder of runs without a plan.

    Raises:
        UserError: If the folder cannot be written into.
    """
    if isinstance(found, Findings):
        errs = where.of_ablation(found)
        texts = html.page(found, errs), markdown.page(found, errs)
        content = as_json.content(found, errs)
    else:
        errs = multirun.where_it_errs(found)
        texts = multirun.page(found, errs), multirun.markdown_page(found, errs)
        content = multirun.content(found, errs)
    for name, text in zip((HTML, MARKDOWN), texts, strict=True):
        write_text(found.root / name, text)
    write_json(found.root / JSON, content)
    return [found.root / name for name in (HTML, MARKDOWN, JSON)]
