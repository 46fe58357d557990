"""What each trick costs: a step of a plain loop with it, against one without, in one run.

    python -m benchmarks.tricks              # both networks; about ten minutes
    python -m benchmarks.tricks resnet20     # one of them

A step is zero_grad, forward, cross-entropy, backward, step, in a plain loop without the runner. The
variants take turns in each round, so that all meet the same noise. `step` is the ratio of the
medians. Tricks on gradients cost less than that noise, so `own` is measured apart: what they add
between backward and the end of the optimizer's step, as a share of the plain step. For
anti-aliasing the multiply-adds of the denser convolutions stand beside it: the ratio of the
steps divided by theirs is what the blurs themselves cost.
"""

import statistics
import sys
import time

import torch
from torch.nn import functional as F

from runner.anti_alias import build_model, count_multiply_adds
from tricks import AntiAliasing, Centralization, Chain, Clipping, Flooding

CASES = {  # samples, side of the images, rounds
    "resnet20": (128, 32, 12),
    "resnet18": (8, 224, 8),
}
THREE = Flooding(level=0.5), Centralization(), Clipping()
VARIANTS = {
    "plain": (),
    "clipping by norm": (Clipping(),),
    "clipping by value": (Clipping(by="value"),),
    "clipping by parameter": (Clipping(by="parameter"),),
    "clipping by unit": (Clipping(by="unit"),),
    "clipping by quantile": (Clipping(by="quantile", warmup=1),),
    "centralization of the gradient": (Centralization("gradient"),),
    "centralization with decay": (Centralization(),),
    "centralization of the update": (Centralization("update"),),
    "flooding": (Flooding(level=10.0),),
    "flooding per sample": (Flooding(level=10.0, per_sample=True),),
    "clipping, centralization, flooding": THREE,
    "anti-aliasing": (AntiAliasing(),),
    "all four": (*THREE, AntiAliasing()),
}


class Loop:
    """A plain loop, with a chain of tricks."""

    def __init__(self, name, tricks):
        torch.manual_seed(0)
        self.chain = Chain(*tricks)
        self.model = self.chain.model(build_model(name, channels=3)).train()
        parameters = self.model.parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=5e-4)
        self.chain.optimizer(self.optimizer, self.model)

    def step(self, inputs, targets):
        """Make one update; give back its seconds, and those from the end of backward on."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        outputs = self.model(inputs)
        losses = F.cross_entropy(outputs, targets, reduction="none")
        loss = self.chain.loss(losses, outputs, targets).mean()
        loss.backward()
        middle = time.perf_counter()
        self.chain.gradients(self.model, self.optimizer, loss.detach())
        self.optimizer.step()
        end = time.perf_counter()
        return end - start, end - middle


def measure(name):
    samples, side, rounds = CASES[name]
    inputs = torch.randn(samples, 3, side, side)
    targets = torch.randint(10, (samples,))
    loops = {variant: Loop(name, tricks) for variant, tricks in VARIANTS.items()}
    times = {variant: [] for variant in VARIANTS}
    for _ in range(rounds + 1):
        for variant, loop in loops.items():
            times[variant].append(loop.step(inputs, targets))
    medians = {
        variant: [statistics.median(seconds) for seconds in zip(*measured[1:], strict=True)]
        for variant, measured in times.items()
    }
    models = (loops[variant].model.eval() for variant in ("plain", "anti-aliasing"))
    plain, denser = (count_multiply_adds(model, inputs[:1]) for model in models)
    return medians, denser / plain


def main():
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread")
    for name in sys.argv[1:] or CASES:
        samples, side, _ = CASES[name]
        medians, denser = measure(name)
        step, after = medians["plain"]
        print(f"\n{name}, {samples} images of {side}x{side}: {1000 * step:.0f} ms a plain step")
        for variant, (total, own) in medians.items():
            line = f"{variant:36} step {total / step:.3f}"
            if "aliasing" not in variant and variant != "plain":
                line += f"  own {100 * (own - after) / step:5.2f} %"
            if variant == "anti-aliasing":
                line += f"  multiply-adds {denser:.3f}  beyond them {total / step / denser:.3f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
