"""A table of image files and their labels: a CSV file into rows, or one line about what is wrong.

Every problem is told with the numbers of the lines that have it.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from runner.data.layout import SPLITS
from runner.errors import UserError, did_you_mean
from runner.quoting import as_text
from runner.texts import listed, reason, short

USUAL = {
    "file": ("filename", "path", "filepath", "image", "imagepath", "imageid", "img", "name", "id"),
    "label": ("labels", "class", "classname", "category", "target", "species", "diagnosis", "y"),
    "split": ("set", "subset", "partition", "phase", "dataset"),
    "group": ("groupid", "patient", "patientid", "subject", "subjectid", "plant", "plantid"),
}
"""What the columns are often called, without spaces and underscores: to suggest one."""

MOST_BYTES = 2**30  # a table of more is none that was meant


class Columns(NamedTuple):
    """What the columns of a table are called."""

    file: str
    label: str
    split: str | None
    group: str | None


class Row(NamedTuple):
    """A line of a table that names an image."""

    line: int
    file: str
    label: str
    split: str
    """`train`, `test` or `validation`."""
    group: str
    """"" where there is no such column."""


class Table(NamedTuple):
    """The rows of a table."""

    rows: list[Row]
    has_split: bool
    has_group: bool
    hints: dict[str, str]
    """For split and group, where there is no such column, the setting that names one like it."""


def read_table(file: Path, columns: Columns) -> Table:
    """Read a table, with its separator found in the first line: a comma, semicolon or tab.

    Raises:
        UserError: If it cannot be read, a column is missing, or a cell is empty or unknown.
    """
    text = _read(file)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    lines = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        cells = [
            (lines.line_num, [c.strip() for c in line]) for line in lines if "".join(line).strip()
        ]
    except csv.Error as error:
        raise UserError(
            f"data.file: line {lines.line_num} of {short(file)} is no CSV: {reason(error)}. "
            "Correct it; a quote within quotes is written twice."
        ) from None
    if not cells:
        raise UserError(f"data.file: {short(file)} is empty. Write file,label and a line for each.")
    (_, header), *body = cells
    place = _find_columns(file, header, columns)
    if not body:
        raise UserError(f"data.file: {short(file)} has a header alone. Add a line for each image.")
    _refuse(file, f"other than {len(header)} cells", (n for n, c in body if len(c) != len(header)))
    for key, column in place.items():
        empty = (n for n, c in body if not c[column])
        _refuse(file, f"an empty {header[column]}", empty, key in ("split", "group"))
    rows = [
        Row(
            n,
            c[place["file"]],
            c[place["label"]],
            *(_cell(c, place, k) for k in ("split", "group")),
        )
        for n, c in body
    ]
    taken = {header[column] for column in place.values()}
    free = [name for name in header if name and name not in taken]
    hints = {key: _hint(key, free) for key in ("split", "group") if key not in place}
    return Table(list(_with_splits(file, rows)), "split" in place, "group" in place, hints)


def _cell(cells: Sequence[str], place: dict[str, int], key: str) -> str:
    return cells[place[key]] if key in place else ""


def _read(file: Path) -> str:
    """Return the text of a table, with or without a byte-order mark."""
    if not file.is_file():  # reading a pipe would block
        what = "is not a file" if file.exists() else "does not exist"
        raise UserError(f"data.file: {short(file)} {what}. Expected a table of files and labels.")
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"data.file: {short(file)} is larger than 1 GB. Divide it.")
        content = file.read_bytes()
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise UserError(
            f"data.file: {short(file)} cannot be read: {reason(error)}. Make it readable."
        ) from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"data.file: line {line} of {short(file)} is not UTF-8. Save the table as CSV UTF-8."
        ) from None


def _find_columns(file: Path, header: Sequence[str], columns: Columns) -> dict[str, int]:
    """Return where the columns are; those for split and group may be missing."""
    known = [name.casefold() for name in header]
    place, missing = dict[str, int](), dict[str, str]()
    for key, name in columns._asdict().items():
        if name is None:
            continue
        if known.count(name.casefold()) > 1:
            raise UserError(
                f"data.file: {short(file)} has two columns {short(name)}. Rename or remove one."
            )
        if name.casefold() in known:
            place[key] = known.index(name.casefold())
        elif key in ("file", "label") or name != key:
            missing[key] = name
    if missing:
        taken = {header[column] for column in place.values()}
        free = [name for name in header if name and name not in taken]
        hints = [hint for key, name in missing.items() if (hint := _hint(key, free, name))]
        if not hints and len(free) == len(missing) == 1:
            hints = [_setting(next(iter(missing)), free[0])]
        rest = (
            f"Set {' '.join(hints)}"
            if hints
            else "Write file,label there, or set data.file_column and data.label_column"
        )
        raise UserError(
            f"data.file: the first line of {short(file)} has no column "
            f"{' and no column '.join(map(short, missing.values()))}, only "
            f"{listed(header) or 'one without a name'}. {rest}."
        )
    return place


def _hint(key: str, free: Sequence[str], wanted: str = "") -> str:
    """Write the setting that names a missing column, if one of the others is meant."""
    plain = {"".join(c for c in name.casefold() if c.isalnum()): name for name in free}
    found = [plain[name] for name in USUAL[key] if name in plain]
    if wanted and not found:
        found = get_close_matches(wanted, free, n=1)
    return _setting(key, found[0]) if found else ""


def _setting(key: str, column: str) -> str:
    plain = column.isascii() and column.isidentifier()
    return f"data.{key}_column={column}" if plain else as_text(f"data.{key}_column", column)


def _with_splits(file: Path, rows: Iterable[Row]) -> Iterator[Row]:
    """Give the splits their names; a table without them is all for training."""
    names = {name: split for split, usual in SPLITS.items() for name in usual} | {"": "train"}
    unknown = dict[str, int]()
    for row in rows:
        if row.split.casefold() not in names:
            unknown.setdefault(row.split, row.line)
        else:
            yield row._replace(split=names[row.split.casefold()])
    if unknown:
        words = [f"{word} (line {line})" for word, line in unknown.items()]
        near = did_you_mean(next(iter(unknown)).casefold(), filter(None, names))
        raise UserError(
            f"data.file: the splits in {short(file)} must be train, val or test, got "
            f"{listed(words, 5)}.{near} Correct them, or set data.split_column=null."
        )


def _refuse(file: Path, what: str, lines: Iterable[int], optional: bool = False) -> None:
    """Refuse the lines that have something that they must not."""
    found = [str(line) for line in lines]
    if found:
        column = " Without a value for every image, remove the column." if optional else ""
        plural = "s" * (len(found) > 1)
        raise UserError(
            f"data.file: {short(file)} has {what} in line{plural} {listed(found, 5)}. "
            f"Correct {'them' if plural else 'it'}, or remove the line{plural}.{column}"
        )
