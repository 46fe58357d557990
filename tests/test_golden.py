"""Runs give the bits that they gave before: digests, kept for each kind of machine and torch.

`python -m tests.test_golden` writes those of this machine into golden.json. A change that moves
them is a change of what every user measures: make it on purpose, and say so in the CHANGELOG.
"""

import json
import tempfile
from pathlib import Path

import pytest
import torch

from runner.build import build
from runner.cli.task import register
from runner.run.attempt import attempt
from runner.run.fingerprint import fingerprint
from tests.conftest import settings

FILE = Path(__file__).parent / "golden.json"
TINY = ("epochs=2", "batch_size=256", "data.augment.crop=1")
RUNS = {
    "baseline": (),
    "page": ("tricks=core", "tricks.flooding.level=0.1"),
    "micro-batches, adamw, no decay of norms": (
        *("micro_batch_size=100", "optimizer=adamw", "optimizer.decay_norms_and_biases=false"),
        *("tricks=[label_smoothing,clipping]", "tricks.clipping.by=quantile"),
    ),
    "channels last, warm-up, flips": (
        *("memory_format=channels_last", "data.augment.flip=true", "scheduler=one_cycle"),
        "model=resnet20",
    ),
}


def digests(name):
    given = settings(*TINY, *RUNS[name])
    with tempfile.TemporaryDirectory() as folder:
        result = attempt(Path(folder), given, build(given), quiet=True)
    return {"weights": result["weights"][:16], **result["digests"]}


def machine():
    """Name what the bits of a run on a CPU depend on beside its config."""
    found = fingerprint(settings(), torch.device("cpu"))
    torch_version = found["libraries"]["torch"].partition("+")[0]
    return f"torch {torch_version}, {found['processor']}, {found['capability']}, {found['system']}"


@pytest.mark.parametrize("name", RUNS)
def test_a_tiny_run_gives_the_bits_that_it_gave_before(name):
    kept = json.loads(FILE.read_text())
    if machine() not in kept:
        pytest.skip(f"no digests are kept for {machine()}: python -m tests.test_golden writes them")
    before, found = kept[machine()][name], digests(name)
    assert {key: found[key] for key in before} == before  # of what was kept then


def write():
    register()
    torch.set_num_threads(1)
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    kept[machine()] = {name: digests(name) for name in RUNS}
    FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(f"{FILE} holds the digests of {', '.join(RUNS)} for {machine()}")


if __name__ == "__main__":
    write()
