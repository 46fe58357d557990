"""The report of an ablation, or of any folder of runs: a page, Markdown, JSON, a table.

folders (what lies there) -> verdicts -> rows, story, sections (in words) -> text, markdown, html,
with plots and curves as pictures, and plain for programs -> write. From the files alone: nothing
found in a folder is executed, and every string of it is escaped.
"""

from runner.report.text import verdict_table
from runner.report.write import write_report

__all__ = ["verdict_table", "write_report"]
