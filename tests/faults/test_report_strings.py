"""Strings of a stranger in a report, at a terminal and in TensorBoard: they are shown as text."""

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from runner.ablation.designs import Contrast, Factor
from runner.ablation.find import find_own_runs
from runner.ablation.verdicts import Verdict, judge
from runner.report import html, verdict_table, write_report
from runner.report.multirun import Multirun
from runner.report.multirun import table as multirun_table
from runner.report.sentences import path as shown_path
from runner.report.tensorboard import write_views
from tests.builders import (
    make_finding,
    make_findings,
    trick,
    write_files,
    write_plan,
    write_run,
    write_status,
)
from tests.faults.payloads import MARKUP, STRINGS


class Tags(HTMLParser):
    """The elements and attributes of a page, in their order; but for those of text itself."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(sorted(name for name, _ in attrs))))

    def handle_comment(self, data):
        self.found.append(("comment", data))

    def handle_pi(self, data):
        self.found.append(("instruction", data))

    def unknown_decl(self, data):
        self.found.append(("declaration", data))


def dressed(root, payload, clean):
    """Make an ablation in which every text is a payload; give back what it came to."""
    word = (lambda tag: tag) if clean else (lambda tag: f"{payload} {tag}" if tag else payload)
    folder = root / ("clean" if clean else "dressed")
    asked = write_plan(folder, (trick("clipping"), trick("flooding")), "pairs", seeds=2)
    names = {name: name if clean else safe_name(f"{payload} {name}") for name in asked.variants}
    factors = tuple(Factor(word(f.name), tuple(map(word, f.levels))) for f in asked.factors)
    contrasts = tuple(
        Contrast(
            word(c.name),
            c.kind,
            tuple(map(word, c.factors)),
            {names[variant]: weight for variant, weight in c.weights.items()},
        )
        for c in asked.contrasts
    )
    plan = dataclasses.replace(
        asked,
        name=word("name"),
        command=word("command"),
        factors=factors,
        contrasts=contrasts,
        question=dataclasses.replace(
            asked.question, design=word("design"), metric=f"test/{word('m')}"
        ),
        config={
            "data._target_": word("data"),
            "model._target_": word("model"),
            "epochs": word("3"),
        },
        changes={names[variant]: {} for variant in asked.variants},
        variants={names[v]: tuple(map(word, levels)) for v, levels in asked.variants.items()},
    )
    for number, (seed, variant) in enumerate(plan.runs()):
        write_dressed_run(plan, folder, variant, seed, word, failed=number == 7)
    return plan, folder


def safe_name(text):
    """Give back a name that a file system takes."""
    return text.replace("/", "+").replace("\0", "").encode("utf-8", "replace").decode()[-60:]


def write_dressed_run(plan, folder, variant, seed, word, failed):
    place = plan.folder(folder, variant, seed)
    error = f"Traceback\n  {word('frame')}\n{word('error')}"
    write_status(place, "failed" if failed else "done", seconds=1.0, error=error)
    machine = {"config": plan.digests(variant)[seed], word("a key"): word("value")}
    part = {word("commit"): word("abc"), "commit": word(str(seed))}
    machine |= {"code": part, "libraries": {word("lib"): word("1")}}
    line = {"epoch": 1, "update": 1, "train/loss": 1.0, "validation/accuracy": 0.5}
    line |= {word("x"): 1.0, "time/seconds": 1.0}
    write_files(place, [line], run=machine)
    if not failed:
        number = 0.9 + 0.01 * seed + 0.001 * len(plan.variants[variant])
        result = {plan.question.metric: number, "test/accuracy": number, "inactive": [word("idle")]}
        name = plan.factors[0].name
        result |= {f"tricks/{name}/{word('y')}": 0.5, word("z"): word("text"), "weights": word("w")}
        write_files(place, result=result)


def render(root, payload, clean):
    """Give back the pages, the Markdown (which is TensorBoard's text too), and the tables."""
    plan, folder = dressed(root, payload, clean)
    findings = judge(folder, plan)
    assert findings.effects[0].mean is not None
    loose = Multirun(folder, list(findings.runs.values()))
    shown = []
    for found in (findings, loose):
        files = write_report(found)
        shown += [files[0].read_text(), files[1].read_text()]
        json.loads(files[2].read_bytes().decode("ascii"))
    terminal = "\n".join([*verdict_table(findings), *multirun_table(loose), shown_path(folder)])
    write_views(findings)
    return (*shown, terminal)


@pytest.mark.slow
@pytest.mark.parametrize(
    "payloads", [STRINGS[::2], pytest.param(STRINGS[1::2], marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("no_pictures")
def test_every_string_of_a_stranger_is_shown_as_text(tmp_path, faults, payloads):
    """The shape of a page is that of a clean one, whatever the names in it."""
    pages = ("page", "page without verdicts")
    *clean, _ = render(tmp_path / "0", "", clean=True)
    shapes = [Tags(clean[0]).found, Tags(clean[2]).found]
    for number, payload in enumerate(payloads, 1):
        page, markdown, loose, loose_markdown, terminal = render(
            tmp_path / str(number), payload, clean=False
        )
        for title, text, shape in zip(pages, (page, loose), shapes, strict=True):
            assert set(Tags(text).found) <= set(shape), (title, payload)
            assert "{{" not in text or "{{" in payload
        for text in (page, loose, markdown, loose_markdown, terminal):
            bad = {c for c in text if not c.isprintable() and c != "\n"}
            assert not bad, (payload, bad)
        for text in (markdown, loose_markdown):
            assert not re.search("://|www[.]", text.partition("```")[0]), payload  # links of GitHub
            tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
            for rows in tables:
                assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, payload
            assert tables
            told = MarkdownIt("commonmark").enable("table").render(text)
            tags = {tag for tag, _ in Tags(told).found}
            assert tags <= MARKDOWN_TAGS, (payload, tags - MARKDOWN_TAGS)
            assert told.count("<h2") <= 1
        faults("hostile strings", 20)


def many_names(root):
    """Make an ablation whose effects and variants have the payloads as names."""
    names = [f"{payload} {number}" for number, payload in enumerate(STRINGS[:38])]
    plan = write_plan(root, tuple(trick(f"t{number}") for number in range(len(names))), seeds=1)
    given = {contrast.factors[0]: contrast for contrast in plan.contrasts}
    runs = {}
    for number in range(len(names)):
        write_run(root, f"t{number}", 0, 0.9 + 0.001 * number)
    for run in find_own_runs(root):
        name = names[int(run.variant[1:])]
        runs[name, 0] = dataclasses.replace(run, variant=name)
    weights = [{name: 1.0, names[0]: -1.0} for name in names]
    effects = [
        make_finding(
            dataclasses.replace(given[f"t{number}"], name=name, weights=weights[number]),
            Verdict.HELPS,
            (0.01, 0.02 + 0.001 * number),
        )
        for number, name in enumerate(names)
    ]
    variants = {name: ("off",) * len(names) for name in names}
    question = dataclasses.replace(plan.question, metric=f"test/{MARKUP}")
    shown = dataclasses.replace(plan, variants=variants, question=question)
    return make_findings(root, {}, shown, effects=tuple(effects), runs=runs)


@pytest.mark.slow
def test_names_in_pictures_are_text(tmp_path, faults):
    page = html.page(many_names(tmp_path))
    tags = {tag for tag, _ in Tags(page).found}
    assert {"svg", "text", "path"} <= tags
    assert not tags & {"script", "img", "iframe", "a", "foreignobject", "comment", "instruction"}
    attributes = {name for _, names in Tags(page).found for name in names}
    assert not [name for name in attributes if name.startswith("on")]
    assert page.count("<svg") == page.count("</svg>") > 10
    for svg in re.findall(r"<svg .*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg.replace("xlink:", ""))
    faults("hostile strings", 38)


CHROMIUM = shutil.which("chromium")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")
def test_a_browser_runs_nothing_of_a_page(tmp_path):
    """Without the policy of the page too, which would forbid it."""
    page = html.page(many_names(tmp_path / "a"))
    content = page.replace("default-src 'none'", "default-src * 'unsafe-inline'")
    assert content != page
    mark = "document.documentElement.setAttribute('data-ran','1')"
    for title, text in (("page", content), ("sure", f"{content}<script>{mark}</script>")):
        file = tmp_path / f"{title}.html"
        file.write_text(text.replace("alert(1)", mark))
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", str(file)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert ('data-ran="1"' in done.stdout) == (title == "sure")


MARKDOWN_TAGS = {
    *("h2", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"),
    *("pre", "code"),
}
