"""The floors of `runner/`: a package imports from lower floors only, inside functions too."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from runner.run.fingerprint import HERE, TRAINING_CODE
from tests.conftest import ROOT

FLOORS = [
    [
        "__main__",
        "verify",
        "judge",
        "predict",
        "export",
        "pack",
        "anti_alias",
        "plot_images",
        "plot_schedule",
    ],  # the commands; nobody imports them
    ["cli"],
    ["sweep", "trained"],
    ["run"],
    ["auto"],
    ["build"],
    ["begin"],
    ["nodes"],
    ["config"],
    ["transforms"],
    ["report"],
    ["frames"],
    ["ablation"],
    ["metrics"],
    ["allowed", "compiled", "device", "eager", "evaluate", "fit", "settings"],
    ["data", "models", "optimizers", "schedulers", "train"],
    ["losses", "micro_batches", "observed", "tiles"],
    ["ranks"],
    ["store"],
    ["names", "signals", "terminal", "validation"],
    ["cores", "garbage", "heap", "quoting", "texts", "torchrun", "versions"],
    ["errors"],
]
"""From the roof to the ground."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

FILES = sorted((ROOT / "runner").rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Give the modules of the project that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ("runner", "tricks"))


def room(file: Path) -> str:
    """Give the package or module directly below `runner/` that a file belongs to."""
    return file.relative_to(ROOT / "runner").parts[0].removesuffix(".py")


@cache
def arrows() -> list[tuple[str, str, str]]:
    """Give the imports between rooms, with the file that has each."""
    return [*_arrows()]


def _arrows() -> Iterator[tuple[str, str, str]]:
    for file in FILES:
        for name in imported(file):
            top, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if top == "runner" and target != room(file):
                yield room(file), target, str(file.relative_to(ROOT))


def test_every_file_stands_on_a_floor():
    assert {room(file) for file in FILES} - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize("name", [n for n in FLOOR if n != "tricks"])
def test_imports_go_down(name):
    up = [(to, file) for of, to, file in arrows() if of == name and FLOOR[to] <= FLOOR[name]]
    assert not up, f"{name} imports from its own floor or above"


def test_no_file_imports_itself_by_way_of_others():
    graph: dict[str, set[str]] = {}
    modules = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in FILES}
    modules = {name.removesuffix(".__init__"): file for name, file in modules.items()}
    for name, file in modules.items():
        found = {n if n in modules else n.rpartition(".")[0] for n in imported(file)}
        graph[name] = {n for n in found if n in modules and n != name}
    done: set[str] = set()
    while free := {n for n, needs in graph.items() if n not in done and needs <= done}:
        done |= free
    assert set(graph) - done == set(), "a circle"


@pytest.mark.parametrize(
    "file", sorted((ROOT / "runner/ablation").glob("*.py")), ids=lambda f: f.name
)
def test_the_ablation_imports_neither_torch_nor_hydra(file):
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not [
            n for n in names if n.split(".")[0] in ("torch", "hydra", "omegaconf", "tricks")
        ]


def test_an_import_inside_a_function_has_its_reason_beside_it():
    for file in FILES:
        text = file.read_text()
        lines = text.splitlines()
        for function in ast.walk(ast.parse(text)):
            if not isinstance(function, ast.FunctionDef):
                continue
            inside = [n for n in ast.walk(function) if isinstance(n, ast.ImportFrom)]
            for node in [n for n in inside if (n.module or "").startswith(("runner", "tricks"))]:
                near = lines[max(0, node.lineno - 6) : node.end_lineno]
                assert any("#" in line for line in near), f"{file}:{node.lineno} says no reason"


def test_the_fingerprint_hashes_all_code_that_the_bits_of_a_run_come_from():
    hashed = {file.resolve() for pattern in TRAINING_CODE for file in HERE.glob(pattern)}
    for file in FILES:
        if FLOOR.get(room(file), -1) >= FLOOR["build"] and "import torch" in file.read_text():
            assert file in hashed, file
    assert set((ROOT / "tricks").glob("*.py")) < hashed
