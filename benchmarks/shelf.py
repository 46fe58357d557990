"""What each trick of the shelf does and costs, each alone: a table of Markdown.

    python -m benchmarks.shelf digits              # five seeds on the digits
    python -m benchmarks.shelf cifar FOLDER        # three on CIFAR-10 in train/ and test/
    python -m benchmarks.shelf digits epochs=1 ablation.seeds=3 name=short      # any override

Accuracy and verdict are those of an ablation, `ablation=one_at_a_time tricks=shelf`, which this
command starts, or goes on with where it was stopped; it lies in outputs/NAME with its reports. The
cost of an update is measured afterwards, since runs side by side slow each other down: updates with
the trick and without it in turn, with all that belongs to them (augmentation, tricks, optimizer),
and the median of their ratios. Its multiply-adds are counted. Evaluations are left out of both, so
tricks that act at an evaluation alone cost nothing here.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from runner.ablation.plan import find_plan
from runner.ablation.verdicts import judge
from runner.cli.task import register
from runner.report import format as fmt
from runner.report.markdown import table
from runner.sweep.cost import multiply_adds, seconds

BENCH = ("ablation=one_at_a_time", "tricks=shelf", "threads=1")
FLIPS = [  # it takes the place of the random flips
    f"{{tricks.alternating_flip.enabled:{on},data.augment.flip:{off}}}"
    for on, off in (("false", "true"), ("true", "false"))
]
CASES = {
    "digits": (
        "data.test=0.5",
        "ablation.seeds=5",
        "ablation.margin=0.01",
        # a mirrored digit is no digit
        "tricks.alternating_flip.enabled=false",
        "tricks.test_time_views.flip=false",
    ),
    "cifar": (
        "data=image_folder",
        "model.width=16",
        "epochs=3",
        "batch_size=128",
        "memory_format=channels_last",
        "ablation.seeds=3",
        "ablation.margin=0.01",
        f"ablation.factors={{alternating_flip:{{random:{FLIPS[0]},alternating_flip:{FLIPS[1]}}}}}",
    ),
}
EACH = 2.0
"""Seconds for which updates of a trick and of the baseline are timed."""


def run(overrides):
    """Start the ablation, or go on with it."""
    subprocess.run([sys.executable, "-m", "runner", *overrides], check=True)


def rows(findings, costs, counts):
    """Give back the cells of each trick, the best first."""
    plan = findings.plan
    baseline = next(iter(plan.variants))
    for row in fmt.rows(findings):
        time, count = (
            each[row.effect].epoch / each[baseline].epoch if row.effect in each else None
            for each in (costs, counts)
        )
        yield (
            row.effect,
            row.verdict,
            row.plus_minus,
            row.better,
            fmt.ratio(time),
            fmt.ratio(count),
            row.memory,
            row.reason,
        )


def describe(root, each=EACH):
    """Write the table of an ablation that is done."""
    plan = find_plan(root)
    findings = judge(root, plan)
    heads = ["trick", "verdict", f"difference, {fmt.unit(plan.question.metric)}", "seeds better"]
    heads += ["time of an update", "multiply-adds", "peak memory", "reason"]
    lines = table(heads, rows(findings, seconds(plan, each), multiply_adds(plan)))
    return "\n".join([*lines, "", f"    {plan.command}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("overrides", nargs="*", metavar="FOLDER or KEY=VALUE")
    given = parser.parse_args()
    folder, overrides = "", given.overrides
    if given.case == "cifar":
        if not overrides or not Path(overrides[0]).is_dir():
            parser.error("cifar needs a FOLDER of train/<class>/ and test/<class>/.")
        folder, *overrides = overrides
    names = [o.partition("=")[2] for o in overrides if o.startswith("name=")]
    name = names[-1] if names else f"shelf_{given.case}"
    settings = [*BENCH, *CASES[given.case], *([f"data.root={folder}"] if folder else [])]
    run([*settings, *overrides, *([] if names else [f"name={name}"])])
    register()
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread a run\n"
    )
    print(describe(Path("outputs") / name))


if __name__ == "__main__":
    main()
