"""`threads=auto` and `memory_format=auto`: what is chosen, and that it stays."""

import dataclasses
import json

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf

from runner import auto, cores
from runner.ablation.plan import load_plan
from runner.auto import Work, choose, decide, suits_channels_last, work_of
from runner.build import build_data
from runner.cli.hydra_internals import Loader
from runner.config import check
from runner.errors import UserError
from runner.run.attempt import resume_or_run
from runner.store.files import checked
from runner.store.values import read_values
from runner.sweep.draft import Draft
from runner.sweep.metrics import listed_metrics
from runner.sweep.settings import check_settings
from tests.conftest import ROOT, composed, settings

OPEN = ("threads=auto", "memory_format=auto")


@pytest.fixture
def avx(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.fixture
def four_idle(monkeypatch):
    monkeypatch.setattr(auto, "idle_cores", lambda: 4)
    monkeypatch.setattr(auto, "usable_cores", lambda: 4)


@pytest.fixture(scope="module")
def digits():
    return build_data(settings())


def chosen(data, *overrides):
    given = decide(settings(*OPEN, "device=cpu", *overrides), data)
    return given.threads, given.memory_format


def test_the_work_of_a_network_is_counted_by_hand(digits):
    given = settings("model.width=5", "batch_size=10", "micro_batch_size=4")
    work = work_of(given, digits)
    first = 9 * 5 + 2 * 9 * 25  # of channels 1, 5, 5 on 8x8
    second = 9 * 5 * 10 + 9 * 100 + 50  # on 4x4
    third = 9 * 10 * 20 + 9 * 400 + 200  # on 2x2
    adds = first * 64 + second * 16 + third * 4 + 200
    outputs = 3 * 5 * 64 + 3 * 10 * 16 + 3 * 20 * 4
    narrow = 3 * 5 * 64 + 3 * 10 * 16
    weights = first + second + third + 200
    assert work == Work(4 * adds, weights, 4 * outputs, 4 * narrow, is_odd=True)


@pytest.mark.usefixtures("avx", "four_idle")
def test_small_networks_get_one_thread_and_channels_are_multiples_of_8(digits):
    assert chosen(digits) == (1, "channels_last")
    assert chosen(digits, "model.width=4") == (1, "contiguous")
    assert chosen(digits, "model.width=12")[1] == "contiguous"
    assert chosen(digits, "model.width=16", "batch_size=1024")[0] == 4
    assert chosen(digits, "threads=2") == (2, "contiguous")  # 8 channels, on several threads


@pytest.mark.usefixtures("avx")
def test_many_weights_or_an_unknown_processor_are_contiguous(monkeypatch):
    work = Work(multiply_adds=10**9, weights=75, outputs=100, narrow=10)
    assert suits_channels_last(work, threads=2)
    assert not suits_channels_last(dataclasses.replace(work, weights=76), 2)
    assert not suits_channels_last(dataclasses.replace(work, narrow=11), 2)
    assert suits_channels_last(dataclasses.replace(work, narrow=11), 1)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not suits_channels_last(work, 1)


@pytest.mark.usefixtures("avx", "four_idle")
def test_one_choice_suits_every_run(digits):
    wide, narrow = (settings(*OPEN, f"model.width={w}", "device=cpu") for w in (8, 4))
    assert choose([(wide, digits)])["memory_format"] == "channels_last"
    both = choose([(wide, digits), (narrow, digits)])
    assert both == {"threads": 1, "memory_format": "contiguous"}
    card = dataclasses.replace(wide, device="auto")
    assert choose([(card, digits)], cores=3, elsewhere=True)["memory_format"] == "contiguous"


@pytest.mark.usefixtures("avx", "four_idle")
def test_on_a_card_layers_of_16_channels_and_more_are_channels_last(digits, monkeypatch):
    def on_card(*overrides, **more):
        return choose([(settings(*OPEN, "device=cuda", *overrides), digits)], **more)

    last = {"threads": 4, "memory_format": "channels_last"}
    contiguous = {**last, "memory_format": "contiguous"}
    assert on_card("model.width=16") == last
    assert on_card("model.width=16", "precision=bfloat16") == last
    assert on_card("model.width=16", "tf32=none") == contiguous
    assert on_card("model.width=16", "compile=cuda_graphs") == contiguous
    assert on_card("model.width=20") == on_card("model.width=8") == contiguous
    assert on_card("model.width=16", elsewhere=True) == contiguous
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    card = settings(*OPEN, "model.width=16")
    assert choose([(card, digits)]) == last
    exact = settings(*OPEN, "model.width=16", "tf32=none")
    assert choose([(card, digits), (exact, digits)]) == contiguous


def test_choosing_draws_no_random_number(digits):
    before = torch.get_rng_state()
    decide(settings(*OPEN, "device=cpu"), digits)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_keeps_what_was_chosen(tmp_path, monkeypatch):
    given = check(composed("epochs=1", "batch_size=512", "device=cpu"))
    assert (given.threads, given.memory_format) == ("auto", "auto")
    monkeypatch.setattr(auto, "choose", lambda *_: {"threads": 2, "memory_format": "contiguous"})
    result = resume_or_run(tmp_path, given, quiet=True)
    saved = checked(read_values(tmp_path / "config.yaml"))
    machine = json.loads((tmp_path / "run.json").read_text())
    for found in (saved, machine):
        assert (found["threads"], found["memory_format"]) == (2, "contiguous")
    monkeypatch.setattr(auto, "choose", lambda *_: {"threads": 1, "memory_format": "channels_last"})
    assert resume_or_run(tmp_path, given, quiet=True)["weights"] == result["weights"]
    (tmp_path / "result.json").unlink()
    again = resume_or_run(tmp_path, dataclasses.replace(given, again=True), quiet=True)
    assert again["weights"] == result["weights"]


STAT = "cpu  9 9 9 9\ncpu0 {} 0 0 {} 0 0 0 0\ncpu1 {} 0 0 {} 0 0 0 0\nintr 7\n"


@pytest.mark.parametrize(
    ("busy", "own", "expected"),
    [((0, 0), 0.0, 2), ((100, 0), 1.0, 2), ((100, 100), 0.5, 1), ((0, 100), 0.0, 1)],
)
def test_cores_that_others_use_are_not_idle(monkeypatch, busy, own, expected):
    ticks = iter([STAT.format(0, 0, 0, 0), STAT.format(*(v for b in busy for v in (b, 100 - b)))])
    clock, used = iter([0.0, 1.0]), iter([0.0, own])
    monkeypatch.setattr(cores, "available_cores", lambda: [0, 1])
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    monkeypatch.setattr(cores.Path, "read_text", lambda _: next(ticks))
    monkeypatch.setattr(cores.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(cores.time, "process_time", lambda: next(used))
    monkeypatch.setattr(cores, "_last", cores._Moment())
    assert cores.idle_cores() == expected


def test_a_quota_of_the_cgroup_counts(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert [cores._quota(tmp_path / "own"), cores._quota(tmp_path)] == [None, 1.5]
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert cores._quota(tmp_path) is None
    monkeypatch.setattr(cores, "available_cores", lambda: [*range(64)])
    monkeypatch.setattr(cores, "_quotas", lambda: [1.5, 8.0])
    assert cores.usable_cores() == 2


def test_an_older_plan_keeps_its_hashes_under_the_new_name():
    folder = ROOT / "tests" / "data" / "run_folder"
    plan = load_plan(folder)
    assert plan.config["memory_format"] == "contiguous"
    assert "channels_last" not in plan.config
    for variant in plan.variants:
        made = json.loads((folder / variant / "seed=0" / "run.json").read_text())
        assert plan.digests(variant)[0] == made["config"]


@pytest.mark.parametrize("key", ["", "+", "++"])
def test_the_old_name_says_what_to_write(key):
    with pytest.raises((UserError, HydraException)) as refusal:
        settings(f"{key}channels_last=true")
    if key:
        assert "channels_last is memory_format now." in str(refusal.value)


def test_an_ablation_chooses_once_for_its_runs_and_its_trials(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(auto, "suits_channels_last", lambda work, _: not work.is_odd)
    drafts = {}
    for width in (12, 16):
        tune = f"+ablation.tune={{model.width:[8,{width}]}}"
        cfg = Loader().compose(["ablation=one_at_a_time", "tricks=[clipping]", "device=cpu", tune])
        node = OmegaConf.to_container(cfg.ablation, resolve=True)
        given = check_settings(node, listed_metrics(cfg))
        arguments = ["ablation=one_at_a_time", "tricks=[clipping]", "device=cpu"]
        drafts[width] = Draft(given, cfg, Loader(), arguments, 1).plan("")
    assert {w: p.config["memory_format"] for w, p in drafts.items()} == {
        12: "contiguous",
        16: "channels_last",
    }
    assert all(plan.config["threads"] == 1 for plan in drafts.values())
