"""One of two ranks that train with every trick; the first writes what was found to a file."""

import json
import sys
from pathlib import Path

import torch

from runner.data.augmentation import pick
from runner.device import compute_exactly, find_device
from runner.ranks import ALONE, Parts, joined
from tests.loop import batch
from tests.test_laws import INPUTS, make, training
from tricks import overrides

UPDATES, SAMPLES = 2, 12


def trained(name, device, ranks=None, size=None, together=False):
    """Train with a trick, and with batch norms by the statistics of the whole update if wanted."""
    chosen = [make(name)] if name else []
    parts = Parts(size, ranks or ALONE, together, together)
    run = training(*chosen, parts=parts, device=device)
    for _ in range(UPDATES):
        whole = on(device, batch(run.updates, run.trick, SAMPLES))
        places = parts.places(SAMPLES) or [slice(SAMPLES)]
        own = whole._replace(inputs=pick(whole.inputs, places), targets=pick(whole.targets, places))
        run.step(own, SAMPLES)
    return run


def on(device, whole):
    return whole._replace(inputs=whole.inputs.to(device), targets=whole.targets.to(device))


def weights(run, buffers=False):
    named = [*run.model.named_parameters(), *(run.model.named_buffers() if buffers else ())]
    return {name: tensor.detach().cpu().clone() for name, tensor in named}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def near(one, other):
    return all(torch.allclose(one[name], other[name], 1e-3, 1e-4) for name in one)


def evaluated(run):
    with run.evaluation(), torch.no_grad():
        logits = run.predictor.eval()(INPUTS[0].to(run.device))
        run.model.train()
    return logits.cpu()


def find(name, ranks, device):
    """What two ranks find with a trick, against one process that passes the same parts."""
    name = None if name == "None" else name
    two, one = trained(name, device, ranks, SAMPLES // 2), trained(name, device, size=SAMPLES // 2)
    logits = ranks.gather(evaluated(two))
    states = ranks.gather(weights(two, buffers=True))
    numbers = [run.recent.means() for run in (two, one)]
    plain = name is None or not overrides(make(name), "batch")
    together = trained(name, device, ranks, SAMPLES // 2, together=True) if plain else None
    return {
        "weights are those of one process": same(weights(two), weights(one)),
        "losses too": all(
            numbers[0][key] == numbers[1][key]
            for key in ("train/loss", "train/transformed_loss", "train/gradient_norm_after")
        ),
        "all ranks hold the same": same(*states) and torch.equal(*logits),
        "with synchronised batch norm it is one whole update": together is None
        or near(weights(together, buffers=True), weights(trained(name, device), buffers=True)),
    }


def main(file, device, *names):
    """Try tricks."""
    device = find_device(device)
    compute_exactly(device, 1, "none" if device.type == "cuda" else "convolutions")
    with joined() as ranks:
        assert ranks.count == 2
        found = {str(name): find(name, ranks, device) for name in names}
        if ranks.is_first:
            Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
