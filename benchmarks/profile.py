"""Where the time goes: of an update, a short run, a sweep and a report.

    python -m benchmarks.profile                 # about a minute
    python -m benchmarks.profile OLDER_CHECKOUT  # the same of another version

Python's own profiler, which makes everything slower, and short functions most: the parts compare
with each other, and with those of another version. A part may hold others.
"""

import dataclasses
import os
import pstats
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from benchmarks.goals import ROOT

IMPORTS = {
    "import torch": "torch/__init__.py <module>",
    "import scikit-learn": "sklearn/__init__.py <module>",
    "import torch's compiler": "torch/_dynamo/__init__.py <module>",
    "import TensorBoard": "torch/utils/tensorboard/__init__.py <module>",
    "import pandas": "pandas/__init__.py <module>",
    "import matplotlib": "matplotlib/__init__.py <module>",
}
RUN = {
    "compose the config": "runner/cli/hydra_internals.py _load_configuration_impl",
    "read the data": "runner/build.py build_data",
    "updates": "runner/train.py step",
    "evaluations": "runner/evaluate.py evaluate",
    "checkpoints": "runner/run/checkpoint.py save",
    "the end of a run": "runner/run/attempt.py finish",
}
STEP = {
    "make the batch": "runner/data/batches.py _batch",
    "forward": "torch/nn/modules/module.py _wrapped_call_impl",
    "backward": "torch/_tensor.py backward",
    "step of the optimizer": "torch/amp/grad_scaler.py step",
    "zero_grad": "torch/optim/optimizer.py zero_grad",
    "norms": "tricks/gradients.py norm_of",
    "what is logged": "runner/train.py _observe",
}
REPORT = {
    "read and judge": "runner/ablation/verdicts.py judge",
    "the page": "runner/report/html.py page",
    "drawings": "runner/report/drawing.py svg",
    "TensorBoard": "runner/report/tensorboard.py write_views",
}
ONE = ("runner", "threads=1", "name=one")
SWEEP = ("runner", "-m", "hydra/launcher=basic", "seed=range(5)", "threads=1", "name=several")
CASES = {
    "a short run, digits, 15 epochs": (ONE, {**IMPORTS, **RUN}),
    "an update of it, all 315 together": (ONE, {"updates": RUN["updates"], **STEP}),
    "a sweep of five such runs in one process": (SWEEP, {**IMPORTS, **RUN}),
    "a report of 1,000 runs": (("runner.report", "made"), {**IMPORTS, **REPORT}),
}


def spent(statistics: pstats.Stats, where: str) -> float:
    """Give back the seconds in a function, with what it calls."""
    path, _, name = where.partition(" ")
    found = statistics.stats.items()  # type: ignore[attr-defined]
    return sum(v[3] for (file, _, function), v in found if function == name and path in file)


def main() -> None:
    """Print the parts of each."""
    from benchmarks.report import factors
    from tests.builders import write_ablation

    checkout = Path(sys.argv[1]).resolve() if sys.argv[1:] else ROOT
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ((factor, levels),) = factors("values").items()
        few = dict(islice(levels.items(), 100))
        factor = dataclasses.replace(factor, levels=(*few,))
        write_ablation(folder / "made", {factor: few}, seeds=10)
        for title, (command, parts) in CASES.items():
            file = folder / "profile"
            typed = [sys.executable, "-m", "cProfile", "-o", str(file), "-m", *command]
            typed += ["again=true"] * ("name=one" in command)
            where = {**os.environ, "PYTHONPATH": str(checkout)}
            subprocess.run(typed, cwd=folder, env=where, capture_output=True, check=True)
            statistics = pstats.Stats(str(file))
            total = statistics.total_tt  # type: ignore[attr-defined]
            print(f"{title}: {total:.2f} s")
            for part, function in parts.items():
                if seconds := spent(statistics, function):
                    print(f"  {part:<26}{seconds:6.2f} s{100 * seconds / total:5.0f} %")


if __name__ == "__main__":
    main()
