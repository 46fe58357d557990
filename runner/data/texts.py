"""What others wrote, file names and errors, for messages that stay one printable line."""

from collections.abc import Sequence

LONGEST = 400  # characters; a path is shorter, nearly always


def tell(thing: object) -> str:
    r"""Write something as one printable line, cut short where it is very long.

    >>> tell("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    text = str(thing)
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:LONGEST])
    return line + ("..." if len(text) > LONGEST else "")


def reason(error: BaseException) -> str:
    """Write why something failed; of the system's errors without the path, which is told beside."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return tell(" ".join(text.split()).rstrip(".") or type(error).__name__)


def listed(names: Sequence[str], most: int = 10) -> str:
    """List the first names, and count the rest."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(tell, names[:most])) + rest
