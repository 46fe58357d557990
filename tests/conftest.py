"""What the tests share: composing a config as the command line does, and doing a run of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from runner.build import build
from runner.cli.hydra_internals import Loader
from runner.cli.task import register
from runner.config import Settings, check
from runner.report.drawing import Picture
from runner.run.attempt import attempt

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True, scope="session")
def _registered() -> None:
    # a shell without a terminal starts what is in the background deaf to Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["COLUMNS"] = "100"  # tables are as wide as the terminal of whoever runs the tests
    register()
    torch.set_num_threads(1)  # as the runs here do; the workers of the tests share the cores


def composed(*overrides: str) -> DictConfig:
    """Compose the config of one run; Hydra's own node is set aside, as for a job."""
    cfg = Loader().compose(overrides)
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def settings(*overrides: str) -> Settings:
    """Compose and check the config of one run."""
    return check(composed("threads=1", "memory_format=contiguous", *overrides), overrides)


def few(values, quick):
    """Parameters of a test, of which only the quick ones are tried by default."""
    return [pytest.param(v, marks=() if v in quick else pytest.mark.slow) for v in values]


def few_of(table, quick):
    """The same of a mapping: parameters are a key and its value, and some keys are quick."""
    return [
        pytest.param(*item, marks=() if item[0] in quick else pytest.mark.slow)
        for item in table.items()
    ]


def run_in(folder: Path, *overrides: str) -> dict[str, Any]:
    """Do a run in a folder; give back its result."""
    folder.mkdir(exist_ok=True)
    given = settings(*overrides)
    return attempt(folder, given, build(given), quiet=True)


# as in a terminal: a shell without one starts what is in the background deaf to Ctrl-C
HEARS_CTRL_C = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}


def start(folder, *arguments, module="runner", options=None, **environment):
    """Start the command in a process of its own; `options` are those of `subprocess.Popen`."""
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        **usual | (options or {}),
    )


def biscuits(folder, *arguments, **more):
    """Run the command; give back its exit code, what it printed, and what it complained of."""
    with start(folder, *arguments, **more) as process:
        try:
            out, complaint = process.communicate(timeout=200)
        except BaseException:
            process.kill()
            raise
    return process.returncode, out, complaint


@pytest.fixture
def faults(record_property) -> Callable[..., None]:
    """Count the faults that a test tried, for the summary at the end."""

    def faults(kind: str, count: int = 1) -> None:
        record_property("faults", (kind, count))

    return faults


def pytest_terminal_summary(terminalreporter) -> None:
    """Tell how many faults the tests that passed have tried."""
    totals: dict[str, int] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "faults":
                totals[value[0]] = totals.get(value[0], 0) + value[1]
    if totals:
        terminalreporter.section("faults tried, nothing lost and nothing let in")
        for kind, count in sorted(totals.items()):
            terminalreporter.line(f"{count:>7,}  {kind}")


@pytest.fixture
def do(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Do a run in a folder of its own, or in a named one; give back its result."""

    def do(*overrides: str, folder: str = "run") -> dict[str, Any]:
        return run_in(tmp_path / folder, *overrides)

    return do


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, which takes nearly all of the time."""
    sheet = BytesIO()
    Image.new("RGBA", (1, 1)).save(sheet, "png")
    monkeypatch.setattr(Picture, "svg", lambda _: "")
    monkeypatch.setattr(Picture, "png", lambda _: sheet.getvalue())
