"""A data set of image files that a table names, with a label for each: listed, and decoded once."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from runner.data.decode import Bands, Bits, Reading, Size
from runner.data.folds import Fold, Folds, HoldOut, Share, SplitSeed, make_source, settle
from runner.data.geometry import Resize
from runner.data.images import read_images
from runner.data.listing import SUFFIXES, ImageFile, Listing, folded
from runner.data.source import Source
from runner.data.table import Columns, Row, Table, read_table
from runner.errors import UserError
from runner.quoting import as_text
from runner.texts import listed, short


def image_table(
    file: str,
    root: str | None = None,
    file_column: str = "file",
    label_column: str = "label",
    split_column: str | None = "split",
    group_column: str | None = "group",
    suffix: str = "",
    size: Size | None = None,
    cache: str | None = None,
    test: Share | None = None,
    folds: Folds | None = None,
    fold: Fold | None = None,
    split_seed: SplitSeed = 0,
    resize: Resize = "stretch",
    bits: Bits = 8,
    bands: Bands = "auto",
) -> Source:
    """Return the images that a CSV file names, in UTF-8, separated by commas, semicolons or tabs.

    Its first line names the columns: the file of each image and its label, and optionally its
    split (`train`, `val` or `test`) and its group. The labels are the classes, sorted, by number if
    all are whole numbers. Images of one group, such as those of one patient, stay together: in one
    split, and in one fold. Without a column of splits the test images are a share or a fold.

    Images without rows are left out, which is reported once, before the others are decoded.

    Args:
        file: The table.
        root: The folder that the paths are relative to; None for that of the table. A path may
            lead out of it.
        file_column: What the column of paths is called; case does not count in these names.
        label_column: That of labels.
        split_column: That of splits; None if there is none.
        group_column: That of groups; None if there is none.
        suffix: What to add to each path, such as `.jpg`.
        size: As `image_folder` has it, and so have the others.
        cache: Folder of the decoded images.
        test: Share of the images that is held out for testing, nearly the same of each class.
        folds: Into how many folds the images are divided; None for five, where `fold` is given.
        fold: Which of them is the test split, from 0.
        split_seed: Seed of the choice.
        resize: How to resize.
        bits: Of a pixel, 8 or 16.
        bands: Which become channels.

    Raises:
        UserError: If the table cannot be read, or lacks a column or a cell; names files that are
            not there, or one file with two labels; there are fewer than two classes, or one
            without training images; a group is in two splits; or the images cannot be read.
    """
    table = Path(os.path.expanduser(file))
    folder = table.parent if root is None else Path(os.path.expanduser(root))
    columns = Columns(file_column, label_column, split_column, group_column)
    hold_out = HoldOut(test, folds, fold, split_seed)
    reading = Reading(size, resize, bits, bands)

    def look() -> Listing:
        found = read_table(table, columns)
        return _list(table, folder, suffix, found, hold_out.setting)

    listing = settle(look(), hold_out)
    images, origin = read_images(
        folder.resolve(),
        listing.files,
        reading,
        cache,
        rescan=lambda: look().files,
        ignored=listing.ignored,
        named=table.resolve(),
    )
    return make_source(listing, images, reading, origin)


def _list(table: Path, root: Path, suffix: str, content: Table, hold_out: str) -> Listing:
    """List the files of a table, by path: the order of its lines does not matter."""
    named = [row._replace(file=os.path.normpath(row.file + suffix)) for row in content.rows]
    notes = list[str]()
    rows = _without_repeats(table, named, notes)
    rows = _with_test(table, rows, content, hold_out, notes)
    classes = _find_classes(table, rows, notes)
    if content.has_group:
        _refuse_divided(table, rows)
    elif hint := content.hints["group"]:
        notes.append(f"{hint} would keep the images of one group in one split")
    rows.sort(key=lambda row: row.file)
    label = {name: n for n, name in enumerate(classes)}
    stamps = _stamps(table, root, rows, suffix)
    files = [
        ImageFile(r.file, label[r.label], *stamp) for r, stamp in zip(rows, stamps, strict=True)
    ]
    train, test, validation = (
        [n for n, row in enumerate(rows) if row.split == split]
        for split in ("train", "test", "validation")
    )
    ids = {group: n for n, group in enumerate(sorted({row.group for row in rows}))}
    groups = [ids[row.group] for row in rows] if content.has_group else None
    about = _unnamed(root, named), tuple(notes), groups
    return Listing(classes, files, train, test, validation, *about)


def _without_repeats(table: Path, rows: Sequence[Row], notes: list[str]) -> list[Row]:
    """Leave out lines that say again what another says; refuse those that contradict it."""
    first, repeats, wrong = dict[str, Row](), 0, list[str]()
    for row in rows:
        other = first.setdefault(row.file, row)
        if other is row:
            continue
        repeats += 1
        for key in ("label", "split", "group"):
            one, two = getattr(other, key), getattr(row, key)
            if one != two:
                wrong.append(f"{row.file} is {one} (line {other.line}) and {two} (line {row.line})")
                break
    if wrong:
        raise UserError(
            f"data.file: {short(table)} contradicts itself: {listed(wrong, 3)}. "
            "Keep one line for each image."
        )
    if repeats:
        notes.append(f"files that the table names again, alike, are read once: {repeats:,}")
    return list(first.values())


def _with_test(
    table: Path, rows: list[Row], content: Table, hold_out: str, notes: list[str]
) -> list[Row]:
    """Settle which rows are the test split; those that are not read are left out."""
    counts = Counter(row.split for row in rows)
    if not counts["train"]:
        raise UserError(
            f"data.file: {short(table)} has no image in the split train, only in "
            f"{listed(sorted(counts))}. Name some, or set data.split_column=null."
        )
    if hold_out:
        if counts["test"]:
            notes.append(
                f"the {counts['test']:,} images of the split test are not read: {hold_out} takes "
                "the test images from train"
            )
        return [row for row in rows if row.split != "test"]
    if counts["test"]:
        return rows
    if counts["validation"]:
        notes.append(
            "the images of the split val are the test split, as there is no test; images for "
            "validation are taken from train (data.validation)"
        )
        return [r._replace(split="test") if r.split == "validation" else r for r in rows]
    what = "names no test images" if content.has_split else "has no column of splits"
    hint = f", or set {content.hints['split']}" if content.hints.get("split") else ""
    raise UserError(
        f"data.file: {short(table)} {what}. Hold out a share for testing: data.test=0.2{hint}."
    )


def _find_classes(table: Path, rows: Sequence[Row], notes: list[str]) -> tuple[str, ...]:
    """Return the labels of the training images, sorted; refuse others."""
    labels = {row.label for row in rows if row.split == "train"}
    spelled = {folded(label): label for label in sorted(labels)}
    new = dict[str, str]()
    for row in rows:
        if row.label not in labels:
            near = spelled.get(folded(row.label))
            meant = f"; {near}?" if near else ""
            new.setdefault(row.label, f"{short(row.label)} (line {row.line}{meant})")
    if new:
        raise UserError(
            f"data.file: {short(table)} has labels that no training image has: "
            f"{listed([*new.values()], 5)}. Correct them, or add training images."
        )
    alike = [(label, spelled[folded(label)]) for label in sorted(labels)]
    if pairs := [f"{one} and {other}" for one, other in alike if one != other]:
        notes.append(f"labels that differ in case or spaces alone are classes: {listed(pairs, 3)}")
    numbers = all(label.isdecimal() for label in labels)
    return tuple(sorted(labels, key=(lambda label: (int(label), label)) if numbers else None))


def _refuse_divided(table: Path, rows: Sequence[Row]) -> None:
    """Refuse groups that are in two splits."""
    first, divided = dict[str, Row](), dict[str, str]()
    for row in rows:
        other = first.setdefault(row.group, row)
        if other.split != row.split:
            lines = f"{other.split} (line {other.line}) and {row.split} (line {row.line})"
            divided.setdefault(row.group, f"{row.group} is in {lines}")
    if divided:
        raise UserError(
            f"data.file: {short(table)} divides {len(divided):,} "
            f"group{'s' * (len(divided) > 1)}: {listed([*divided.values()], 3)}. "
            "Correct the splits, or set data.group_column=null."
        )


def _stamps(table: Path, root: Path, rows: Sequence[Row], suffix: str) -> list[tuple[int, int]]:
    """Return size and time of each file; refuse those that are not there."""
    stamps, missing = list[tuple[int, int]](), list[Row]()
    for row in rows:
        try:
            about = os.stat(root / row.file)
            stamps.append((about.st_size, about.st_mtime_ns))
        except OSError:
            missing.append(row)
        except ValueError:  # a NUL in the path
            missing.append(row)
    if missing:
        missing.sort(key=lambda row: row.line)
        names = [f"{row.file} (line {row.line})" for row in missing]
        raise UserError(
            f"data.file: {len(missing):,} of the {len(rows):,} files in {short(table)} are not in "
            f"{short(root)}: {listed(names, 5)}. {_where(root, missing[0].file, suffix)}"
        )
    return stamps


def _where(root: Path, file: str, suffix: str) -> str:
    """Say where a missing file may be."""
    if "\\" in file and (root / file.replace("\\", "/")).is_file():
        return "Write / between folders, and not \\."
    try:
        inner = [entry.path for entry in os.scandir(root) if entry.is_dir()]
    except OSError:
        inner = []
    for ending in ("", *SUFFIXES, *(each.upper() for each in SUFFIXES)):
        for folder in (root, root.parent, *map(Path, sorted(inner))):
            if (folder / f"{file}{ending}").is_file():
                given = [as_text("data.root", str(folder))] if folder != root else []
                given += [f"data.suffix={suffix}{ending}"] if ending else []
                return f"Did you mean {' '.join(given)}?"
    return "Set data.root to their folder, or correct or remove the lines."


def _unnamed(root: Path, rows: Iterable[Row]) -> str:
    """Write which images no row names, in the folders in which the others are."""
    named = {row.file for row in rows}
    found = list[str]()
    for folder in sorted({os.path.dirname(file) for file in named}):
        with suppress(OSError), os.scandir(root / folder) as content:
            names = [e.name for e in content if e.name.lower().endswith(SUFFIXES)]
            paths = (os.path.join(folder, name) for name in names if not name.startswith("."))
            found += sorted(path for path in paths if path not in named)
    what = f"{len(found):,} image{'s' * (len(found) > 1)} that no line names"
    return f"{what} ({listed(found, 3)})" if found else ""
