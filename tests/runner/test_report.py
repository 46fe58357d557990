"""The report's page: complete, escaped, and the same each time."""

import dataclasses
import math
import re
from html.parser import HTMLParser

from runner.ablation.calibrate import Calibration
from runner.ablation.decide import Verdict
from runner.ablation.designs import BASELINE
from runner.report import html, markdown, verdict_table, write_report
from tests.builders import (
    THREE,
    make_finding,
    make_findings,
    trick,
    tricks,
    write_ablation,
    write_plan,
    write_run,
)

EVIL = "<script>alert(1)<"  # the rest of the tag would be a folder
VOID = ("meta", "br", "link", "img", "hr", "input")


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append((tuple(self.open), data))

    def inside(self, tag):
        return [data for place, data in self.text if tag in place and data.strip()]


def text_of(page):
    return " ".join(page.inside("tbody"))


def test_the_page_begins_with_what_was_compared_and_then_the_verdicts(tmp_path):
    findings = make_findings(tmp_path, THREE)
    text = html.page(findings)
    page = Page(text)
    assert page.inside("h1") == [f"{tmp_path.name}: 1 HELPS, 1 HURTS, 1 UNDECIDED"]
    sentence = page.inside("p")[0]
    assert "3 tricks (anti_aliasing, clipping, flooding), each alone, against" in sentence
    assert (
        "cifar_resnet (depth 8, width 8) was trained on digits for 15 epochs, with 3 seeds"
        in sentence
    )
    assert (
        "test accuracy, where higher is better; a difference below 0.5 points does not" in sentence
    )
    cells = text_of(page)
    assert cells.index("HELPS") < cells.index("UNDECIDED") < cells.index("HURTS")
    assert re.search(
        r"anti_aliasing .* HELPS as the test has it \+1.10 \+0.90 to \+1.30 3 of 3", cells
    )
    assert re.search(r"clipping .* UNDECIDED .* \+0.10 -0.50 to \+0.70 2 of 3 - x1.22 x1.05", cells)
    assert text.index("<table") < text.index("<svg")
    for verdict in Verdict:
        assert any(verdict.value in words for words in page.inside("dt"))


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(tmp_path):
    write_ablation(tmp_path, tricks(clipping=0.01, flooding=-0.01), "pairs", seeds=3)
    text = html.page(make_findings(tmp_path, THREE, write_plan(tmp_path, [*map(trick, THREE)])))
    page = Page(text)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(tag for tag, _ in page.found)
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [attributes.get("href") for _, attributes in page.found if "href" in attributes]
    assert {*targets, *re.findall(r"url\((#[\w-]+)\)", text)} <= {f"#{name}" for name in ids}
    pictures = [attributes for tag, attributes in page.found if tag == "svg"]
    assert len(pictures) >= 4
    assert all(picture["viewbox"] and picture["aria-labelledby"] in ids for picture in pictures)
    assert not re.search(r"(?:fill|stroke|color): *#", text.partition("<body>")[2])


def test_every_string_of_a_stranger_is_shown_as_text(tmp_path):
    names = (EVIL, "$\\frac{$", "a|b`c*_[d](e)@f", "\x1b[31mred\u202e", '"onload="x', "_hidden")
    asked = write_plan(tmp_path, [trick(name) for name in names], seeds=3)
    plan = dataclasses.replace(
        asked,
        name=EVIL,
        question=dataclasses.replace(asked.question, metric=f"test/{EVIL}"),
        command=f"python -m runner {EVIL} ```\n\x1b[2J",
    )
    for variant in plan.variants:
        write_run(tmp_path, variant, 0, 0.9)
    told = {"error": f"Traceback\n  {EVIL}\x1b[2J\nValueError: {EVIL} last"}
    write_run(tmp_path, EVIL, 1, status=EVIL, told=told, machine={EVIL: EVIL, "code": [EVIL]})
    write_run(tmp_path, EVIL, 2, status="failed", told=told)
    verdicts = {name: (Verdict.HELPS, (0.01, 0.02, 0.03)) for name in names}
    findings = make_findings(tmp_path, verdicts, plan, warnings=(f"{EVIL} \x1b[2J\nmore",))
    changed = dataclasses.replace(findings.effects[0], reason=EVIL, trick_metrics={EVIL: math.pi})
    findings = dataclasses.replace(findings, effects=(changed, *findings.effects[1:]))
    text = html.page(findings)
    assert "script" not in [tag for tag, _ in Page(text).found]
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;") > 10
    assert "$\\frac{$" in text
    assert "onload" not in {name for _, attributes in Page(text).found for name in attributes}
    lines = markdown.page(findings)
    assert "<script" not in lines.partition("````")[0]
    assert r"a\|b\`c\*\_\[d\](e)&#64;f" in lines
    assert lines.count("````") == 2  # the command's own fence is shorter
    shown = "\n".join([*verdict_table(findings), lines, text])
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_the_same_findings_give_the_same_bytes(tmp_path):
    plan = write_ablation(tmp_path, tricks(clipping=0.01, flooding=0.0), seeds=3)
    verdicts = {name: THREE["clipping"] for name in ("clipping", "flooding")}
    files = write_report(make_findings(tmp_path, verdicts, plan))
    assert [file.name for file in files] == ["report.html", "report.md", "report.json"]
    before = [file.read_bytes() for file in files]
    write_report(make_findings(tmp_path, verdicts, plan))
    assert [file.read_bytes() for file in files] == before


def test_a_loss_has_no_percent_and_less_of_it_is_better(tmp_path):
    asked = {"metric": "test/loss", "goal": "minimize", "margin": 0.01}
    plan = write_plan(tmp_path, (trick("clipping"),), seeds=3, **asked)
    findings = make_findings(tmp_path, {"clipping": (Verdict.HELPS, (0.0312, 0.03, 0.03))}, plan)
    text = html.page(findings)
    assert "test loss, where lower is better; a difference below 0.01 does not matter" in text
    assert "turned so that + is better" in text
    assert "+0.0304" in text
    assert "percentage" not in text
    assert "+ is better (lower); below 0.01" in " ".join(verdict_table(findings))


def test_what_has_no_mean_yet_or_no_bound_is_told_without_one(tmp_path):
    verdicts = {"clipping": (Verdict.BROKEN, ()), "flooding": (Verdict.NONE, (0.01,))}
    findings = make_findings(tmp_path, verdicts)
    cells = text_of(Page(html.page(findings)))
    assert re.search(r"flooding .* NO VERDICT as the test has it \+1.00 1 of 1", cells)
    assert re.search(r"clipping .* BROKEN as the test has it - - - - -", cells)
    endless = make_finding(
        findings.plan.contrasts[0], Verdict.UNDECIDED, (0.01, 0.02), interval=(-math.inf, math.inf)
    )
    page = Page(html.page(dataclasses.replace(findings, effects=(endless,))))
    assert re.search(r"clipping .* UNDECIDED as the test has it \+1.50 2 of 2", text_of(page))
    assert "inf" not in " ".join([*page.inside("td"), *page.inside("text")])


def test_interactions_of_pairs_are_a_matrix_and_shares_stand_beside_what_all_gain(tmp_path):
    plan = write_ablation(tmp_path, tricks(clipping=0.01, flooding=0.02), "pairs", seeds=3)
    (asked,) = [c for c in plan.contrasts if c.kind == "interaction"]
    interaction = make_finding(asked, None, (0.001, 0.002, 0.003), adjusted=0.01)
    shares = [make_finding(c, None, (0.004,) * 3) for c in plan.contrasts if c.kind == "effect"]
    findings = make_findings(
        tmp_path, {"clipping": THREE["clipping"]}, plan, interactions=(interaction,)
    )
    page = Page(html.page(dataclasses.replace(findings, shares=tuple(shares))))
    cells = " ".join(page.inside("table"))
    assert "clipping flooding +0.20 0.00 to +0.40" in cells
    assert "Sum of the shares +0.80" in cells
    gains = [
        findings.runs["clipping+flooding", s].result["test/accuracy"]
        - findings.runs[BASELINE, s].result["test/accuracy"]
        for s in range(3)
    ]
    assert f"All together, measured {100 * sum(gains) / 3:+.2f}" in cells


def test_of_very_many_effects_the_largest_are_drawn_and_the_page_says_so(tmp_path):
    many = {f"trick_{n}": (Verdict.UNDECIDED, (0.001 * n, 0.0)) for n in range(60)}
    findings = make_findings(tmp_path, many)
    page = Page(html.page(findings))
    drawn = [text for text in page.inside("svg") if "UNDECIDED" in text]
    assert len(drawn) == 40
    assert "The 40 largest of 60 effects are drawn" in " ".join(page.inside("p"))
    assert "The other 20 effects" in " ".join(page.inside("summary"))
    listed = text_of(page)
    assert all(f"trick_{n} " in listed for n in range(60))
    lines = verdict_table(findings)
    assert sum("UNDECIDED" in line for line in lines) == 40
    assert any("report.md has 20 more" in line for line in lines)
    assert any("trick_59" in line for line in lines)
    assert not any("trick_19 " in line for line in lines)


def test_a_calibration_says_how_often_it_was_wrong(tmp_path):
    plan = write_plan(tmp_path, (trick("clipping"),), "calibration", seeds=12)
    rate = Calibration(seeds=5, draws=1000, false=0.047, negligible=0.31)
    findings = make_findings(tmp_path, {}, plan, effects=(), calibration=(rate,))
    assert "5 1,000 4.7 % 31.0 %" in text_of(Page(html.page(findings)))
    assert "| 5 | 1,000 | 4.7 % | 31.0 % |" in markdown.page(findings)
    assert any("4.7 % found HELPS or HURTS" in line for line in verdict_table(findings))
