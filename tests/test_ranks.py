"""Two processes, each with half of the batch, train as one process with all of it."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from tricks import (
    Centralization,
    Chain,
    Clipping,
    Flooding,
    anti_alias,
    flood,
    sharpness_aware,
)

ROOT = Path(__file__).parent.parent  # the ranks need nothing else of the tests
UPDATES = 4


def network(norm=False):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 8, 3, stride=2), nn.Tanh()]
    if norm:
        layers.insert(3, nn.BatchNorm2d(8))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 10)).double()


def halves():
    """A half that the network gets right and one that it gets wrong: their losses differ."""
    inputs = torch.randn(12, 1, 10, 10, generator=torch.Generator().manual_seed(1)).double()
    logits = network()(inputs)
    targets = torch.cat([logits[:6].argmax(1), logits[6:].argmin(1)])
    return inputs.chunk(2), targets.chunk(2)


def half_losses(model, inputs, targets):
    return [F.cross_entropy(model(x), y).item() for x, y in zip(inputs, targets, strict=True)]


LOW, HIGH = half_losses(network(), *halves())
LEVELS = {
    "below both": LOW / 2,
    "between, below the mean": LOW + 0.4 * (HIGH - LOW),
    "between, above the mean": LOW + 0.6 * (HIGH - LOW),
    "above both": HIGH * 2,
}


def train(model, inputs, targets, level, naive=False):
    """A plain loop, as a reader has it, with a chain; under ranks the loss is averaged as well."""
    chain = Chain(Centralization(), Clipping(max_norm=0.1))
    if not naive:
        chain = Chain(Flooding(level), chain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    for _ in range(UPDATES):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        (flood(loss, level) if naive else loss).backward()
        mean = loss.detach().clone()
        if distributed.is_initialized():
            distributed.all_reduce(mean)
            mean /= distributed.get_world_size()
        chain.gradients(model, optimizer, mean)
        optimizer.step()
    return {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}


def sharp(model, inputs, targets, adaptive):
    """Gradients at the perturbed weights, and those weights."""
    places = []

    def compute():
        model.zero_grad()
        places.append([p.detach().clone() for p in model.parameters()])
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss.detach()

    sharpness_aware(compute, model, 0.5, adaptive=adaptive)
    return places[1], [p.grad for p in model.parameters()]


def blurred():
    return anti_alias(network(norm=True)).eval()  # the statistics of batch norm are those it has


def passed(model, inputs, targets):
    outputs = model(inputs)
    F.cross_entropy(outputs, targets).backward()
    return outputs.detach(), [p.grad for p in model.parameters()]


def rank_main(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=30),
    )
    inputs, targets = (halves[rank] for halves in halves())
    results = {
        (level, naive): train(DistributedDataParallel(network()), inputs, targets, level, naive)
        for level in LEVELS.values()
        for naive in (False, True)
    }
    for adaptive in (False, True):
        results["sharp", adaptive] = sharp(
            DistributedDataParallel(network()), inputs, targets, adaptive
        )
    results["blurred"] = passed(DistributedDataParallel(blurred()), inputs, targets)
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two real processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.test_ranks", str(rank), str(folder)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            _, complaint = process.communicate(timeout=60)
            assert process.returncode == 0, complaint
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def distance(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_flooding_centralization_and_clipping_see_the_update_of_all_ranks(ranks, level):
    inputs, targets = map(torch.cat, halves())
    alone = train(network(), inputs, targets, level)
    one, other = (rank[level, False] for rank in ranks)
    assert distance(one, dict(network().named_parameters())) > 1e-3
    assert distance(one, other) == 0
    assert distance(one, alone) < 1e-12


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_to_flood_the_loss_of_each_rank_is_wrong_just_where_the_level_lies_between(ranks, level):
    one = ranks[0]
    between = LOW < level < HIGH
    assert (distance(one[level, True], one[level, False]) > 1e-3) == between


def test_an_anti_aliased_network_gives_the_outputs_and_gradients_of_one_process(ranks):
    inputs, targets = map(torch.cat, halves())
    outputs, gradients = passed(blurred(), inputs, targets)
    torch.testing.assert_close(torch.cat([rank["blurred"][0] for rank in ranks]), outputs)
    for rank in ranks:
        torch.testing.assert_close(rank["blurred"][1], gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sharpness_aware_the_perturbation_is_that_of_all_ranks(ranks, adaptive):
    inputs, targets = map(torch.cat, halves())
    alone = sharp(network(), inputs, targets, adaptive)
    own = sharp(network(), *(halves[0] for halves in halves()), adaptive)
    assert (own[0][0] - alone[0][0]).abs().max() > 1e-3  # a rank by itself would go elsewhere
    for rank in ranks:
        torch.testing.assert_close(rank["sharp", adaptive], alone, rtol=1e-10, atol=1e-12)


if __name__ == "__main__":
    rank_main(int(sys.argv[1]), sys.argv[2])
