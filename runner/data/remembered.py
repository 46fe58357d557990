"""What was computed of all the images of splits, kept beside the cache that they are mapped from.

To read them all takes minutes where they are larger than memory, and each run would do it twice.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.data.source import Split
from runner.errors import UserError
from runner.store.files import read_json, write_json

LEAST = 2**26  # bytes; smaller images are read anew


def remembered(splits: Sequence[Split], what: str, compute: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Give back what was computed of these samples of this file before, or compute it.

    Args:
        splits: Of one map. Of others, in memory or on a card, it is computed each time.
        what: What it is; another name for what is computed otherwise.
        compute: Gives back plain values.
    """
    origin = splits[0].origin
    if origin is None or origin.size < LEAST:
        return compute()
    total = hashlib.sha256(f"{what}\0{origin}".encode())
    for split in splits:
        if split.origin != origin or split.rows is None:
            return compute()
        for tensor in (split.rows, split.labels.cpu()):
            total.update(f"{len(tensor)}\0".encode() + tensor.numpy().tobytes())
    key = total.hexdigest()
    file = Path(origin.file).with_name(f"known-{key[:16]}.json")
    found = read_json(file)[0] or {}
    if found.get("key") == key:
        return found["value"]
    value = compute()
    with suppress(OSError, UserError):
        write_json(file, {"key": key, "value": value}, lasts=False)
    return value
