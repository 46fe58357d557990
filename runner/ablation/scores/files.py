"""Scores made elsewhere: tables in files, and folders of runs, as records of cells.

CSV, TSV, JSON lines, a JSON list; a folder of Biscuits' runs, or of TensorBoard's events.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runner.ablation.find import find_ablations, find_loose_runs
from runner.ablation.scores.cells import Cell
from runner.ablation.scores.columns import Records, Unsaid
from runner.errors import UserError
from runner.names import flatten
from runner.texts import listed, printable, reason

MOST_ROWS = 10**6
STDIN = "-"
TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")


def read_records(source: str, tag: str | None = None) -> Records:
    """Read a table from a file, standard input (`-`) or a folder.

    Args:
        source: What to read.
        tag: The tag of TensorBoard's that is the score, for a folder of events.

    Raises:
        UserError: If it cannot be read, or is no table.
        Unsaid: If a tag is missing or unknown.
    """
    path = Path(source)
    try:
        if source == STDIN:
            content = sys.stdin.buffer.read()
        elif path.is_dir():
            return _read_folder(path, tag)
        else:
            content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{printable(source)}: {reason(error)}. Give a table ({', '.join(TABLES)}), a folder "
            f"of runs, or {STDIN} for standard input."
        ) from None
    records = read_text(_decode(content, source), path.suffix.lower())
    if len(records.places) > MOST_ROWS:
        raise UserError(f"{printable(source)} has more than {MOST_ROWS:,} rows. Give a part of it.")
    return records


def read_text(text: str, suffix: str = "") -> Records:
    """Read a table from text; where the suffix does not say it, its beginning says what it is."""
    start = text.lstrip()[:1]
    if suffix == ".json" or start == "[":
        return _from_json(text)
    if suffix in (".jsonl", ".ndjson") or start == "{":
        return _from_lines(text)
    return _from_cells(text, suffix)


def _decode(content: bytes, source: str) -> str:
    """Decode UTF-8, or the UTF-16 of spreadsheets, which a mark at the beginning tells."""
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{printable(source)}, line {line}: must be text in UTF-8, got other bytes. Save it as "
            "CSV in UTF-8."
        ) from None


def _from_cells(text: str, suffix: str) -> Records:
    """Read comma, semicolon or tab between cells, whichever the head has most of."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    between = "\t" if suffix == ".tsv" else max(",;\t", key=head.count)
    lines = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=between,
        quoting=csv.QUOTE_NONE if between == "\t" else csv.QUOTE_MINIMAL,
    )
    rows: list[list[str]] = []
    places = []
    try:
        for row in lines:
            if any(cell.strip() for cell in row):
                rows.append([cell.strip().strip('"' if between == "\t" else "") for cell in row])
                places.append(f"line {lines.line_num}")
    except csv.Error as error:
        raise UserError(f"line {lines.line_num}: {error}. Correct it.") from None
    if not rows:
        raise UserError("It is empty. Expected a head, and below it a row for each run.")
    names, *body = rows
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"{places[0]}: two columns are called {printable(twice, 60)!r}. Rename one."
        )
    for row, place in zip(body, places[1:], strict=True):
        if len(row) != len(names):
            raise UserError(
                f"{place} has {len(row)} cells, the head has {len(names)}. Is there a separator "
                "within a cell?"
            )
    columns: dict[str, list[Cell]] = {n: [row[i] for row in body] for i, n in enumerate(names)}
    return Records(columns, places[1:])


def _from_json(text: str) -> Records:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"It is no JSON: {reason(error)}. Correct it.") from None
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise UserError(
            'It must be a list of records, as [{"variant": "baseline", "seed": 0, "score": 0.91}], '
            "or such a record on each line."
        )
    return _from_mappings(content, [f"record {n}" for n in range(1, len(content) + 1)])


def _from_lines(text: str) -> Records:
    rows, places = [], []
    for n, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"line {n} is no JSON: {reason(error)}. Correct it.") from None
        if not isinstance(row, dict):
            raise UserError(f'line {n} must be a record, as {{"variant": "baseline", ...}}.')
        rows.append(row)
        places.append(f"line {n}")
    return _from_mappings(rows, places)


def _from_mappings(rows: Iterable[Mapping[str, Any]], places: list[str]) -> Records:
    """Make columns of records; those within records get dotted names."""
    flat = [dict(flatten(row)) for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    return Records({str(name): [row.get(name) for row in flat] for name in names}, places)


def _read_folder(folder: Path, tag: str | None) -> Records:
    """Read runs.csv, Biscuits' own runs, or the event files of any runs."""
    table = folder / "runs.csv"
    if table.is_file() and tag is None:
        return read_text(_decode(table.read_bytes(), str(table)), ".csv")
    if tag is None and (plans := [*find_ablations(folder)]):
        raise UserError(
            f"{printable(folder)}: {printable(plans[0])} is an ablation, and has its verdicts: "
            f"python -m runner.report {printable(plans[0])}"
        )
    if tag is None and (runs := [*find_loose_runs(folder)]):
        return _from_mappings(
            [
                {
                    "variant": run.variant,
                    "seed": run.seed,
                    "status": run.state,
                    **{k: v for k, v in (run.result or {}).items() if k.startswith("test/")},
                }
                for run in runs
            ],
            [str(run.folder) for run in runs],
        )
    return _read_events(folder, tag)


def _read_events(folder: Path, tag: str | None) -> Records:
    """Read the last value of a tag from the event files of each folder below."""
    files = sorted(p for p in folder.rglob("*tfevents*") if p.is_file() and p.suffix != ".view")
    if not files:
        raise UserError(f"{printable(folder)} holds no runs and no event files of TensorBoard.")
    last: dict[Path, dict[str, tuple[int, float, float]]] = {file.parent: {} for file in files}
    for file in files:
        _read_events_of(file, last[file.parent])
    tags = sorted({name for found in last.values() for name in found})
    if tag is None or tag not in tags:
        known = re.sub(r"\s+", " ", listed(tags, 30))
        raise Unsaid(
            f"--tag: which one is the score? There are: {known}."
            if tag is None
            else f"--tag: no {printable(tag, 80)} in any run. There are: {known}."
        )
    rows = [
        {"run": str(place.relative_to(folder)), tag: found[tag][2] if tag in found else None}
        for place, found in last.items()
    ]
    return _from_mappings(rows, [str(place) for place in last])


def _read_events_of(file: Path, last: dict[str, tuple[int, float, float]]) -> None:
    """Add the numbers of an event file: for each tag the one of the last step."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    try:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value if event.HasField("summary") else ():
                if value.metadata.plugin_data.plugin_name == "scalars":
                    known = float(make_ndarray(value.tensor).item())
                    step = (event.step, event.wall_time, known)
                    if step[:2] >= last.get(value.tag, step)[:2]:
                        last[value.tag] = step
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{printable(file)} cannot be read: {reason(error)}.") from None
