"""The pixels of image files: decoded once, into the cache, and read from there."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from runner.data import cache as cached
from runner.data.decode import Reading, decode
from runner.data.listing import ImageFile
from runner.errors import UserError
from runner.texts import listed, reason, short


def read_images(
    root: Path,
    files: Sequence[ImageFile],
    reading: Reading,
    cache: str | None,
    rescan: Callable[[], Sequence[ImageFile]],
    ignored: str = "",
) -> Tensor:
    """Return the images [M, C, H, W] of files, in their order, from the cache if none has changed.

    Args:
        root: The folder that the paths are relative to.
        files: The files.
        reading: How they become pixels.
        cache: Folder of the decoded images; None for the user's.
        rescan: Lists the files again, to notice that they change while they are decoded.
        ignored: What else is in the folder, in words.

    Raises:
        UserError: If images cannot be read or, without a size, differ in size; or files change
            while they are read.
    """
    size = reading.size
    assert isinstance(size, int | None)
    file, key = cached.path(cache, root, size), cached.fingerprint(files)
    cached.remove_leftovers(file.parent)
    if (images := cached.load(file, key, len(files), size)) is not None:
        return torch.from_numpy(images)
    rest = f" Ignored: {ignored}." if ignored else ""
    _log(f"Decoding the {len(files):,} images of {short(root)} once, into {short(file)}.{rest}")
    images = decode(root, [file.path for file in files], size)
    now = rescan()
    if now != files:
        changed = sorted({file.path for file in {*files} ^ {*now}})
        raise UserError(
            f"data.root: {short(root)} changed while it was being read: {listed(changed)}. "
            "Run the command again when nothing writes there."
        )
    try:
        cached.save(file, key, images)
    except (OSError, UserError) as error:
        _log(
            f"The decoded images are not cached: cannot write {short(file)}: "
            f"{reason(error.__cause__ or error)}. Set data.cache to another folder."
        )
    return torch.from_numpy(images)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
