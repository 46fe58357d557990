"""Config to objects: what a seed decides, and what a trick does not."""

import pytest
import torch
from torch import nn

from runner.build import build, form_of
from runner.config import check
from runner.device import find_device
from runner.errors import UserError
from tests.conftest import composed, settings


def start(*overrides):
    """The initial weights and the first batch of a run."""
    bench = build(settings("model.width=4", "data.augment.crop=1", *overrides))
    weights = torch.cat([p.detach().flatten() for p in bench.training.model.parameters()])
    return weights, next(bench.batches.epoch(0)).inputs


def test_the_seed_decides_the_weights_and_the_batches():
    one, again, other = start(), start(), start("seed=1")
    for first, same, different in zip(one, again, other, strict=True):
        assert torch.equal(first, same)
        assert not torch.equal(first, different)


def test_no_trick_moves_the_weights_or_the_batches():
    for first, same in zip(start(), start("tricks=core"), strict=True):
        assert torch.equal(first, same)


def test_no_decay_on_norms_and_biases_is_an_option():
    bench = build(settings("optimizer.decay_norms_and_biases=false"))
    decays = {
        id(p): group["weight_decay"]
        for group in bench.training.optimizer.param_groups
        for p in group["params"]
    }
    for module in bench.training.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert decays[id(module.weight)] == decays[id(module.bias)] == 0
        elif isinstance(module, nn.Conv2d):
            assert decays[id(module.weight)] == 5e-4


def test_a_users_checkpoint_is_what_training_starts_from(tmp_path):
    trained = build(settings("seed=7", "model.width=4")).training.model.state_dict()
    torch.save(trained, tmp_path / "mine.pt")
    given = settings("model.width=4", f"model.weights={tmp_path / 'mine.pt'}")
    for key, value in build(given).training.model.state_dict().items():
        assert torch.equal(value, trained[key]), key
    with pytest.raises(UserError, match=r"mine\.pt"):
        build(settings("model.width=8", f"model.weights={tmp_path / 'mine.pt'}"))


def test_channels_last_and_another_optimizer_and_scheduler_train():
    given = settings(
        "memory_format=channels_last",
        "optimizer=torch",
        "scheduler=torch",
        "batch_size=256",
        "data.augment.crop=1",
    )
    bench = build(given)
    for batch in bench.batches.epoch(0):
        bench.training.step(batch)
    assert bench.training.recent.means()["train/loss"] < 3
    weights = [p for p in bench.training.model.parameters() if p.ndim == 4 and p.shape[2] == 3]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"^device=cuda: torch sees no CUDA card here \(torch "):
        build(settings("device=cuda"))


def test_more_ranks_than_cards_are_told_how_many_to_start(monkeypatch):
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**ranks, "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    told = r"^device=cuda: torch sees 1 CUDA card for 2 ranks here .* --nproc-per-node=1\)"
    with pytest.raises(UserError, match=told):
        find_device("cuda")
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(UserError, match=r"over 2 ranks needs LOCAL_RANK"):
        find_device("cuda")


def lazy(channels, classes):
    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.Flatten(), nn.LazyLinear(classes))


def test_a_model_with_lazy_layers_may_be_channels_last(monkeypatch):
    monkeypatch.setattr("runner.allowed.USERS", {f"{__name__}.lazy"})
    weights = []
    for form in ("contiguous", "channels_last"):
        cfg = composed("threads=1", f"memory_format={form}")
        cfg.model = {"_target_": f"{__name__}.lazy", "weights": None}
        model = build(check(cfg, ())).training.model
        assert model[0].weight.is_contiguous(memory_format=form_of(check(cfg, ())))
        weights.append(model[0].weight)
    assert torch.equal(*weights)
