"""What the documents point to is there."""

import re

import pytest

from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_file_and_a_named_test_is_in_it(page):
    for text, target in re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "#")):
            continue
        file = page.parent / target
        assert file.exists(), target
        if text.startswith("`test_"):
            assert f"def {text.strip('`')}(" in file.read_text(), text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_module_that_is_to_be_run_exists(page):
    for module in re.findall(r"python -m ((?:runner|benchmarks|examples)[\w.]*)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
