"""Config files that are no plain YAML, saved ones above all: each is one line."""

import os
import time

import pytest

from runner.cli.plain_yaml import LARGEST, check_yaml
from tests.conftest import few

CONFIG_PATHS = [
    *(("-cp", "run"), ("-cp=run",), ("--config-path", "run"), ("--config-path=run",)),
    *(("--config-p", "run"), ("-cp", "./run/../run"), ("-cp", "run", "-cn", "config.yaml")),
    *(("-cp", ".", "-cn", "run/config"), ("-cd", "run", "-cp", "run")),
]


FIRST = (("-cp=run",), ("--config-p", "run"), ("-cp", ".", "-cn", "run/config"))


@pytest.mark.parametrize("arguments", few(CONFIG_PATHS, FIRST), ids=str)
def test_a_saved_config_is_judged_however_it_is_named(sandbox, arguments):
    sandbox.saved(hydra={"callbacks": {"x": {"_target_": "evil.touch"}}})
    assert "must be the config of one run, got one with hydra" in sandbox.refuses(*arguments)


LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))

NOT_PLAIN = {
    "laughs": ("a0: &a0 x\n" + LAUGHS, "at most 10000 values"),
    "itself": ("a: &a [*a]\n", "without the alias"),
    "deep": ("a: " + "[" * 100 + "]" * 100, "30 deep"),
    "deep mapping": ("".join(" " * i + "a:\n" for i in range(100)), "30 deep"),
    "tag": ("a: !!python/object/apply:os.system [x]\n", "must have no tags"),
    "path tag": ("a: !!python/object/apply:pathlib.Path [x]\n", "must have no tags"),
    "binary": ("a: !!binary aGk=\n", "must have no tags"),
    "own tag": ("a: !x y\n", "must have no tags"),
    "twice": ("a: 1\na: 2\n", "duplicate key"),
    "large": ("a: " + "x" * LARGEST, "more than 200,000"),
    "many": ("a: [" + "1," * 20_000 + "]", "at most 10000 values"),
    "NUL": ("a: x\0y\n", "must be YAML in UTF-8"),
    "latin": (b"a: \xe9\n", "must be YAML in UTF-8"),
    "open": ("a: [1, 2\n", "must be YAML in UTF-8"),
    "list": ("- a\n", "must be a mapping"),
    "word": ("a\n", "must be a mapping"),
    "two": ("a: 1\n---\nb: 2\n", "expected a single document"),
    "keys": ("1: a\n", ""),
    "no keys": ("[1, 2]: a\n", ""),
    "null": ("~: a\n", ""),
    "interpolations": (
        "a: ['${b}${b}']\n"
        + "b: {}\n"
        + "".join(f"x{i}: '${{x{i - 1}}}${{x{i - 1}}}'\n" for i in range(11)),
        "a ${...} counts as 480",
    ),
    "escaped": ('a: "' + "\\x24{b}" * 21 + '"\n', "a ${...} counts as 480"),
    "repeated": ("a: &a '${b}${b}'\nc: [" + "*a," * 20 + "]\n", "a ${...} counts as 480"),
    "digits": ("a: 0x" + "f" * 6000 + "\n", "at most 1000 characters in a value without quotes"),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
@pytest.mark.parametrize("way", few(["saved", "experiment", "trick"], ["experiment"]))
def test_a_file_that_is_no_plain_yaml_is_one_line(sandbox, kind, way, faults):
    content, told = NOT_PLAIN[kind]
    name = {"saved": "run/config.yaml", "experiment": "cd/experiment/x.yaml"}.get(
        way, "cd/tricks/x.yaml"
    )
    arguments = {"saved": ("-cp", "run"), "experiment": ("-cd", "cd", "experiment=x")}
    sandbox.write(name, "")
    data = content if isinstance(content, bytes) else content.encode()
    head = b"# @package _global_\n" if way == "experiment" else b""
    (sandbox.folder / name).write_bytes(head + data)
    line = sandbox.refuses(*arguments.get(way, ("-cd", "cd", "tricks=[x]")))
    refused_before = ("aliases", "must be resolved") if way == "saved" else ()
    assert told in line or any(text in line for text in refused_before)
    faults("hostile configs")


SAVED = {
    "alias": ("name: &a x\nvariant: *a\n", "without anchors and aliases, got the anchor a"),
    "environment": ("name: ${oc.env:HOME}\n", "must be resolved, got ${oc.env:HOME}"),
    "interpolation": ("name: x-${seed}\n", "must be resolved, got ${seed}"),
    "escape": ('name: "\\x24{oc.env:HOME}"\n', "must be resolved, got ${oc.env:HOME}"),
    "header": ("# @package _global_\nname: x\n", "got one with # @package _global_"),
    "defaults": ("defaults: []\n", "got one with defaults"),
}


@pytest.mark.parametrize(("content", "told"), SAVED.values(), ids=SAVED)
def test_a_saved_config_is_plain_values(sandbox, content, told, faults):
    sandbox.write("run/config.yaml", content)
    assert told in sandbox.refuses("-cp", "run", "-cn", "config")
    faults("hostile configs")


def test_a_pipe_among_the_files_does_not_hang(sandbox):
    sandbox.write("cd/tricks/y.yaml", "")
    os.mkfifo("cd/tricks/x.yaml")
    assert "x.yaml is not a regular file" in sandbox.refuses("-cd", "cd", "seed=1")
    with pytest.raises(FileNotFoundError):
        check_yaml(sandbox.folder / "gone.yaml")


def test_blank_lines_of_a_saved_config_are_read_in_no_time(sandbox):
    sandbox.write("run/config.yaml", "name: x\n" + "\n" * 150_000)
    began = time.monotonic()
    check_yaml(sandbox.folder / "run/config.yaml", saved=True)
    assert time.monotonic() - began < 2
