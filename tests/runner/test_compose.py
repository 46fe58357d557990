"""The names of folders: what sets a run apart from the default one, readable and never shared."""

import sys
from collections import Counter

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode

from runner.__main__ import main
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


@pytest.fixture
def compositions(monkeypatch):
    """How often each of Hydra's two methods that compose a whole config is called."""
    counts = Counter()
    for name in ("load_configuration", "_load_configuration_impl"):
        method = getattr(ConfigLoaderImpl, name)

        def counted(*args, name=name, method=method, **named):
            counts[name] += 1
            return method(*args, **named)

        monkeypatch.setattr(ConfigLoaderImpl, name, counted)
    return counts


STARTS = {
    "a run": ("tricks=[clipping]", "tricks.clipping.max_norm=0.1", "optimizer=adam", "epochs=0"),
    "an experiment": ("experiment=cifar10_core", "data.root=nowhere"),
    "a saved config": ("-cp", "run", "-cn", "config"),
    "an ablation": ("ablation=one_at_a_time", "tricks=core", "epochs=0"),
    "an ablation of an experiment": ("experiment=demo", "epochs=0"),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_start_composes_at_most_twice(tmp_path, monkeypatch, compositions, start):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("name: x\nvariant: y\nseed: 0\nepochs: 0\n")
    monkeypatch.setattr(sys, "argv", ["biscuits", *STARTS[start]])
    with pytest.raises(SystemExit):  # epochs=0 and the like: refused when all is composed
        main()
    assert 1 <= compositions["_load_configuration_impl"] <= 2
    assert compositions["load_configuration"] <= 2


def test_the_composed_names_are_text():
    config = composed("tricks=[clipping]")
    assert [type(config._get_node(key)._value()) for key in ("name", "variant")] == [str, str]
