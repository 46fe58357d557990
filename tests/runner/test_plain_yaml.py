"""YAML is read by libyaml to the values that OmegaConf reads by itself."""

import io

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from runner.cli import plain_yaml
from runner.cli.plain_yaml import load_yaml
from runner.names import CONF

VALUES = """
[1e-3, 1E3, 1., .5, 1_0.5, -.inf, .nan, 1:30.5, 1:30, 0x1F, 0o17, 017, 0b1, 1_000, +1, yes, no, on,
 Off, true, ~, null, Null, "", 2001-01-01, 2001-01-01 00:00:00, '1e-3', "é", 1e5e, "\\u00e9",
 '${a}', {a: 1, b: {c: []}}, a b, "a\\nb", 12e03, e5, -, .e1, 5.e]
"""


def theirs(text):
    return OmegaConf.load(io.StringIO(text))


def test_every_file_of_ours_and_every_kind_of_value_is_read_as_omegaconf_does():
    for file in [*CONF.rglob("*.yaml")]:
        text = file.read_text()
        content = load_yaml(text)
        found = OmegaConf.create({} if content is None else content)
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(theirs(text)), file
    assert repr(load_yaml(VALUES)) == repr(OmegaConf.to_container(theirs(VALUES)))


SCALARS = st.text(alphabet="0123456789eE.+-_:xXoObBaAfFnNiIrRuUlLsStTyY~", min_size=1, max_size=8)


@given(SCALARS)
def test_any_word_is_the_number_or_text_that_omegaconf_makes_of_it(word):
    try:
        expected = repr(OmegaConf.to_container(theirs(f"a: {word}")))
    except (yaml.YAMLError, ValueError):
        with pytest.raises((yaml.YAMLError, ValueError)):
            load_yaml(f"a: {word}")
    else:
        assert repr(load_yaml(f"a: {word}")) == expected


def test_a_key_that_comes_twice_is_refused():
    with pytest.raises(yaml.constructor.ConstructorError, match="duplicate key a"):
        load_yaml("a: 1\na: 2\n")


def test_without_libyaml_the_values_are_the_same(monkeypatch):
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    plain_yaml._loader.cache_clear()
    found = load_yaml(VALUES)
    plain_yaml._loader.cache_clear()
    assert repr(found) == repr(OmegaConf.to_container(theirs(VALUES)))
