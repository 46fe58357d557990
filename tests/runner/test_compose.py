"""The names of folders: what sets a run apart from the default one, readable and never shared."""

import pytest
from hydra.types import RunMode

from runner.cli.hydra_internals import Loader
from tests.conftest import composed

VARIANTS = {
    (): "baseline",
    ("tricks=[clipping]",): "clipping",
    ("tricks.clipping.enabled=true",): "clipping",
    ("tricks=[clipping,flooding]",): "clipping+flooding",
    ("tricks=[flooding,clipping]",): "clipping+flooding",
    ("tricks=[clipping]", "tricks.clipping.max_norm=0.1"): "clipping-max_norm=0.1",
    ("tricks=[clipping]", "tricks.clipping.max_norm=1.0"): "clipping",
    ("optimizer.lr=0.05",): "baseline+optimizer.lr=0.05",
    ("optimizer=adam",): "baseline+optimizer=adam",
    ("optimizer=adam", "optimizer.lr=0.5"): "baseline+optimizer=adam+optimizer.lr=0.5",
    ("seed=3", "again=true"): "baseline",
    ("data=cifar10", "model=resnet20"): "baseline",
    ("name=mine", "model=resnet20"): "baseline+model=resnet20",
    ("data=image_folder", "data.root=/some/where"): "baseline",
    ("experiment=demo",): "core",
    ("tricks=core",): "core",
    ("tricks=core", "tricks.warm_restarts.T_0=2"): "core+warm_restarts-T_0=2.0",
    ("tricks=[flooding,clipping,centralization,anti_aliasing,warm_restarts]",): "core",
    ("optimizer.lr=1",): "baseline+optimizer.lr=1.0",
    (
        "~optimizer.momentum",
        "~optimizer.nesterov",
    ): "baseline+~optimizer.momentum+~optimizer.nesterov",
    ("+made.up=1",): "baseline+made.up=1",
}


@pytest.mark.parametrize(("overrides", "variant"), VARIANTS.items())
def test_the_variant_is_the_readable_difference_from_the_defaults(overrides, variant):
    assert composed(*overrides).variant == variant


def test_a_preset_less_one_is_named_by_the_tricks_that_are_left():
    variant = composed("tricks=core", "tricks.anti_aliasing.enabled=false").variant
    assert variant == "centralization+clipping+flooding+warm_restarts"


def test_a_sweep_without_a_name_is_prepared_before_any_job_is_set_up():
    cfg = Loader().load_configuration("config", ["data=cifar10"], RunMode.MULTIRUN)
    assert cfg.hydra.sweep.dir == "outputs/cifar10-resnet8"


def test_the_name_is_data_and_model():
    assert composed("data=cifar10", "model=resnet20").name == "cifar10-resnet20"
    assert composed("name=mine").name == "mine"


def test_a_long_variant_is_cut_with_a_hash_and_stays_apart_from_others():
    def long(end):
        keys = ("crop=11", "cutout=11", f"flip={end}")
        return composed(
            *(f"data.augment.{key}" for key in keys),
            "optimizer.lr=0.123456",
            "batch_size=12345",
            "evaluate_every=123",
            "optimizer.momentum=0.98765",
            "epochs=123456",
        ).variant

    assert len(long("true")) == 120
    assert long("true") != long("false")


def test_a_value_cannot_leave_the_output_folder():
    variant = composed("model=torchvision", "model.name='../../etc/x'").variant
    assert "/" not in variant
