"""Names of folders: readable, safe on any file system, and never two for one thing."""

import hashlib
import json
import re

LONGEST = 120  # characters of a folder's name; file systems allow 255


def write_value(value: object) -> str:
    """Write a config value as a part of a folder's name."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return re.sub(r"[^A-Za-z0-9._,=-]+", "_", text).strip("_.") or "_"


def shorten(text: str) -> str:
    """Cut a name that has grown too long; a hash of the whole keeps it apart from others."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
