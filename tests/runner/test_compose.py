"""The names of folders: what sets a run apart from the default one, readable and never shared."""

import json
import re
import sys
from collections import Counter
from functools import partial

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from runner.__main__ import main
from runner.cli.hydra_internals import Loader
from runner.errors import UserError
from runner.names import write_value
from runner.store.files import digest
from tests.conftest import composed, few, few_of

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
    ("data=image_folder", "data.root=photos"): "baseline+data.root=photos",
    ("data=image_folder", "data.root=/some/photos/"): "baseline+data.root=photos-e05c16ea",
    ("data=image_folder", "data.root='some/Ürün'"): "baseline+data.root=r_n-2efea3a8",
    ("optimizer.lr=1e10",): "baseline+optimizer.lr=1e10",
    ("tricks=[clipping]", "~tricks.clipping.eps"): "clipping-~eps",
    ("experiment=demo",): "core+warm_restarts-T_mult=1.0",
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
QUICK = (
    *((), ("tricks=[flooding,clipping]",), ("tricks=[clipping]", "tricks.clipping.max_norm=0.1")),
    *(("optimizer=adam", "optimizer.lr=0.5"), ("seed=3", "again=true"), ("optimizer.lr=1",)),
    *(("name=mine", "model=resnet20"), ("data=image_folder", "data.root='some/Ürün'")),
    *(("tricks=core", "tricks.warm_restarts.T_0=2"), ("tricks=[clipping]", "~tricks.clipping.eps")),
    ("+made.up=1",),
)


@pytest.mark.parametrize(("overrides", "variant"), few_of(VARIANTS, QUICK))
def test_the_variant_is_the_readable_difference_from_the_defaults(overrides, variant):
    assert composed(*overrides).variant == variant


ONE_BY_ONE = [
    ("optimizer.lr=0.1",),
    ("optimizer.lr=1e-1",),
    ("optimizer.lr=1",),
    ("optimizer.lr=1.0",),
    ("optimizer.nesterov=1",),
    ("+optimizer.dampening=null",),
    ("~optimizer.momentum",),
    ("optimizer=adam", "optimizer.betas=[0,1]"),
    ("optimizer=adam", "optimizer.betas=[0.0,1.0]"),
    ("scheduler=step", "scheduler.milestones=[0.5]"),
    ("scheduler=step", "scheduler.milestones=0.5"),
    ("scheduler=step", "scheduler.milestones='0.5'"),
    ("model=resnet20",),
    ("model=torchvision", "model.name='a b'"),
    ("model=torchvision", "model.name=a_b"),
    ("model=torchvision", "model.name='a_b+model.weights=x'"),
    ("model=torchvision", "model.name=a_b", "model.weights=x"),
    *((f"model.weights={file}",) for file in ("a/w.pt", "b/w.pt", "'null'")),
    *(("data=npz", f"data.file={file}") for file in ("a.npz", "x/a.npz", "y/a.npz")),
    *(
        ("data=image_folder", f"data.root={folder}")
        for folder in ("'é'", "'é '", "'è'", "'1'", "1.0")
    ),
    ("data=image_folder", "data.root=a", "data.size=32"),
    *(("data=image_folder", "data.root=a", f"data.fold={fold}") for fold in (0, 1)),
    *(("data=image_table", f"data.file={file}") for file in ("a.csv", "x/a.csv")),
    ("name=mine",),
    ("name=mine", "data=mnist"),
    ("name=mine", "model=resnet20"),
    ("tricks=[clipping,flooding]",),
    ("tricks=[flooding,clipping]",),
    ("tricks=[clipping]", "tricks.clipping.max_norm=2"),
    ("tricks=[clipping]", "tricks.clipping.max_norm=2.0"),
    ("tricks=[clipping]", "~tricks.clipping.eps"),
    ("experiment=cifar10_core", "data.root=a"),
    ("experiment=cifar10_core", "data.root=a", "name=mine"),
    ("name=mine", "data=image_folder", "model=resnet20", "tricks=core", "data.root=a"),
    ("again=true", "resume=anywhere", "checkpoint_seconds=1"),
    ("+unheard.of='a b'",),
    ("+unheard.of=a_b",),
]


@pytest.mark.slow
def test_two_runs_share_a_folder_exactly_if_they_are_the_same_run():
    folders, loader = {}, Loader()
    for overrides in ONE_BY_ONE:
        config = OmegaConf.to_container(loader.compose(overrides), resolve=True)
        for key in ("hydra", "again", "resume", "checkpoint_seconds"):  # which change no bit of it
            del config[key]
        folder = config["name"], config.pop("variant"), config["seed"]
        for name, trick in config["tricks"].items():
            config["tricks"][name] = trick if trick["enabled"] else None
        found = folders.setdefault(folder, digest(config)), digest(config)
        assert found[0] == found[1], f"{overrides}: {folder} is another run's too"
    assert len(set(folders.values())) == len(folders), "one run, two folders"
    assert max(len(variant) for _, variant, _ in folders) <= 120


TEXTS = st.text(st.sampled_from("aA0.,_-+=/ \\é'1e"), max_size=4)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-2, 20), st.floats(-1e9, 1e9), TEXTS)


@given(one=VALUES | st.lists(VALUES, max_size=3), other=VALUES | st.lists(VALUES, max_size=3))
def test_different_values_are_written_differently(one, other):
    assert (write_value(one) == write_value(other)) == (json.dumps(one) == json.dumps(other))
    assert re.fullmatch(r"[A-Za-z0-9._,-]+", write_value(one))


def test_a_file_of_ones_own_with_the_name_of_ours_is_refused_not_passed_over(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/digits.yaml").write_text("_target_: runner.data.digits\n")
    with pytest.raises(UserError, match=r"data/digits\.yaml has the name of a file in .*Rename it"):
        Loader([tmp_path]).compose([])


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


@pytest.mark.parametrize("start", few(STARTS, ("a saved config", "an ablation of an experiment")))
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


IN_ORDER = (  # what is written of a key that another override has written
    ("optimizer.lr=0.5", "optimizer={lr:0.1}"),
    ("tricks.clipping.enabled=true", "tricks={clipping:{enabled:false}}"),
    *(("+foo.bar=1", "~foo"), ("+foo.bar=1", "++foo={bar:2}"), ("seed=1", "seed=2", "+note=a")),
    *(("experiment=demo", "seed=4", "epochs=2"), ("+extra=a",), ("+extra=a", "extra.x=6")),
)
WRONG = (
    *("optimizer.lrr=1", "tricks=[cliping]", "optimizer=sdg", "seed=-1", "made_up=1"),
    *("metrics.x=1", "seed=1,2", "+extra=b"),
)


def test_the_runs_of_a_sweep_are_what_hydra_composes_for_each(tmp_path):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "a.yaml").write_text("x: 5\n")
    loader, by_hydra = Loader(), ConfigLoaderImpl.load_sweep_config
    typed = ["hydra.mode=MULTIRUN", f"hydra.searchpath=[file://{tmp_path}]"]
    master = loader.load_configuration("config", typed, RunMode.MULTIRUN)

    def outcome(compose, overrides):
        try:
            return OmegaConf.to_container(compose(master, list(overrides)))
        except Exception as error:
            return type(error), str(error), loader.asked

    for overrides in (*QUICK, *IN_ORDER, *((wrong,) for wrong in WRONG)):
        found = outcome(loader.load_sweep_config, overrides)
        assert found == outcome(partial(by_hydra, loader), overrides), overrides
        assert isinstance(found, tuple) or not {*WRONG} & {*overrides}


def test_the_runs_of_a_sweep_are_composed_once_for_each_choice_of_files(monkeypatch):
    loader = Loader()
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    found = []
    impl = ConfigLoaderImpl._load_configuration_impl
    monkeypatch.setattr(
        *(ConfigLoaderImpl, "_load_configuration_impl"),
        lambda *given, **named: (found.append(given), impl(*given, **named))[1],
    )
    for optimizer in ("sgd", "adam"):
        for seed in range(5):
            given = [f"optimizer={optimizer}", f"seed={seed}", "optimizer.lr=0.5"]
            assert loader.load_sweep_config(master, given).optimizer.lr == 0.5
    assert len(found) == 2
