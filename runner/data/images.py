"""The pixels of many image files: looked at first, decoded once into the cache, mapped from there.

All that can be refused by the headers is refused before anything is decoded.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from runner.data import cache as cached
from runner.data.decode import (
    FORMATS,
    Reading,
    channels_first,
    look_at,
    read_pixels,
    silence,
)
from runner.data.geometry import Pixels
from runner.data.listing import ImageFile
from runner.data.tiff import Look
from runner.errors import Unfit, UserError
from runner.store.arrays import memory_here
from runner.texts import listed, reason, short

CHUNK = 16  # images that a thread reads at a time, at most
CHUNK_BYTES = 2**23  # of their pixels

T = TypeVar("T")


def read_images(
    root: Path,
    files: Sequence[ImageFile],
    reading: Reading,
    cache: str | None,
    rescan: Callable[[], Sequence[ImageFile]],
    ignored: str = "",
    named: Path | None = None,
) -> tuple[Tensor, cached.Origin | None]:
    """Return the images [M, C, H, W] of files, in their order, from the cache if none has changed.

    They are mapped from the cache, where that can be written; else they are in memory. C is 1
    where all are grey, else 3; by bands=all it is their number of bands. With them comes the file
    of the cache, if it was there.

    Args:
        root: The folder that the paths are relative to.
        files: The files.
        reading: How they become pixels.
        cache: Folder of the decoded images; None for the user's.
        rescan: Lists the files again, to notice that they change while they are decoded.
        ignored: What else is in the folder, in words.
        named: What the cache file is named by, such as a table; None for the folder.

    Raises:
        UserError: If images cannot be read, differ in size without a size, or in their bands;
            files change while they are read; or there is room for them neither on the disk nor in
            memory.
    """
    file = cached.path(cache, named or root, reading)
    key = cached.fingerprint((each.path, each.size, each.modified) for each in files)
    cached.remove_leftovers(file.parent)
    origin = cached.Origin.of(file)
    if (images := cached.load(file, key, len(files), reading)) is not None:
        return cached.as_tensor(images), origin if origin == cached.Origin.of(file) else None
    rest = f" Ignored: {ignored}." if ignored else ""
    _log(f"Decoding the {len(files):,} images of {short(root)} once, into {short(file)}.{rest}")
    with silence():
        shape = _find_shape(root, [file.path for file in files], reading)
        dtype = cached.dtype_of(reading)

        def decode() -> Generator[Pixels]:
            yield from _decode(root, files, reading, shape)
            _refuse_changed(root, files, rescan())

        try:
            with closing(decode()) as decoded:
                return cached.as_tensor(cached.save(file, key, shape, dtype, decoded)), None
        except (OSError, Unfit) as error:
            why = reason(error.__cause__ or error)
        _refuse_larger_than_memory(cached.bytes_of(shape, dtype), len(files), file, why)
        _log(
            f"The decoded images are not cached: cannot write {short(file)}: {why}. "
            "Set data.cache to another folder."
        )
        images = np.empty(shape, dtype)
        with closing(decode()) as decoded:
            for place, image in zip(images, decoded, strict=True):
                place[:] = image
    return torch.from_numpy(images), None


def _find_shape(root: Path, paths: Sequence[str], reading: Reading) -> cached.Shape:
    """Look at all headers; return [M, C, H, W], or refuse what cannot be read to one shape."""
    if reading.sides and (most := Image.MAX_IMAGE_PIXELS or 2**30) * 2 < prod(reading.sides):
        height, width = reading.sides
        raise UserError(
            f"data.size: an image of {width} x {height} pixels is larger than the {2 * most:,} "
            "pixels that an image may have. Set a smaller data.size."
        )
    looks, broken = list[tuple[str, Look]](), list[tuple[str, str]]()
    for path, look in _by_threads(lambda path: look_at(root / path, reading), paths, CHUNK):
        if isinstance(look, str):
            broken.append((path, look))
        else:
            looks.append((path, look))
    if broken:
        _refuse_broken(root, broken, len(paths), reading)
    sizes = _first_of_each((path, look[:2]) for path, look in looks)
    if reading.sides is None and len(sizes) > 1:
        (height, width), *_ = sizes
        one, other = (f"{short(path)} is {w} x {h}" for (h, w), path in list(sizes.items())[:2])
        raise UserError(
            f"data.size is needed because the images differ in size: {one}, {other} pixels. "
            f"Set data.size={min(height, width)} to resize them all; data.resize says how."
        )
    bands = _first_of_each((path, look.bands) for path, look in looks)
    if reading.bands == "all" and len(bands) > 1:
        one, other = (f"{short(path)} has {n}" for n, path in list(bands.items())[:2])
        raise UserError(
            f"data.bands=all: the images differ in their bands: {one}, {other}. "
            "Convert them to the same bands, or set data.bands=auto for grey or RGB."
        )
    if reading.sides:
        _tell_resizing([look for _, look in looks], *reading.sides, reading.resize)
    height, width = reading.sides or next(iter(sizes))
    return len(paths), max(bands), height, width


def _first_of_each(pairs: Iterator[tuple[str, T]]) -> dict[T, str]:
    found = dict[T, str]()
    for path, kind in pairs:
        found.setdefault(kind, path)
    return found


def _tell_resizing(looks: Sequence[Look], height: int, width: int, how: str) -> None:
    """Say what becomes of images that have another shape than they get."""
    changed = sum(look.height * width != look.width * height for look in looks)
    if not changed:
        return
    square = "square" if height == width else f"of the shape {width} : {height}"
    kept = {
        "stretch": "stretched to {}; data.resize=pad or crop keeps their shape",
        "pad": "fitted within {}, with a black border",
        "crop": "cut at two sides to fill {}",
    }[how].format(f"{width} x {height}")
    _log(f"{changed:,} of {len(looks):,} images are not {square}: {kept}.")


def _decode(
    root: Path, files: Sequence[ImageFile], reading: Reading, shape: cached.Shape
) -> Generator[Pixels]:
    """Yield the images [C, H, W] in order; at their end refuse the files that were broken."""
    paths, broken = [file.path for file in files], list[tuple[str, str]]()
    chunk = max(1, min(CHUNK, CHUNK_BYTES // (shape[1] * shape[2] * shape[3])))
    results = _by_threads(lambda path: read_pixels(root / path, reading), paths, chunk)
    for path, pixels in results:
        if isinstance(pixels, str):
            broken.append((path, pixels))
        elif not broken:
            yield channels_first(pixels, shape[1])
    if broken:
        _refuse_broken(root, broken, len(paths), reading)


def _by_threads(
    read: Callable[[str], T], paths: Sequence[str], chunk: int
) -> Generator[tuple[str, T]]:
    """Read by threads, and yield in order; closed early, it waits only for what is being read.

    Only so many are read ahead as keep the threads busy, that memory holds them.
    """
    workers = os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers)

    def read_some(some: Sequence[str]) -> list[T]:
        return [read(path) for path in some]

    def begin() -> Iterator[tuple[Sequence[str], Future[list[T]]]]:
        for start in range(0, len(paths), chunk):
            some = paths[start : start + chunk]
            yield some, pool.submit(read_some, some)

    begun = begin()
    ahead = deque(islice(begun, 2 * workers))
    try:
        with tqdm(total=len(paths), disable=None, unit="image") as progress:  # on a terminal
            while ahead:
                some, results = ahead.popleft()
                for result in zip(some, results.result(), strict=True):
                    yield result
                    progress.update()
                ahead.extend(islice(begun, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _refuse_broken(
    root: Path, broken: Sequence[tuple[str, str]], count: int, reading: Reading
) -> None:
    """Refuse files by name, those together that cannot be read for the same reason."""
    alike = dict[str, list[str]]()
    for path, why in broken:
        alike.setdefault(why, []).append(path)
    named = listed([f"{listed(paths, 5)} ({why})" for why, paths in alike.items()], 5)
    more = ["data.bits=16 reads those of 16 bits"] if reading.bits == 8 else []
    more += ["data.bands=all those of other bands"] if reading.bands == "auto" else []
    raise UserError(
        f"data.root: cannot read {len(broken):,} of {count:,} images in {short(root)}: {named}. "
        f"Repair, convert or remove them. Read are {', '.join(FORMATS)}, of whole numbers; "
        f"{', '.join([*more, 'data=npz takes arrays'])}."
    )


def _refuse_changed(root: Path, files: Sequence[ImageFile], now: Sequence[ImageFile]) -> None:
    if now != files:
        changed = sorted({file.path for file in {*files} ^ {*now}})
        raise UserError(
            f"data.root: {short(root)} changed while it was being read: {listed(changed)}. "
            "Run the command again when nothing writes there."
        )


def _refuse_larger_than_memory(size: int, count: int, file: Path, why: str) -> None:
    if size > (memory := memory_here()):
        raise UserError(
            f"data.cache: the {count:,} decoded images take {size / 1e9:,.1f} GB, more than the "
            f"{memory / 1e9:,.1f} GB of memory here, and {short(file)} cannot be written: {why}. "
            "Set data.cache to a folder with room for them, or a smaller data.size."
        )


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
