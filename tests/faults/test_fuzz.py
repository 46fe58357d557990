"""Command lines and config files with something wrong in them: half are good ones with one edit.

Everything is real but the training itself. Whatever is given, it ends in one line, or in a run all
of whose keys are known, in a folder below `outputs`; never in a traceback.
"""

import contextlib
import inspect
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from runner.cli.task import register
from runner.errors import UserError
from runner.models import cifar_resnet
from runner.names import CONF, flatten
from runner.nodes import with_config_path
from tests.conftest import few, settings

COMMANDS = (
    ("tricks=[clipping,flooding]", "tricks.flooding.level=0.05", "seed=1"),
    ("tricks=core", "tricks.anti_aliasing.enabled=false", "model.width=4"),
    ("optimizer=adam", "optimizer.lr=0.001", "name=mine", "epochs=3"),
    ("scheduler=step", "data.augment.crop=1", "data.validation=0.2"),
    ("scheduler=torch", "scheduler.step_size=2", "threads=1", "batch_size=32"),
    ("tricks=[clipping]", "tricks.clipping.by=unit", "tricks.clipping.factor=0.02"),
    ("+optimizer.maximize=false", "~optimizer.nesterov", "not_finite=skip", "again=true"),
    ("model={depth: 14, width: 4}", "precision=float32", "device=cpu", "variant=x"),
)
register()
SAVED = json.loads(json.dumps(settings("tricks=[clipping]", "name=x", "model.width=4").to_dict()))
"""As in a config.yaml."""

ODD = (
    *(None, True, False, 0, -1, 1, 7, 10**9, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308),
    *(float("inf"), float("-inf"), float("nan"), "", " ", "x", "auto", "null", "1", "1e3", "???"),
    *("${seed}", "${oc.env:HOME}", "${x", "${hydra:run.dir}", "../x", "/tmp/x", "a/b", "a\0b"),
    *("\n", "\u202ex", "\ud800", "☃" * 100, "x" * 300, [], {}, [[]], [1, "a"], {"a": 1}),
    *({"_target_": "x"}, {"a": {"b": [{"_partial_": True}]}}, {1: 2}, {"": 1}, {"a.b": 1}),
    {"defaults": []},
)
PARTS = "=.,:[]{}()'\"\\$~+@/-_ #*&!|>%`\n\t\0azAZ09é☃"


def conf_keys():
    """Every key that a config of ours has, whatever is chosen."""
    for group in ("data", "model", "optimizer", "scheduler", "tricks"):
        for file in CONF.glob(f"{group}/*.yaml"):
            keys = flatten(OmegaConf.to_container(OmegaConf.load(file)))
            yield from (f"{group}.{key}" for key, _ in keys)


KNOWN = {
    *conf_keys(),
    *(key for key, _ in flatten(SAVED)),
    *("checkpoint_seconds", "resume", "format", "again", "model.weights", "scheduler.unit"),
    *(f"data.augment{more}" for more in ("", ".crop", ".flip", ".cutout")),
    *(
        f"optimizer.{name}"
        for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        for name in inspect.signature(kind).parameters
    ),
}


@st.composite
def edited(draw, text):
    """A text with one character deleted, inserted, replaced or doubled."""
    at = draw(st.integers(0, max(0, len(text) - 1)))
    new = draw(st.sampled_from(PARTS) | st.characters())
    change = draw(st.sampled_from(("delete", "insert", "replace", "double")))
    kept = text[at + 1 :] if change in ("delete", "replace") else text[at:]
    return text[:at] + {"delete": "", "double": text[at : at + 1]}.get(change, new) + kept


@st.composite
def edited_command(draw):
    """A good command line with one edit."""
    words = list(draw(st.sampled_from(COMMANDS)))
    at = draw(st.integers(0, len(words) - 1))
    key, _, value = words[at].partition("=")
    change = draw(st.sampled_from(("character", "value", "key", "again", "swap", "prefix")))
    words[at] = {
        "character": draw(edited(words[at])),
        "value": f"{key}={draw(st.sampled_from(ODD))}",
        "key": f"{key}.{draw(st.sampled_from(('x', '_args_', '0', '')))}={value}",
        "again": words[at],
        "swap": f"{value}={key}",
        "prefix": draw(st.sampled_from(("+", "++", "~", "hydra.", "hydra/", "tricks.", "/")))
        + words[at],
    }[change]
    if change == "again":
        words.append(words[at])
    return tuple(words)


def wild_command():
    """Anything, of the shape of a command line or not."""
    key = st.sampled_from(sorted(KNOWN)) | st.text("abc_.@/~+", max_size=12)
    value = st.sampled_from(ODD).map(str) | st.text(PARTS, max_size=20)
    word = st.builds("{}={}".format, key, value) | st.text(PARTS, max_size=20)
    safe = word.filter(lambda w: not w.startswith(("-", "ablation", "experiment", "hydra.mode")))
    return st.lists(safe, min_size=1, max_size=4).map(tuple)


@st.composite
def edited_config(draw):
    """A saved config with one edit, in its text or of a value or a key."""
    if draw(st.booleans()):
        return draw(edited(yaml.safe_dump(SAVED)))
    config = json.loads(json.dumps(SAVED))
    path = draw(st.sampled_from(sorted(key for key, _ in flatten(SAVED)))).split(".")
    node = config
    for part in path[: draw(st.integers(0, len(path) - 1))]:
        node = node[part]
    key = draw(st.sampled_from(sorted(node)))
    change = draw(st.sampled_from(("value", "delete", "add", "rename")))
    if change == "add":
        key = draw(
            st.sampled_from(("x", "_args_", "_partial_", "", "hydra", "defaults", 1, None, "a.b"))
        )
    value = node.pop(key, None) if change in ("delete", "rename") else draw(st.sampled_from(ODD))
    if change == "rename":
        key = draw(edited(key))
    if change != "delete":
        node[key] = value
    return yaml.dump(config, allow_unicode=True)


def wild_config():
    """Anything that can be written as YAML, and anything that can be written."""
    key = st.sampled_from(sorted(SAVED)) | st.sampled_from(("x", "_target_", 1, None, True))
    leaf = st.sampled_from(ODD)
    tree = st.recursive(
        leaf, lambda t: st.lists(t, max_size=3) | st.dictionaries(key, t, max_size=3)
    )
    whole = st.dictionaries(key, tree, max_size=6)
    changed = whole.map(lambda more: {**SAVED, **more})
    return (whole | changed).map(yaml.dump) | st.text(PARTS + "abc", max_size=60)


class Arena:
    """A folder to run the command in, over and over."""

    def __init__(self, command):
        self.command, self.folder, self.count = command, command.folder, 0

    def try_one(self, *arguments):
        """Run the command once, and judge what came of it; give back whether it was accepted."""
        self.count += 1
        with contextlib.redirect_stdout(io.StringIO()):
            line = self.command.run(*arguments)
        torch.set_num_threads(1)
        if not self.command.runs:
            assert isinstance(line, str), line
            assert line.strip()
            assert line.isprintable()
            assert "Traceback" not in line
        for folder, checked in self.command.runs:
            assert line is None
            assert Path(folder).resolve().is_relative_to(self.folder / "outputs")
            unknown = {key for key, _ in flatten(checked.to_dict())} - KNOWN
            assert not unknown, unknown
        assert sorted(p.name for p in self.folder.parent.iterdir()) == ["cwd"]
        assert {p.name for p in self.folder.iterdir()} <= {"outputs", "run"}
        shutil.rmtree(self.folder / "outputs", ignore_errors=True)
        return bool(self.command.runs)

    def try_config(self, text):
        """Run a saved config."""
        file = self.folder / "run" / "config.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text.encode(errors="surrogatepass"))
        accepted = self.try_one("-cp", "run", "-cn", "config")
        if accepted:
            told = {key for key, _ in flatten(yaml.safe_load(text))}
            assert told <= KNOWN, told - KNOWN
        return accepted


@pytest.fixture
def arena(command):
    return Arena(command)


def fuzz(strategy, try_one, count):
    """Try so many."""

    @hypothesis_settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(drawn):
        try_one(drawn)

    each()


KINDS = {
    "edited commands": (edited_command(), lambda arena: lambda words: arena.try_one(*words)),
    "wild commands": (wild_command(), lambda arena: lambda words: arena.try_one(*words)),
    "edited configs": (edited_config(), lambda arena: arena.try_config),
    "wild configs": (wild_config(), lambda arena: arena.try_config),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", few(KINDS, ("wild configs",)))
def test_what_is_given_ends_in_one_line_or_in_a_run_of_known_keys(arena, kind, faults):
    strategy, way = KINDS[kind]
    fuzz(strategy, way(arena), 20)
    faults("fuzzed configs", arena.count)


@pytest.mark.slow  # five thousand, about ten minutes on one core
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_of_many_more(arena, kind, faults):
    strategy, way = KINDS[kind]
    fuzz(strategy, way(arena), 1300)
    faults("fuzzed configs", arena.count)


@pytest.mark.parametrize("words", COMMANDS, ids=str)
def test_the_commands_are_good_before_they_are_edited(arena, words):
    assert arena.try_one(*words)


def test_the_config_is_good_before_it_is_edited(arena):
    assert arena.try_config(yaml.safe_dump(SAVED))


FOUND = [
    {"tricks": {"nti_aliasing": {"_target_": "tricks.AntiAliasing"}}},
    {"model": {**SAVED["model"], 1: 2}},
    {"model": {**SAVED["model"], "width": 10**5}},
    {"model": {**SAVED["model"], "width": 10**30}},
    {"optimizer": {**SAVED["optimizer"], "lr": float("nan")}},
    {"seed": 10**30},
    {"threads": 10**9},
    {"epochs": 10**18},
]
"""What was accepted, or broke, when it was first tried."""


@pytest.mark.parametrize("change", FOUND, ids=str)
def test_what_was_found_once_is_refused(arena, change):
    assert not arena.try_config(yaml.dump({**SAVED, **change}))


def test_a_network_that_fits_no_memory_is_refused_before_it_is_built():
    with pytest.raises(
        UserError, match=r"depth=1202 and model\.width=1024 make .* more than 1e\+09"
    ):
        cifar_resnet(depth=1202, width=1024, channels=1, classes=2)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, OverflowError, ZeroDivisionError])
def test_what_a_constructor_cannot_do_is_one_line(error):
    with pytest.raises(UserError, match=f"^model: {error.__name__}$"), with_config_path("model"):
        raise error
