"""The user's own code that a run depends on: the files of its packages, and of what they import.

Found by reading, not by what happens to be loaded: a sweep has the modules of other runs loaded.
"""

import ast
import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from runner.garbage import resting

SUFFIXES = (".py", ".pyc", ".pyx", ".so", ".pyd", ".c", ".cpp", ".cu", ".h", ".cuh")
OURS = ("runner", "tricks", "torch")
INSTALLED = ("site-packages", "dist-packages")
_STANDARD = Path(sysconfig.get_path("stdlib"))


def digest_own(modules: Iterable[str]) -> str | None:
    """Give back a hash of the user's own code.

    Hashed is every file of code of the packages that these modules are in, and of the modules and
    packages that they import in turn, unless they are installed; None if there is none.

    Args:
        modules: Of the classes that a config names; ours are skipped.
    """
    tops = frozenset(name.partition(".")[0] for name in modules) - {*OURS}
    return _digest(tops) if tops else None


@lru_cache
@resting()
def _digest(tops: frozenset[str]) -> str | None:
    # once a process, which has the code that it loaded whatever the files say later
    found: dict[str, list[tuple[str, bytes]]] = {}
    left = {top: True for top in tops}  # whether it counts though it is installed
    while left:
        top, named = left.popitem()
        found[top] = []
        for place in _places(top):
            if named or not _is_installed(place):
                found[top] += ((name, file.read_bytes()) for name, file in _files(place))
        if any(not _is_installed(place) for place in _places(top)):
            imported = {n for name, code in found[top] for n in _imports(name, code)}
            left |= {name: False for name in imported if name not in found and name not in left}
    total = hashlib.sha256()
    for top in sorted(found):
        for name, content in sorted(found[top]):
            total.update(f"{top}/{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:16] if any(found.values()) else None


def _places(top: str) -> list[Path]:
    """The file or the folders of a module or package at the top; none of Python's, or of ours."""
    if top in sys.stdlib_module_names or top in OURS:
        return []
    loaded = sys.modules.get(top)
    try:
        spec = getattr(loaded, "__spec__", None) or importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(folder) for folder in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin and Path(spec.origin).is_file() else []


def _is_installed(place: Path) -> bool:
    return any(part in INSTALLED for part in place.parts) or place.is_relative_to(_STANDARD)


def _files(place: Path) -> Iterator[tuple[str, Path]]:
    """The files of code of a package or module, by their path in it."""
    if place.is_file():
        yield place.name, place
        return
    for folder, below, names in os.walk(place):
        hidden = ("__pycache__", "node_modules", *INSTALLED)
        below[:] = [name for name in below if not name.startswith(".") and name not in hidden]
        for name in names:
            file = Path(folder, name)
            if file.suffix in SUFFIXES and file.is_file():
                yield file.relative_to(place).as_posix(), file


def _imports(name: str, code: bytes) -> Iterator[str]:
    """The modules and packages at the top that a file imports, wherever in it."""
    try:
        left: list[ast.AST] = [ast.parse(code)] if name.endswith(".py") else []
    except (SyntaxError, ValueError, RecursionError):
        return
    while left:  # through statements alone, which is several times as fast as `ast.walk`
        node = left.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        for below in ("body", "orelse", "finalbody", "handlers", "cases"):
            left.extend(getattr(node, below, ()))
