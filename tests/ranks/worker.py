"""One of two ranks that train with every trick; the first writes what was found to a file."""

import json
import sys
from pathlib import Path

import torch

from runner.data.augmentation import pick
from runner.ranks import ALONE, Parts, joined
from tests.loop import batch
from tests.test_laws import INPUTS, make, training
from tricks import overrides

UPDATES, SAMPLES = 2, 12


def trained(name, ranks=None, size=None, together=False):
    """Train with a trick, and with batch norms by the statistics of the whole update if wanted."""
    chosen = [make(name)] if name else []
    parts = Parts(size, ranks or ALONE, together, together)
    run = training(*chosen, parts=parts)
    for _ in range(UPDATES):
        whole = batch(run.updates, run.trick, SAMPLES)
        places = parts.places(SAMPLES) or [slice(SAMPLES)]
        own = whole._replace(inputs=pick(whole.inputs, places), targets=pick(whole.targets, places))
        run.step(own, SAMPLES)
    return run


def weights(run, buffers=False):
    named = [*run.model.named_parameters(), *(run.model.named_buffers() if buffers else ())]
    return {name: tensor.detach().clone() for name, tensor in named}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def near(one, other):
    return all(torch.allclose(one[name], other[name], 1e-3, 1e-4) for name in one)


def evaluated(run):
    with run.evaluation(), torch.no_grad():
        logits = run.predictor.eval()(INPUTS[0])
        run.model.train()
    return logits


def find(name, ranks):
    """What two ranks find with a trick, against one process that passes the same parts."""
    name = None if name == "None" else name
    two, one = trained(name, ranks, SAMPLES // 2), trained(name, size=SAMPLES // 2)
    logits = ranks.gather(evaluated(two))
    states = ranks.gather(weights(two, buffers=True))
    numbers = [run.recent.means() for run in (two, one)]
    plain = name is None or not overrides(make(name), "batch")
    together = trained(name, ranks, SAMPLES // 2, together=True) if plain else None
    return {
        "weights are those of one process": same(weights(two), weights(one)),
        "losses too": all(
            numbers[0][key] == numbers[1][key]
            for key in ("train/loss", "train/transformed_loss", "train/gradient_norm_after")
        ),
        "all ranks hold the same": same(*states) and torch.equal(*logits),
        "with synchronised batch norm it is one whole update": together is None
        or near(weights(together, buffers=True), weights(trained(name), buffers=True)),
    }


def main(file, *names):
    """Try tricks."""
    torch.set_num_threads(1)
    with joined() as ranks:
        assert ranks.count == 2
        found = {str(name): find(name, ranks) for name in names}
        if ranks.is_first:
            Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
