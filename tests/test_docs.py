"""What the documents point to is there."""

import re
import tomllib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tricks
from runner.models import cifar_resnet
from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
FOR_PROGRAMS = [ROOT / "llms.txt", ROOT / "runner" / "guide.txt"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "llms.txt"], ids=lambda page: page.name)
def test_a_link_leads_to_a_file_and_a_named_test_is_in_it(page):
    for text, target in re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "#")):
            continue
        file = page.parent / target.partition("#")[0]
        assert file.exists(), target
        if text.startswith("`test_"):
            assert f"def {text.strip('`')}(" in file.read_text(), text


def test_what_the_wheels_page_links_to_is_in_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    links = re.findall(r"\]\((?!https://|#)([^)\s]+)\)", (ROOT / "README.md").read_text())
    assert links
    for link in links:
        folder = link.partition("/")[0]
        assert wheel.get(folder) == f"runner/{folder}", link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_footnotes_are_numbered_as_they_are_used_and_each_is_defined(page):
    text = page.read_text()
    defined = [int(number) for number in re.findall(r"^\[\^(\d+)\]: ", text, re.MULTILINE)]
    used = dict.fromkeys(int(number) for number in re.findall(r"\[\^(\d+)\](?!:)", text))
    assert defined == [*used] == [*range(1, len(used) + 1)]


@pytest.mark.parametrize("page", [*PAGES, *FOR_PROGRAMS], ids=lambda page: page.name)
def test_a_module_that_is_to_be_run_exists(page):
    for module in re.findall(r"python -m ((?:runner|benchmarks|examples)[\w.]*)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/loops.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.partition("(")[0].split()[-1])
def test_each_trick_is_three_lines_in_a_plain_loop(block):
    lines = [line for line in block.splitlines() if line.strip() != "..."]
    assert len(lines) <= 3
    torch.manual_seed(0)
    model = cifar_resnet(depth=8, width=8, channels=3, classes=10).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    batches = [torch.randn(8, 3, 16, 16) for _ in range(2)]
    names = {name: getattr(tricks, name) for name in tricks.__all__}
    names |= {"torch": torch, "model": model, "optimizer": optimizer, "batches": batches}
    names |= {"inputs": batches[0], "targets": torch.arange(8), "samples": torch.arange(8)}
    names |= {"images": torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)}
    names |= {"update": 5, "updates": 20, "epoch": 0, "generator": torch.Generator()}
    names |= {"averages": {}, "slow": {n: p.detach() + 1 for n, p in model.named_parameters()}}

    def compute():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(names["inputs"]), names["targets"])
        loss.backward()
        return loss.detach()

    names |= {"compute": compute, "loss": F.cross_entropy(model(batches[0]), torch.arange(8))}
    if "backward" not in block:
        compute()
    exec(compile(block, "docs/loops.md", "exec"), names)


def test_every_trick_has_its_lines():
    called = " ".join(BLOCKS)
    plain = {name for name in tricks.__all__ if name[0].islower()}
    helpers = {"check_gradients_", "derive_seed", "find_classifier", "find_places", "in_order"}
    helpers |= {"overrides", "average_", "norms_and_biases", "orthogonalize", "standardize"}
    assert {name for name in plain - helpers if f"{name}(" not in called} == set()


def test_the_loops_of_the_readme_run_and_train():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = F.cross_entropy(model(torch.randn(6, 1, 6, 6)), torch.arange(6) % 3)
        names = {name: getattr(tricks, name) for name in tricks.__all__}
        names |= {"model": model, "optimizer": optimizer, "loss": loss, "update": 3}
        if "backward" not in block:  # it begins where the gradients are there
            loss.backward()
            names["mean_loss"] = loss.detach()
        before = [p.detach().clone() for p in model.parameters()]
        exec(compile(block, "README.md", "exec"), names)
        assert all(not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
