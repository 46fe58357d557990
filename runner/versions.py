"""The versions of packages, as they are installed."""

import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version


def version_of(package: str) -> str | None:
    """Give back the version of a package; None if there is none that says it."""
    try:
        return _installed(package)
    except PackageNotFoundError:  # the name of a module may differ from that of its package
        found = getattr(sys.modules.get(package), "__version__", None)
        return None if found is None else str(found)


@lru_cache  # a process keeps what it has imported
def _installed(package: str) -> str:
    return version(package)


def made_by() -> str:
    """Name Biscuits with its version; a checkout that is not installed has none.

    >>> made_by().split()[0]
    'Biscuits'
    """
    return f"Biscuits {version_of('biscuits-bench') or 'from a checkout'}"
