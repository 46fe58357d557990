"""What a sweep of 10 to 100,000 finished runs takes: files, bytes, its report, its resumption.

    python -m benchmarks.scale                    # 10 and 1,000 runs, unpacked and packed
    python -m benchmarks.scale 10000              # about ten minutes, most of it to make them up
    python -m benchmarks.scale 100000 --packed    # packed alone: each variant as soon as it is made

The plan is a real one (see benchmarks/done.py). Its runs are made up: twelve files each, as large
as those of the digits' ResNet, the two of weights without content on the disk. Measured are whole
commands, in processes of their own: seconds, of these the seconds of a core, and peak memory of
`python -m runner.report`, of the same command again, and of TensorBoard's reader in Python until it
has read every event.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.done import command, freeze
from runner.ablation.plan import Plan, load_plan
from runner.store.answers import digest_answers, digest_predictions
from runner.store.files import write_json
from runner.store.packing import pack
from runner.store.runs import digest_metrics
from runner.store.values import dump_values

ACCURACY, SAMPLES, CLASSES, EPOCHS = 0.9, 360, 10, 15
MODEL, CHECKPOINT, PICTURE = 98_000, 199_000, 8_000  # bytes

TENSORBOARD = """
import sys
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
found = EventMultiplexer().AddRunsFromDirectory(sys.argv[1]).Reload()
print(len(found.Runs()))
"""

EVENTS = """
import sys
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter(sys.argv[1]) as writer:
    for step in range(int(sys.argv[2])):
        for tag in sys.argv[4:]:
            writer.add_scalar(tag, 0.5, step)
    writer.add_text("picture", "x" * int(sys.argv[3]), 0)
"""


class Taken(NamedTuple):
    """What a command takes."""

    seconds: float
    busy: float
    """Seconds of a core."""
    memory: float
    """MiB."""

    def text(self) -> str:
        """Write it in a cell."""
        return f"{self.seconds:,.1f} s ({self.busy:,.1f} of a core), {self.memory:,.0f} MiB"


def measure(typed: Sequence[str], folder: Path) -> Taken:
    """Do a command of Python; its memory is its own and not that of its children.

    Raises:
        RuntimeError: If it fails.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([sys.executable, *typed], cwd=folder, stdout=out, stderr=out)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        if process.returncode:
            raise RuntimeError(out.read().decode()[-2000:])
    busy = used.ru_utime + used.ru_stime
    return Taken(time.perf_counter() - start, busy, used.ru_maxrss / 1024)


class Made:
    """Writes the files of made-up runs."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root, self.plan = root, plan
        correct = np.arange(SAMPLES) < ACCURACY * SAMPLES
        logits = np.zeros((SAMPLES, CLASSES), np.float32)
        labels = np.zeros(SAMPLES, np.int64)
        logits[~correct, 1] = 1.0
        self.correct, self.predictions = BytesIO(), BytesIO()
        np.save(self.correct, correct)
        np.savez(self.predictions, logits=logits, labels=labels)
        self.digests = {
            "correct.npy": digest_answers(correct),
            "predictions.npz": digest_predictions(logits, labels),
        }
        self.events = self._events()

    def _events(self) -> bytes:
        """Let torch make the events of one run, in a process of its own, for it takes memory."""
        with tempfile.TemporaryDirectory() as name:
            given = [name, str(EPOCHS), str(PICTURE), *self._line(0, 0.0)]
            subprocess.run([sys.executable, "-c", EVENTS, *given], check=True)
            (path,) = Path(name).iterdir()
            return path.read_bytes()

    @staticmethod
    def _line(epoch: int, noise: float) -> dict[str, Any]:
        names = ("train/loss", "train/transformed_loss", "validation/loss", "train/learning_rate")
        return {
            "epoch": epoch + 1,
            "update": 21 * (epoch + 1),
            **{name: (2.0 + noise) / (epoch + 1) for name in names},
            "train/gradient_norm": 1.0 + noise,
            "train/gradient_norm_after": 1.0 + noise,
            "validation/accuracy": ACCURACY * (1 - 0.5 / (epoch + 1)),
            "train/skipped": 0,
            "time/seconds": 0.7 + noise,
            "time/images_per_second": 1800.0,
        }

    def write(self, variant: str, seed: int) -> None:
        """Write a run that is done."""
        noise = (hash((variant, seed)) % 1000) / 1e5
        place = self.plan.folder(self.root, variant, seed)
        place.mkdir(parents=True)
        lines = [self._line(epoch, noise) for epoch in range(EPOCHS)]
        config = {"format": 1, **self.plan.config_of(variant, seed)}
        (place / "config.yaml").write_text(dump_values(config))
        machine = {
            "config": self.plan.digests(variant)[seed],
            "code": {"version": "0.1.0", "commit": "abcdef123456"},
            "libraries": {"torch": "2.14.1", "numpy": "2.4.0"},
            "processor": "made up",
            "threads": 1,
        }
        status = {"status": "done", "attempts": 1, "seconds": 5.0, "peak_memory": 4e8}
        result = {
            "test/accuracy": ACCURACY + noise,
            "test/loss": 0.5,
            "test/shift_consistency": 0.75,
            "inactive": [],
            "updates": 21 * EPOCHS,
            "skipped": 0,
            "weights": f"{variant} {seed}",
            "classes": [str(n) for n in range(CLASSES)],
            "digests": {"metrics.jsonl": digest_metrics(lines), **self.digests},
        }
        files = {"run": machine, "status": {**status, "error": None}, "result": result}
        for name, content in files.items():
            write_json(place / f"{name}.json", content, lasts=False)
        text = "".join(json.dumps({"format": 1, **line}) + "\n" for line in lines)
        (place / "metrics.jsonl").write_text(text)
        (place / "correct.npy").write_bytes(self.correct.getvalue())
        (place / "predictions.npz").write_bytes(self.predictions.getvalue())
        (place / "mistakes.png").write_bytes(bytes(PICTURE))
        (place / "events.out.tfevents.1795748366.made.1.0").write_bytes(self.events)
        (place / ".lock").touch()
        for name, size in (("model.pt", MODEL), ("checkpoint.pt", CHECKPOINT)):
            with open(place / name, "wb") as file:
                file.truncate(size)


def count(folder: Path) -> tuple[int, int]:
    """Count the files and folders below a folder, and the bytes of disk that they take."""
    paths = (os.path.join(p, n) for p, below, names in os.walk(folder) for n in (*below, *names))
    taken = [os.lstat(path).st_blocks * 512 for path in paths]
    return len(taken), sum(taken)


def rows(runs: int, packed_alone: bool = False) -> Iterator[str]:
    """Make up a sweep and measure it, unpacked and packed."""
    with tempfile.TemporaryDirectory(prefix="biscuits-scale-") as name:
        folder, typed = Path(name), command(runs)
        start = time.perf_counter()
        freeze(folder, [sys.executable, *typed])
        root = folder / "outputs/done"
        plan = load_plan(root)
        assert plan is not None
        yield f"plan: {time.perf_counter() - start:,.1f} s, {len(plan.variants):,} variants"
        made = Made(root, plan)
        for variant in plan.variants:
            for seed in plan.seeds:
                made.write(variant, seed)
            if packed_alone:
                pack(root / variant, [f"seed={seed}" for seed in plan.seeds])
        if not packed_alone:
            yield from _measured("unpacked", root, typed, folder)
            taken = measure(("-m", "runner.pack", str(root)), folder)
            yield f"packing: {taken.text()}"
            shutil.rmtree(root / "means")
        yield from _measured("packed", root, typed, folder)


def _measured(what: str, root: Path, typed: Sequence[str], folder: Path) -> Iterator[str]:
    number, taken = count(root)
    yield f"{what}: {number:,} files and folders, {taken / 1e6:,.1f} MB of disk"
    yield f"{what}: report {measure(('-m', 'runner.report', str(root)), folder).text()}"
    yield f"{what}: the same command again {measure(typed, folder).text()}"
    number, taken = count(root / "means")
    yield f"{what}: of that TensorBoard's means {number:,} files and folders"
    yield f"{what}: TensorBoard {measure(('-c', TENSORBOARD, str(root)), folder).text()}"


def main() -> None:
    """Print what each number of runs takes."""
    packed_alone = "--packed" in sys.argv
    for runs in [int(word) for word in sys.argv[1:] if word.isdigit()] or [10, 1000]:
        for row in rows(runs, packed_alone):
            print(f"{runs:,} runs, {row}", flush=True)


if __name__ == "__main__":
    main()
