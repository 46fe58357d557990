"""The report's Markdown, JSON and table for the terminal, and how numbers are written."""

import dataclasses
import json
import math
import re
import sys

import pytest
from rich.cells import cell_len

from runner.ablation.designs import BASELINE
from runner.ablation.sampling import Noise
from runner.ablation.verdicts import Verdict
from runner.errors import UserError
from runner.report import as_json, html, markdown, verdict_table, write_report
from runner.report.format import difference
from runner.store.runs import number
from tests.builders import THREE, make_findings, tricks, write_ablation, write_run


def test_the_markdown_has_a_row_for_each_effect_and_names_what_failed(tmp_path):
    write_run(tmp_path, "clipping", 1, status="diverged", told={"error": "the loss is nan"})
    text = markdown.page(make_findings(tmp_path, THREE, warnings=("other code",)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(THREE)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "| HELPS | +1.10 ± 0.20 | 3 of 3 | x1.22 | x1.05 | as the test has it |" in text
    assert "- diverged: clipping/seed=1: the loss is nan" in text
    assert "- other code" in text
    assert "```\npython -m runner ablation=one_at_a_time tricks=core" in text


def test_the_json_holds_the_findings_and_nothing_that_json_does_not_know(tmp_path):
    plan = write_ablation(tmp_path, tricks(clipping=0.01), seeds=3)
    findings = make_findings(tmp_path, {"clipping": THREE["clipping"]}, plan)
    open_ended = dataclasses.replace(findings.effects[0], interval=(-math.inf, math.inf))
    findings = dataclasses.replace(findings, effects=(open_ended,))
    text = write_report(findings)[2].read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    del content["checksum"]
    assert content == {"format": 1, **json.loads(json.dumps(as_json.content(findings)))}
    (effect,) = content["effects"]
    assert effect["verdict"] == "UNDECIDED"
    assert effect["differences"] == {"0": 0.004, "1": -0.002, "2": 0.001}
    assert effect["interval"] == [None, None]
    assert effect["contrast"]["weights"] == {"clipping": 1.0, BASELINE: -1.0}
    assert content["plan"]["question"]["margin"] == 0.005
    assert content["decided"] is False
    assert [run["folder"] for run in content["runs"]][:2] == ["baseline/seed=0", "baseline/seed=1"]
    assert content["runs"][0]["result"]["test/accuracy"] > 0.8


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.8, "80 % of the noise (40 to 100 %) comes from the 1,200 test images: four times as many"
         " would save about 60 % of the seeds."),
        (0.2, "20 % of the noise (10 to 50 %) comes from the 1,200 test images, the rest from"
         " training, which only more seeds reduce:"),
    ],
)  # fmt: skip
def test_what_the_noise_comes_from_is_told_everywhere(tmp_path, share, words):
    noise = Noise(
        variance=1e-4,
        of_test_set=share * 1e-4,
        of_seeds=(1 - share) * 1e-4,
        share=share,
        interval=(share / 2, min(2.5 * share, 1.0)),
        samples=1200,
        seeds=3,
    )
    findings = make_findings(tmp_path, THREE, noise=noise)
    told = " ".join(verdict_table(findings))
    assert words in told
    assert words.split(":")[0] in markdown.page(findings)
    assert words in html.page(findings)
    assert as_json.content(findings)["noise"]["share"] == share
    assert "of the noise" not in " ".join(verdict_table(make_findings(tmp_path, THREE)))


def test_the_table_fits_a_terminal_and_is_colored_only_where_a_person_wants_it(
    tmp_path, monkeypatch
):
    findings = make_findings(tmp_path, THREE | {"日本" * 30: THREE["clipping"]})
    wordy = dataclasses.replace(findings.effects[1], reason="very wordy " * 9)
    findings = dataclasses.replace(findings, effects=(wordy, *findings.effects))
    lines = verdict_table(findings)
    assert max(map(len, lines)) <= 100
    assert " ".join(lines).count("wordy") == 9
    assert (
        len(
            {
                line.index("as the test") + line.count("日") + line.count("本")
                for line in lines
                if "as the test" in line
            }
        )
        == 1
    )
    rows = [line.split() for line in lines if line.startswith(tuple(Verdict))]
    assert rows[0][:8] == ["HELPS", "anti_aliasing", "+1.10", "±", "0.20", "3", "of", "3"]
    assert [row[0] for row in rows] == ["HELPS", *["UNDECIDED"] * 3, "HURTS"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    colored = verdict_table(findings)
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in colored] == lines
    assert colored != lines
    monkeypatch.setenv("NO_COLOR", "1")
    assert verdict_table(findings) == lines


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_is_no_wider_than_the_terminal_and_loses_no_name(tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    name = "日本語の名前" + "x" * 30
    lines = verdict_table(make_findings(tmp_path, THREE | {name: THREE["clipping"]}))
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert [text.count(part) for part in ("x", "日", "前", "has", "UNDECIDED")] == [
        30 + (4 if width > 60 else 0),  # the times make room for names
        1,
        1,
        4,
        2,
    ]


def test_a_narrow_terminal_keeps_the_names_of_the_effects(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    lines = verdict_table(make_findings(tmp_path, THREE))
    assert max(map(len, lines)) <= 50
    head, *rows = (line.split() for line in lines if line.startswith(("verdict", *Verdict)))
    assert head == ["verdict", "effect", "difference", "reason"]
    assert [row[1] for row in rows] == list(THREE)


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path):
    findings = make_findings(tmp_path)
    with pytest.raises(
        UserError, match=r"report.html cannot be written: No such file or directory"
    ):
        write_report(dataclasses.replace(findings, root=tmp_path / "gone"))


@pytest.mark.parametrize(
    ("value", "text"), [(-0.00001, "0.00"), (0.0042, "+0.42"), (-0.5, "-50.00"), (None, "-")]
)
def test_a_difference_has_a_sign_unless_it_is_nothing(value, text):
    assert difference(value, "test/accuracy") == text


def test_what_is_not_a_finite_number_is_none():
    assert [number(x) for x in (True, "1", None, math.nan, math.inf, 10**400, 4e38, [])] == [
        None
    ] * 8
    assert number(3) == 3.0
