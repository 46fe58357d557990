"""The strict check: whatever is unknown, mistyped, out of range or without effect is one line."""

import pytest
from omegaconf import OmegaConf, open_dict

from runner import allowed
from runner.config import check
from runner.errors import UserError
from runner.names import flatten
from runner.store.files import checked
from runner.store.identity import ADDED, NOT_IN_CONFIG_HASH, digest_config, renamed
from runner.store.values import dump_values, parse_values, read_values
from tests.conftest import ROOT, composed, few, few_of, settings

REFUSED = {
    "+epoch=3": r"^epoch is not a setting\. Did you mean epochs\?",
    "+tricks.clipping.max_nrm=1.0": r"^tricks\.clipping\.max_nrm is not a parameter of tricks\.Clipping\. Did you mean max_norm\?",
    "+tricks.clipin={enabled:true}": r"^tricks\.clipin is not a trick\. Did you mean clipping\?",
    "tricks.clipping=true": (
        r"^tricks\.clipping is a group of settings\. Switch it on with "
        r"tricks\.clipping\.enabled=true or 'tricks=\[clipping\]'\.$"
    ),
    "tricks.clipping.max_norm=2 tricks.flooding=null": r"^tricks\.flooding is a group of settings",
    "~epochs": r"^epochs is missing\. Give it a value\.$",
    "+model.dept=8": r"^model\.dept is not a parameter of runner\.models\.cifar_resnet\. Did you mean depth\?",
    "+optimizer.nesterof=true": r"^optimizer\.nesterof is not a parameter of torch\.optim\.SGD\. Did you mean nesterov\?",
    "+data.augment.crup=1": r"^data\.augment\.crup is not a setting\. Did you mean crop\?",
    "+scheduler.unit=epoch": r"^scheduler\.unit is not a parameter of runner\.schedulers\.Cosine",
    "seed=abc": r"^seed must be a whole number >= 0, got abc",
    "seed=-1": r"^seed must be a whole number >= 0, got -1",
    "epochs=0": r"^epochs must be > 0, got 0",
    "batch_size=2.5": r"^batch_size must be a whole number, got 2.5\.$",
    "batch_size=1e2": r"^batch_size must be a whole number, got 100\.0\. Write 100\.$",
    "micro_batch_size=a": r"^micro_batch_size must be a whole number, got \"a\"",
    "threads=5000": r"^threads must be <= 1024 or auto, got 5000",
    "data.augment=3": r"^data\.augment must be a group of settings, as {KEY: VALUE}, got 3",
    "data.augment.crop=-1": r"^data\.augment\.crop must be >= 0, got -1",
    "scheduler=step scheduler.milestones=[0.5,a]": (
        r"^scheduler\.milestones\.1 must be a number, got \"a\""
    ),
    "+data.root='\udce9'": r"^The config must be text in UTF-8, got other bytes after .*root",
    "epochs=true": r"^epochs must be a number, got true",
    "memory_format=3": r"^memory_format must be auto, contiguous or channels_last, got 3",
    "precision=float8": r"^precision must be float32, bfloat16 or float16, got \"float8\"",
    "threads=many": r"^threads must be a whole number or auto, got \"many\"",
    "data.validation=1.0": r"^data\.validation must be < 1 or auto, got 1.0",
    "data.augment.flip=maybe": r"^data\.augment\.flip must be true or false, got \"maybe\"",
    "sync_batch_norm=true tricks=[ghost_batch_norm]": (
        r"^sync_batch_norm=true and ghost batch norm do not go together"
    ),
    "optimizer.lr=fast": r"^optimizer\.lr must be a number, got \"fast\"",
    "model.depth=twenty": r"^model\.depth must be a whole number, got \"twenty\"",
    "optimizer._target_=os.system": r"^optimizer\._target_ must be of torch\.optim, got os\.system\. If you trust it, set BISCUITS_ALLOW=os\.system",
    "optimizer._target_=torch.optim.SDG": r"names SDG, which torch\.optim does not offer\. Did you mean SGD\?",
    "optimizer._target_=torch.optim.lr_scheduler": r"names lr_scheduler, which torch\.optim does not offer",
    "model._target_=runner.models.load_weights": r"names load_weights, which runner\.models does not offer",
    "tricks=[clipping] tricks.clipping._target_=torch.load": r"^tricks\.clipping\._target_ must be of tricks, got torch\.load",
    "tricks.clipping._target_=tricks.Chain": r"names Chain, which tricks does not offer",
    "tricks.clipping.enabled=1": r"^tricks\.clipping\.enabled must be true or false, got 1",
    "tricks.flooding.level=0.1": r"^tricks\.flooding\.level is set to 0\.1, but flooding is off\. Switch it on with 'tricks=\[flooding\]' or tricks\.flooding\.enabled=true\.",
    "scheduler=torch scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau": (
        r"but ReduceLROnPlateau waits for a metric\."
    ),
    "scheduler=torch scheduler._target_=torch.optim.lr_scheduler.CyclicLR": (
        r"but CyclicLR also cycles the momentum\."
    ),
    "scheduler=torch scheduler._target_=torch.optim.lr_scheduler.StepRL": r"Did you mean StepLR\?",
    "tricks=[warm_restarts] scheduler=step": (
        r"^scheduler=step would change nothing: warm_restarts takes the scheduler's place"
    ),
    "data=image_folder": r"^data\.root must be given: data\.root=VALUE\.",
}


QUICK = (
    *("+epoch=3", "+tricks.clipping.max_nrm=1.0", "+tricks.clipin={enabled:true}"),
    *("tricks.clipping=true", "~epochs", "seed=-1", "batch_size=1e2", "threads=5000"),
    *("scheduler=step scheduler.milestones=[0.5,a]", "+data.root='\udce9'", "precision=float8"),
    *("optimizer._target_=os.system", "optimizer._target_=torch.optim.SDG", "data.augment=3"),
    *("tricks.flooding.level=0.1", "tricks=[warm_restarts] scheduler=step", "data=image_folder"),
    *("epochs=true", "scheduler=torch scheduler._target_=torch.optim.lr_scheduler.CyclicLR"),
)


@pytest.mark.parametrize(("override", "message"), few_of(REFUSED, QUICK))
def test_a_mistake_is_refused_in_one_line(override, message):
    with pytest.raises(UserError, match=message) as caught:
        settings(*override.split())
    assert "\n" not in str(caught.value)


def test_a_parameter_of_the_wrong_type_is_refused_when_its_trick_is_on():
    with pytest.raises(
        UserError, match=r"^tricks\.clipping\.max_norm must be a number, got \"big\""
    ):
        settings("tricks=[clipping]", "tricks.clipping.max_norm=big")


def test_a_whole_number_passes_for_a_float_and_infinity_is_a_number():
    given = settings("tricks=[clipping]", "tricks.clipping.max_norm=2")
    assert given.tricks["clipping"]["max_norm"] == 2
    given = settings("tricks=[clipping]", "tricks.clipping.max_norm=inf")
    assert given.tricks["clipping"]["max_norm"] == float("inf")


def test_a_trick_that_is_off_has_its_defaults_so_that_equal_runs_have_equal_configs():
    cfg = composed("threads=1", "memory_format=contiguous")
    with open_dict(cfg):
        cfg.tricks.flooding.level = 0.3  # as from an experiment file
    assert check(cfg) == settings()


def test_a_parameter_may_be_set_along_with_its_trick():
    given = settings("tricks=[flooding]", "tricks.flooding.level=0.1")
    assert given.tricks["flooding"] == {
        "enabled": True,
        "_target_": "tricks.Flooding",
        "level": 0.1,
        "per_sample": False,
    }


def test_the_tricks_stand_in_one_order_that_satisfies_them_however_they_are_named():
    orders = {
        tuple(settings(f"tricks=[{names}]").tricks)
        for names in ("", "clipping,centralization,flooding", "flooding,clipping,centralization")
    }
    assert len(orders) == 1
    (order,) = orders
    for early, late in (("label_smoothing", "flooding"), ("flooding", "clipping")):
        assert order.index(early) < order.index(late)
    assert order.index("centralization") < order.index("clipping")


def test_threads_may_be_left_open():
    assert settings("threads=3").threads == 3
    assert check(composed()).threads == "auto"


def test_only_the_environment_widens_the_allow_list(monkeypatch):
    override = "optimizer._target_=torch.optim.lr_scheduler.StepLR"
    monkeypatch.setattr(allowed, "USERS", {"collections.OrderedDict", "fractions.Fraction"})
    with pytest.raises(UserError, match=r"must be of torch\.optim"):
        settings(override)
    with pytest.raises(UserError, match=r"^model\.depth is not a parameter of fractions\.Fraction"):
        settings("model._target_=fractions.Fraction")  # allowed, and its signature is read


def anything(**_):
    """A target of the user's own that takes any key."""


KEYS = ("_args_", "_partial_", "_recursive_", "_convert_", "x._target_")


@pytest.mark.parametrize("key", few(KEYS, ("_partial_", "x._target_")))
def test_what_hydra_would_follow_is_refused_also_where_a_target_takes_any_key(monkeypatch, key):
    target = f"{__name__}.anything"
    monkeypatch.setattr(allowed, "USERS", {target})
    assert settings(f"++model={{_target_: {target}, x: {{y: [1]}}}}").model["x"] == {"y": [1]}
    name = key.rpartition(".")[2]
    with pytest.raises(UserError, match=rf'^model\S* must have plain keys, got "{name}"'):
        settings(f"++model={{_target_: {target}, x: {{y: [1]}}}}", f"+model.{key}=a.b")
    with pytest.raises(UserError, match=r"^model\.x must have plain keys"):
        settings(f"++model={{_target_: {target}, x: [[{{{name}: a.b}}]]}}")


def test_a_builtin_that_the_user_trusts_need_not_tell_its_parameters(monkeypatch):
    monkeypatch.setattr(allowed, "USERS", {"builtins.dict"})
    assert settings("++model={_target_: builtins.dict, x: 1}").model["x"] == 1


def odd(depth: int, activation: callable = None, **_):  # noqa: RUF013
    """A target of the user's own with an annotation that is no type."""


def test_an_annotation_that_is_no_type_leaves_the_others_checked(monkeypatch):
    target = f"{__name__}.odd"
    monkeypatch.setattr("runner.allowed.USERS", {target})
    given = settings(f"++model={{_target_: {target}, depth: 8, activation: relu, x: 1}}")
    assert given.model["activation"] == "relu"
    with pytest.raises(UserError, match=r'^model\.depth must be a whole number, got "a"'):
        settings(f"++model={{_target_: {target}, depth: a}}")


def test_a_saved_config_keeps_its_hash():
    saved = checked(read_values(ROOT / "tests/data/config.yaml"))
    given = check(OmegaConf.create(saved)).to_dict()
    before = renamed({key: value for key, value in saved.items() if key != "format"})
    whole = dict(flatten(given))
    assert {**whole, **dict(flatten(before))} == whole
    since = whole.keys() - dict(flatten(before)).keys()
    assert since <= {*ADDED, *NOT_IN_CONFIG_HASH}
    kept = {**given, "data": {**given["data"], "test": None}}  # settings that came later
    assert digest_config(given) == digest_config(kept) == "dc1413df4a317236"
    changed = ({"last_evaluations": 3}, {"data": {**given["data"], "test": 0.5}})
    changed += ({"result": "best"}, {"loss": {**given["loss"], "class_weights": "balanced"}})
    assert len({digest_config({**given, **change}) for change in ({}, *changed)}) == 5


ODD = ("1e-3", "1e3", "1", ".5", "1_0", "off", "y", "~", "", " x ", "x: y", "#c", "0x1F", "1:30")
MORE = ("2001-01-01", ".inf", "nan", "a\nb", "word " * 40, "'q'", "=", "<<", "٣", "é")


def test_what_is_saved_is_read_back_as_it_was_by_both_readers():
    same = [1]
    values = {
        "texts": [*ODD, *MORE],
        "numbers": [1.0, 1e-5, 1e20, float("inf"), None, True],
        "a": {},
    }
    content = {**values, "one": same, "other": same}
    text = dump_values(content)
    assert parse_values(text.encode()) == content
    assert OmegaConf.to_container(OmegaConf.create(text)) == content
