"""Importing what the end of a sweep needs, while its runs are done in other processes."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from threading import Thread

NEEDED = ("scipy.stats", "sklearn.metrics", "matplotlib.figure", "matplotlib.backends.backend_svg")
"""What verdicts, reports and their pictures import. That takes some two seconds."""


@contextmanager
def importing() -> Iterator[None]:
    """Import `NEEDED` in a thread during a block."""
    thread = Thread(target=_import, name="imports for the report")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _import() -> None:
    for name in NEEDED:
        with suppress(Exception):  # whoever needs it tells of it
            import_module(name)
