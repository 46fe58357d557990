"""The experiments of conf/experiment/: recipes of named tricks and config alone."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import published
from runner.cli.hydra_internals import Loader
from runner.data.source import Split
from runner.sweep.cost import FORMULAS, Trial
from runner.sweep.draft import Draft
from runner.sweep.settings import check_settings
from tests.conftest import settings

STEPS = {  # of the published recipe, and what each is here
    "lr_optimizations": {"optimizer.lr", "tricks.warm_up.enabled"},
    "trivial_augment": {"tricks.trivial_augment.enabled"},
    "long_training": {"epochs"},
    "random_erasing": {"tricks.random_erasing.enabled"},
    "label_smoothing": {"tricks.label_smoothing.enabled"},
    "mixup": {"tricks.mixup.enabled"},
    "cutmix": {"tricks.cutmix.enabled", "tricks.mixup.probability"},
    "weight_decay": {"optimizer.weight_decay", "tricks.no_decay.enabled"},
    "fix_res": {"tricks.progressive_resizing.enabled"},
    "ema": {"tricks.ema.enabled"},
    "repeated_augmentation": {"tricks.repeated_augmentation.enabled"},
}


def lay_out(design):
    typed = ("experiment=torchvision_recipe", "data.root=a", f"ablation={design}")
    loader = Loader()
    config = loader.compose(typed)
    given = check_settings(OmegaConf.to_container(config.ablation))
    return Draft(given, config, loader, typed, 1).plan("")


def test_the_steps_of_torchvision_are_added_in_their_order():
    plan = lay_out("cumulative")
    *steps, total = plan.contrasts
    assert len(plan.variants) == 12
    assert [contrast.factors for contrast in steps] == [(name,) for name in STEPS]
    assert total.weights == {[*plan.variants][-1]: 1.0, "baseline": -1.0}
    before = {}
    for name, now in zip(STEPS, [*plan.changes.values()][1:], strict=True):
        new = {key for key, value in now.items() if key not in before or before[key] != value}
        assert STEPS[name] <= new
        before = now


def test_each_step_of_torchvision_is_left_out_alone():
    plan = lay_out("leave_one_out")
    assert [*plan.variants] == ["all", *(f"without-{name}" for name in STEPS)]
    for name, changes in zip(STEPS, [*plan.changes.values()][1:], strict=True):
        assert STEPS[name] <= changes.keys()
        assert not any(key.endswith("enabled") and changes[key] for key in changes)


def multiply_adds(make):
    """Count those of an update of one size and of twice that: of an image, and of none."""
    counts = []
    for size in (8, 16):
        update = make(size)
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            update()
        counts.append(counter.get_total_flops() / 2)
    image = (counts[1] - counts[0]) / 8
    return image, counts[0] - 8 * image


@pytest.mark.slow
def test_the_fast_recipe_takes_no_more_than_the_published_one(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(64) % 10
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    data = ("data=npz", f"data.file={tmp_path / 'a.npz'}", "device=cpu", "precision=float32")
    given = settings("experiment=cifar10_fast", *data)

    def ours(size):
        trial = settings("experiment=cifar10_fast", *data, f"batch_size={size}")
        return Trial("fast", trial, {}).update

    def theirs(size):
        monkeypatch.setattr(published, "BATCH", size)
        split = Split(*(torch.from_numpy(a) for a in (images.transpose(0, 3, 1, 2), labels)))
        drawn = published.Images(split, 0)
        model = published.make_network(drawn, 0)
        optimizer = published.make_optimizer(model)
        batch = next(drawn.epoch(0))
        return lambda: published.update(model, optimizer, *batch, "float32")

    image, update = multiply_adds(ours)
    updates = given.updates(50_000 // given.batch_size)
    total = updates * (given.batch_size * image + update)
    image, update = multiply_adds(theirs)
    assert update == 0
    published_total = 4 * (50_000 // 1024) * 1024 * image
    assert 0.99 < total / published_total < 1
