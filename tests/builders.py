"""Made-up ablations for the tests: their plans, the files of their runs, and what they came to."""

import json
import random
from functools import lru_cache
from math import sqrt

import numpy as np

from runner.ablation.designs import Factor, design
from runner.ablation.find import find_own_runs
from runner.ablation.plan import PLAN, Plan, Question, load_plan, save_plan
from runner.ablation.verdicts import Finding, Findings, Verdict
from runner.store.files import read_json, write_json

MACHINE = {
    "code": {"version": "0.1.0", "commit": "abcdef123456"},
    "libraries": {"torch": "2.14.1", "numpy": "2.4.0"},
    "processor": "AMD EPYC",
    "threads": 1,
}
CONFIG = {
    "data._target_": "runner.data.digits",
    "data.validation": 0.1,
    "model._target_": "runner.models.cifar_resnet",
    "model.depth": 8,
    "model.width": 8,
    "model.weights": None,
    "epochs": 15,
}

THREE = {
    "anti_aliasing": (Verdict.HELPS, (0.010, 0.011, 0.012)),
    "clipping": (Verdict.UNDECIDED, (0.004, -0.002, 0.001)),
    "flooding": (Verdict.HURTS, (-0.02, -0.021, -0.019)),
}
"""Verdicts to show, with the differences under each seed."""


def make_plan(factors, kind="one_at_a_time", seeds=5, name="mine", **question):
    """Make the plan of an ablation, as its design lays it out."""
    laid = design(kind, factors)
    asked = {
        "design": kind,
        "metric": "test/accuracy",
        "goal": "maximize",
        "margin": 0.005,
        "alpha": 0.05,
        "until": "fixed",
        "most_seeds": seeds,
    }
    return Plan(
        name=name,
        question=Question(**{**asked, **question}),
        seeds=tuple(range(seeds)),
        factors=factors,
        variants=laid.variants,
        contrasts=laid.contrasts,
        config=CONFIG,
        changes={name: {} for name in laid.variants},
        command=f"python -m runner ablation={kind} tricks=core name={name}",
    )


def write_plan(root, *arguments, **more):
    """Make a plan, and write it."""
    plan = make_plan(*arguments, name=root.name, **more)
    root.mkdir(parents=True, exist_ok=True)
    save_plan(root, plan)
    return plan


@lru_cache
def plan_of(folder, _):
    """Read a plan, once for each time that it was written."""
    return load_plan(folder)


def read_status(folder):
    """Read how far a run is, and that its checksum is right."""
    return read_json(folder / "status.json")[0]


def write_status(folder, status, **more):
    """Write how far a run is, as a run does."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "status.json", {"status": status, **more})


def write_files(folder, metrics=None, **contents):
    """Write files of a run: the lines of its metrics, and its `status`, `run` and `result`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps({"format": 1, **content}))
    if metrics is not None:
        lines = "".join(json.dumps(line) + "\n" for line in metrics)
        (folder / "metrics.jsonl").write_text(lines)


def write_run(folder, variant, seed, accuracy=None, status="done", inactive=(), **more):
    """Write the files of a run: done with an accuracy, or on its way, or broken."""
    place = folder / variant / f"seed={seed}"
    told = {"status": status, "seconds": 2.0 + seed, "peak_memory": 10**8, "error": None}
    plan = plan_of(folder, (folder / PLAN).stat().st_mtime_ns) if (folder / PLAN).exists() else None
    planned = plan.digests(variant) if plan and variant in plan.variants else {}
    machine = {**MACHINE, "config": planned.get(seed), **more.get("machine", {})}
    noise = random.Random(f"{variant} {seed}")
    slow = more.get("slow", 1.0)
    lines = [
        {
            "epoch": e,
            "update": e * 5,
            "train/loss": (2.0 + 0.3 * noise.random()) / e,
            "validation/accuracy": (accuracy or 0.5) * (1 - 0.5 / e) + 0.02 * noise.random(),
            "time/seconds": slow * (1.0 + 0.02 * noise.random()),
            "time/images_per_second": 1000.0 / slow,
        }
        for e in range(1, more.get("epochs", 5) + 1)
    ]
    write_files(place, lines, status={**told, **more.get("told", {})}, run=machine)
    if accuracy is not None and status == "done":
        result = {"test/accuracy": accuracy, "test/loss": 0.5, "test/shift_consistency": 0.75}
        for name in more.get("on", ()):
            result[f"tricks/{name}/{name}_share"] = 0.0 if name in inactive else 0.42
        result |= {
            "inactive": [*inactive],
            "updates": 25,
            "skipped": 0,
            "weights": f"those of {variant} {seed}",
        }
        write_files(place, result=result)
    return place


def tricks(**effects):
    """Give back the factors of tricks, for each the true effect of having it on."""
    return {trick(name): {name: effect} for name, effect in effects.items()}


def trick(name):
    return Factor(name, (f"no-{name}", name))


def write_ablation(root, factors, kind="one_at_a_time", seeds=5, slow=(), samples=None, **question):
    """Write an ablation: its plan, and runs that come to the true effects of the levels."""
    effects = {level: effect for levels in factors.values() for level, effect in levels.items()}
    plan = write_plan(root, tuple(factors), kind, seeds, **question)
    for seed, variant in plan.runs():
        on = [level for level in plan.variants[variant] if level in effects]
        noise = 0.002 * random.Random(f"{variant} of {seed}").gauss()
        score = round(0.9 + 0.004 * seed / seeds + sum(effects[level] for level in on) + noise, 4)
        cost = 1.0 + 0.07 * len(on) + sum(dict(slow).get(name, 0.0) for name in on)
        place = write_run(root, variant, seed, score, on=on, slow=cost)
        if samples is not None:
            np.save(place / "correct.npy", np.arange(samples) < score * samples)
    return plan


def make_findings(root, verdicts=None, plan=None, **more):
    """Make the findings of an ablation by hand: for each effect its verdict and its differences."""
    if verdicts is None:
        verdicts = {"clipping": (Verdict.HELPS, (0.01, 0.02, 0.03))}
    plan = plan or write_plan(root, tuple(trick(name) for name in verdicts), seeds=3)
    asked = {contrast.name: contrast for contrast in plan.contrasts}
    effects = [make_finding(asked[name], *told) for name, told in verdicts.items()]
    runs = {(run.variant, int(run.seed)): run for run in find_own_runs(root)}
    nothing = {"interactions": (), "shares": (), "calibration": (), "warnings": ()}
    return Findings(
        **{"root": root, "plan": plan, "effects": tuple(effects), "runs": runs, **nothing, **more}
    )


def make_finding(contrast, verdict, differences, **more):
    mean = sum(differences) / len(differences) if differences else None
    half = max(differences) - min(differences) if differences else None
    usual = {
        "reason": "as the test has it",
        "differences": dict(enumerate(differences)),
        "mean": mean,
        "interval": (mean - half, mean + half) if len(differences) > 1 else None,
        "time_ratio": 1.22 if differences else None,
        "memory_ratio": 1.05 if differences else None,
        "open": verdict is Verdict.UNDECIDED,
        "trick_metrics": {},
        "failures": {},
    }
    return Finding(contrast=contrast, verdict=verdict, **{**usual, **more})


NOISE = (0.0, 0.011, -0.009, 0.004, -0.006)
RAISED = (
    'Traceback (most recent call last):\n  File "own.py", line 3, in gradients\nValueError: bad'
)


class Runs:
    """Writes runs into an ablation's folder."""

    def __init__(self, root, plan):
        self.root, self.plan = root, plan

    def digest(self, variant, seed):
        """Give back the hash of the planned config; None of what is not planned."""
        return self.plan.digests(variant).get(seed) if variant in self.plan.variants else None

    def write(self, variant, seed, score=0.9, state="done", seconds=(1.0, 1.0), **more):
        """Write a run; `more` goes into its result, but for `memory`, `machine` and `correct`."""
        folder = self.plan.folder(self.root, variant, seed)
        machine = {"code": {"commit": "abc"}, "libraries": {"torch": "2.10"}, "threads": 1}
        machine |= {"config": self.digest(variant, seed), **more.pop("machine", {})}
        lines = [{"epoch": i, "update": i, "time/seconds": s} for i, s in enumerate(seconds)]
        write_files(folder, lines, run={"processor": "a", **machine})
        told = {"peak_memory": more.pop("memory", None)}
        told |= {key: more.pop(key, None) for key in ("error", "cause")}
        write_status(folder, state, **told)
        correct = more.pop("correct", None)
        if correct is not None:
            np.save(folder / "correct.npy", correct)
        if state == "done":
            result = {"test/accuracy": score, "inactive": [], "weights": f"{variant}{seed}"}
            write_files(folder, result={**result, **more})
        return folder

    def fill(self, **differences):
        """Write all runs: the baseline's scores, and those of each variant so much above."""
        for seed, variant in self.plan.runs():
            base = sqrt(0.8 + seed * 7 % 5 / 1000)  # no share of a number of samples
            more = 0 if variant == "baseline" else differences.get(variant, NOISE)[seed]
            self.write(variant, seed, base + more)

    def fail(self, variant, seed, state="diverged", error=None, cause=None):
        """Write a run that failed: it diverged, or as its error and cause say."""
        self.plan.folder(self.root, variant, seed).joinpath("result.json").unlink(missing_ok=True)
        self.write(variant, seed, state=state, error=error, cause=cause)
