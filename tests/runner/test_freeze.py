"""From a config to a frozen plan: what a variant is, what comes back from sweep.yaml, refusals."""

import dataclasses
import re

import pytest
import yaml
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict, read_write

from runner import allowed
from runner.ablation.plan import Plan, load_plan, save_plan
from runner.ablation.verdicts import judge
from runner.cli.hydra_internals import Loader
from runner.config import check
from runner.errors import UserError
from runner.run.result import finished
from runner.sweep.draft import Draft
from runner.sweep.freeze import Frozen, refuse_foreign_runs, refuse_other
from runner.sweep.settings import check_settings
from tests.conftest import few, settings

ONE = ("ablation=one_at_a_time", "tricks=[clipping,flooding]", "name=mine")


def planned(*overrides: str, swept: tuple[str, ...] = ()) -> tuple[Plan, OmegaConf]:
    """Plan an ablation as the sweeper does, and give back its master config too."""
    loader = Loader()
    master = loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)
    settings = check_settings(OmegaConf.to_container(master.ablation))
    draft = Draft(settings, master, loader, [*overrides, *swept], 1)
    return draft.plan("as typed"), master


def plan_of(*overrides: str) -> Plan:
    return planned(*overrides)[0]


def test_a_variant_is_the_config_with_its_levels_and_nothing_else():
    plan = plan_of(*ONE, "optimizer.lr=0.05", "tricks.flooding.level=0.3", "ablation.seeds=2")
    assert list(plan.variants) == ["baseline", "clipping", "flooding"]
    assert plan.changes["baseline"] == {}
    assert plan.changes["clipping"] == {"tricks.clipping.enabled": True}
    assert plan.changes["flooding"] == {
        "tricks.flooding.enabled": True,
        "tricks.flooding.level": 0.3,  # reset where the trick is off
    }
    assert plan.config["optimizer.lr"] == 0.05
    assert list(plan.runs())[:4] == [
        (0, "baseline"),
        (0, "clipping"),
        (0, "flooding"),
        (1, "baseline"),
    ]


def test_the_config_of_a_run_is_that_of_the_same_run_alone():
    plan = plan_of(*ONE, "tricks.flooding.level=0.3", "epochs=3", "memory_format=contiguous")
    mine = check(OmegaConf.create(plan.config_of("flooding", 4)))
    alone = settings("tricks=[flooding]", "tricks.flooding.level=0.3", "epochs=3", "seed=4")
    assert mine == dataclasses.replace(alone, name="mine", variant="flooding")


def test_a_factor_that_changes_a_whole_group_drops_the_keys_that_the_other_lacks():
    plan = plan_of("ablation=one_at_a_time", "tricks=[]", "ablation.factors={optimizer:[sgd,adam]}")
    assert list(plan.variants) == ["baseline", "optimizer=adam"]
    adam = check(OmegaConf.create(plan.config_of("optimizer=adam", 0)))
    assert adam.optimizer["_target_"] == "torch.optim.Adam"
    assert "nesterov" not in adam.optimizer
    assert plan.changes["optimizer=adam"]["~optimizer.nesterov"] is None
    assert adam.optimizer == settings("optimizer=adam").optimizer


@pytest.mark.parametrize(
    ("typed", "order"),
    {
        ("tricks=[flooding,clipping]", "tricks.centralization.enabled=true"): (
            *("flooding", "clipping", "centralization"),
        ),
        ("tricks=[label_smoothing,core]", "tricks.warm_restarts.enabled=false"): (
            *("label_smoothing", "anti_aliasing", "flooding", "centralization", "clipping"),
        ),
    }.items(),
    ids=str,
)
def test_tricks_are_added_in_the_order_in_which_they_were_named(typed, order):
    plan = plan_of("ablation=cumulative", *typed)
    steps = ["+".join(order[: count + 1]) for count in range(len(order))]
    assert list(plan.variants) == ["baseline", *steps]
    assert [contrast.name for contrast in plan.contrasts] == [*order, "all together"]


def test_the_mean_accuracy_brings_the_evaluations_along_that_it_is_the_mean_of():
    asked = (*ONE, "ablation.metric=test/mean_accuracy")
    assert plan_of(*ONE).config["last_evaluations"] is None
    assert plan_of(*asked).config["last_evaluations"] == 3
    assert plan_of(*asked, "last_evaluations=5").config["last_evaluations"] == 5
    with pytest.raises(UserError, match=r"but last_evaluations=null has last_evaluations=null"):
        plan_of(*asked[:1], "tricks=[]", asked[-1], "ablation.factors={last_evaluations:[5,null]}")


def test_a_metric_that_decides_joins_those_that_are_measured(monkeypatch):
    asked = (*ONE, "ablation.metric=test/macro_f1")
    assert plan_of(*ONE).config["metrics"] == []
    listed = "metrics=[top2_accuracy]"
    assert plan_of(*asked, listed).config["metrics"] == ["top2_accuracy", "macro_f1"]
    allow = frozenset(["operator.eq", "operator.ne", "numpy.equal", "numpy.ne"])
    monkeypatch.setattr(allowed, "USERS", allow)
    own = (*ONE, "ablation.margin=0.1", "ablation.metric=validation/eq")
    assert plan_of(*own).config["metrics"] == ["operator.eq"]
    with pytest.raises(UserError, match=r"may be numpy.ne or operator.ne. Name one of them"):
        plan_of(*own[:-1], "ablation.metric=test/ne")


def test_a_plan_comes_back_from_its_file(tmp_path):
    for overrides in (ONE, ("ablation=both", *ONE[1:]), ("ablation=calibration", "name=c")):
        plan = plan_of(*overrides)
        save_plan(tmp_path, plan)
        assert load_plan(tmp_path) == plan
    assert load_plan(tmp_path / "nowhere") is None


def test_a_plan_of_a_newer_format_or_no_plan_at_all_is_refused(tmp_path):
    file = tmp_path / "sweep.yaml"
    for text, message in (
        ("format: 99", "sweep.yaml is of format 99; this version reads 1 and older"),
        ("format: 1\nname: x", "is not the plan of an ablation"),
        ("{", "must be YAML"),
        ("a: !!python/object/apply:os.system [echo]", "must have no tags"),
        ("format: x", "is of format x"),
        ("[1, 2]", "is damaged .not a mapping"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            load_plan(tmp_path)


BROKEN = {
    "a margin that is no number": (("question", "margin"), "much"),
    "no variants": (("variants",), {}),
    "no factors for the levels": (("factors",), []),
    "a way out of the folder": (("variants", "../../etc"), ["off", "off"]),
    "weights of what is not run": (("contrasts", 0, "weights"), {"nobody": 1.0}),
    "a config that is a list": (("config",), [1]),
    "weights that do not sum to 0": (("contrasts", 0, "weights"), {"baseline": -1.0}),
    "a setting that is not there": (("contrasts", 0, "setting"), "elsewhere"),
}


QUICK = (
    *("no variants", "a way out of the folder"),
    *("weights that do not sum to 0", "a setting that is not there"),
)


@pytest.mark.parametrize("kind", few(BROKEN, QUICK))
def test_a_plan_that_somebody_changed_is_one_line(tmp_path, kind):
    place, value = BROKEN[kind]
    save_plan(tmp_path, plan_of(*ONE))
    content = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    *way, last = place
    node = content
    for key in way:
        node = node[key]
    node[last] = value
    if last == "../../etc":
        content["changes"][last] = {}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="its checksum is not that of its content"):
        load_plan(tmp_path)
    del content["checksum"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as told:
        load_plan(tmp_path)
    assert "is not the plan of an ablation" in str(told.value)
    assert "\n" not in str(told.value)


def test_the_settings_of_a_plugin_that_hydra_imported_twice_are_frozen_too():
    @dataclasses.dataclass
    class Settings:
        _target_: str = "x.Launcher"
        n_jobs: int = -1

    Settings.__qualname__ = Settings.__name__ = "Frozen"  # as another class is called there
    Settings.__module__ = Frozen.__module__
    plan, master = planned(*ONE)
    with read_write(master), open_dict(master):
        master.hydra.launcher = OmegaConf.structured(Settings)
    job = Frozen(plan, again=False, options={}).load_sweep_config(
        master, ["variant=clipping", "seed=3"]
    )
    assert job.hydra.launcher.n_jobs == -1


def test_a_launcher_gets_what_was_frozen_with_the_folder_of_the_run(tmp_path):
    plan, master = planned(*ONE)
    job = Frozen(plan, again=False, options={"resume": "anywhere"}).load_sweep_config(
        master, ["variant=clipping", "seed=3"]
    )
    assert job.hydra.sweep.dir == "outputs/mine"
    assert job.hydra.sweep.subdir == "clipping/seed=3"
    assert (job.seed, job.variant, job.tricks.clipping.enabled) == (3, "clipping", True)
    assert "ablation" not in job
    assert (
        finished(tmp_path, check(OmegaConf.masked_copy(job, [k for k in job if k != "hydra"])))
        is None
    )


def test_a_plan_that_lacks_a_setting_which_was_added_since_is_the_same(tmp_path):
    plan = plan_of(*ONE)
    config = {k: v for k, v in plan.config.items() if k not in ("patience", "sync_batch_norm")}
    older = dataclasses.replace(plan, config=config)
    assert refuse_other(tmp_path, older, plan).config == config
    with pytest.raises(UserError, match="patience is None, not 3"):
        refuse_other(tmp_path, older, plan_of(*ONE, "patience=3"))


def test_the_same_plan_is_resumed_and_another_is_refused_with_what_differs(tmp_path):
    plan = plan_of(*ONE)
    assert refuse_other(tmp_path, plan, plan_of(*ONE)) == plan
    for changed, message in (
        (("ablation.margin=0.01",), "ablation.margin is 0.005, not 0.01"),
        (("optimizer.lr=0.05",), "optimizer.lr is 0.1, not 0.05"),
        (("tricks.flooding.level=0.3",), "flooding: tricks.flooding.level is None, not 0.3"),
        (("ablation.tricks=[clipping]", "tricks=[clipping]"), "variants is"),
        (("ablation.seeds=6",), "ablation.until=decided, on new seeds (seed=5)"),
        (("seed=1",), "the first seed is 0, not 1"),
    ):
        with pytest.raises(UserError) as told:
            refuse_other(tmp_path, plan, plan_of(*ONE, *changed))
        assert message in str(told.value)
        assert "name=NAME" in str(told.value)


def test_what_follows_from_a_difference_is_not_told_as_another(tmp_path):
    for changed, told in (
        (("ablation.until=looks",), "ablation.until is fixed, not looks. Give"),
        (
            ("ablation.tricks=[clipping]",),
            "tricks.flooding.enabled is False, not True; "
            "variants is ['baseline', 'clipping', 'flooding'], not ['baseline', 'clipping']. Give",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            refuse_other(tmp_path, plan_of(*ONE), plan_of(*ONE, *changed))


def test_a_run_of_another_config_is_neither_resumed_nor_counted(tmp_path, do):
    own = ("epochs=1", "batch_size=600", "name=mine")
    plan = plan_of(*ONE, *own, "ablation.seeds=1", "memory_format=contiguous")
    (tmp_path / "mine" / "baseline").mkdir(parents=True)
    do(*own, "variant=baseline", folder="mine/baseline/seed=0")
    refuse_foreign_runs(tmp_path / "mine", plan)
    assert judge(tmp_path / "mine", plan).runs["baseline", 0].state == "done"

    (tmp_path / "mine" / "clipping").mkdir()
    other = ("tricks=[clipping]", "variant=clipping", "optimizer.lr=0.05")
    do(*own, *other, folder="mine/clipping/seed=0")
    with pytest.raises(UserError, match=r"optimizer\.lr is 0\.05, not 0\.1"):
        refuse_foreign_runs(tmp_path / "mine", plan)
    findings = judge(tmp_path / "mine", plan)
    (clipping,) = (f for f in findings.effects if f.contrast.name == "clipping")
    assert clipping.mean is None
    assert "clipping/seed=0: it is a run of another config" in findings.warnings


def test_where_seeds_are_added_more_of_them_and_another_limit_are_the_same_plan(tmp_path):
    grow = (*ONE, "ablation.until=decided", "ablation.seeds=3")
    grown = dataclasses.replace(plan_of(*grow), seeds=(0, 1, 2, 3, 4))
    found = refuse_other(tmp_path, grown, plan_of(*grow, "ablation.most_seeds=50"))
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.question.most_seeds == 50


def test_seeds_are_added_one_by_one_or_up_to_the_next_look():
    first = (*ONE, "ablation.seeds=3", "ablation.most_seeds=7")
    seeds = {}
    for until in ("fixed", "looks", "decided"):
        plan = plan_of(*first, f"ablation.until={until}", "seed=10")
        while more := plan.more_seeds():
            seeds.setdefault(until, []).append(list(more))
            plan = dataclasses.replace(plan, seeds=(*plan.seeds, *more))
    assert seeds == {"looks": [[13, 14], [15, 16]], "decided": [[13], [14], [15], [16]]}


def test_a_plan_of_other_looks_is_another_plan(tmp_path):
    first = (*ONE, "ablation.seeds=3", "ablation.until=looks")
    before, now = (plan_of(*first, f"ablation.most_seeds={n}") for n in (7, 9))
    with pytest.raises(UserError, match=r"ablation\.looks is \(3, 5, 7\), not \(3, 5, 8, 9\)"):
        refuse_other(tmp_path, before, now)


REFUSED = {
    ("ablation.factors={optimizer.lr:[0.1,0.10]}",): "got optimizer.lr=0.1 twice",
    ("ablation.factors={a:{x:{epochs:3},y:{epochs:3}}}",): "y and baseline have the same config",
    ("epochs=3", "ablation.factors={epochs:[1,2]}"): "is given as epochs=3 and varied",
    ("tricks.label_smoothing.smoothing=0.2",): "label_smoothing is off. Switch it on",
    (
        "tricks.clipping.max_norm=5",
        "ablation.factors={clip:{mild:{tricks.clipping.max_norm:9},hard:{tricks.clipping.max_norm:1}}}",
    ): "is given as tricks.clipping.max_norm=5 and varied",
    ("ablation.factors={optimizer:[sgd,adam],optimizer.lr:[0.1,0.2]}",): "lies within optimizer",
    ("ablation.factors={seed:[0,1]}",): "seed cannot be a factor",
    ("ablation.metric=validation/accuracy", "data.validation=0"): "needs a validation split",
}


@pytest.mark.parametrize(("overrides", "message"), REFUSED.items(), ids=str)
def test_a_plan_that_would_ask_nothing_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        planned(*ONE, *overrides)


@pytest.mark.parametrize("typed", ["ablation.tricks=clipping,flooding", "ablation.seeds=3,4"])
def test_several_values_of_an_ablations_own_setting_are_to_be_a_list(typed):
    key, _, values = typed.partition("=")
    with pytest.raises(UserError, match=f"Write a list as '{key}=.{values}.'"):
        planned(*ONE, swept=(typed,))


def test_several_values_of_a_setting_are_to_be_a_factor():
    with pytest.raises(UserError, match=r"'ablation\.factors=\{optimizer\.lr:\[0\.1,0\.2\]\}'"):
        planned(*ONE, swept=("optimizer.lr=0.1,0.2",))
