"""The report: verdicts from the files alone, in words, pictures and JSON; safe and repeatable."""

import json
import random

from runner.ablation.designs import Factor, design
from runner.ablation.plan import Plan, Question, save_plan

MACHINE = {
    "config": "0123456789abcdef",
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


def write_plan(root, tricks, kind="one_at_a_time", seeds=5, **question):
    """Write the plan of an ablation of tricks."""
    factors = tuple(Factor(name, (f"no-{name}", name)) for name in tricks)
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
    plan = Plan(
        name=root.name,
        question=Question(**{**asked, **question}),
        seeds=tuple(range(seeds)),
        factors=factors,
        variants=laid.variants,
        contrasts=laid.contrasts,
        config=CONFIG,
        changes={name: {} for name in laid.variants},
        command=f"python -m runner ablation={kind} tricks=page name={root.name}",
    )
    root.mkdir(parents=True, exist_ok=True)
    save_plan(root, plan)
    return plan


def write_run(folder, variant, seed, accuracy=None, status="done", inactive=(), **more):
    """Write the files of a run: done with an accuracy, or on its way, or broken."""
    place = folder / variant / f"seed={seed}"
    place.mkdir(parents=True, exist_ok=True)
    told = {"status": status, "seconds": 2.0 + seed, "peak_memory": 10**8, "error": None}
    (place / "status.json").write_text(json.dumps({**told, **more.get("told", {})}))
    (place / "run.json").write_text(json.dumps({**MACHINE, **more.get("machine", {})}))
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
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if accuracy is not None and status == "done":
        result = {"test/accuracy": accuracy, "test/loss": 0.5, "test/shift_consistency": 0.75}
        for name in more.get("on", ()):
            result[f"tricks/{name}/{name}_share"] = 0.0 if name in inactive else 0.42
        result |= {"inactive": [*inactive], "updates": 25, "skipped": 0, "weights": "f" * 64}
        (place / "result.json").write_text(json.dumps({"format": 1, **result}))
    return place


def write_ablation(root, effects, kind="one_at_a_time", seeds=5, noise=0.002, slow=(), **question):
    """Write the plan and the runs of an ablation whose true effects are given, by trick."""
    plan = write_plan(root, effects, kind, seeds, **question)
    for seed, variant in plan.runs():
        on = [v for v in plan.variants[variant] if not v.startswith("no-")]
        drawn = random.Random(f"{variant} of {seed}")
        score = 0.95 + 0.004 * seed / seeds + sum(effects[name] for name in on)
        cost = 1.0 + 0.07 * len(on) + sum(dict(slow).get(name, 0.0) for name in on)
        write_run(root, variant, seed, round(score + drawn.gauss(0, noise), 4), on=on, slow=cost)
    return plan
