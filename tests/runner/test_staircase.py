"""The staircase: each step starts where the one before it ended, and no table is ranked."""

import dataclasses
import json
from itertools import pairwise

import pytest

from runner.ablation.verdicts import judge
from runner.report import html, markdown, verdict_table
from runner.report.staircase import _limits, _steps, staircases
from tests.builders import tricks, write_ablation


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """Four tricks, added one after the other: the second one hurts."""
    root = tmp_path_factory.mktemp("ablations") / "stairs"
    effects = tricks(first=0.01, second=-0.02, third=0.0, last=0.03)
    return judge(root, write_ablation(root, effects, "cumulative"))


def test_each_step_starts_at_the_mean_of_the_one_before_and_its_interval_lies_around_its_own(
    climbed,
):
    steps = _steps(climbed, "")
    labels = ["baseline", "+ first", "+ second", "+ third", "+ last", "all together"]
    assert [step.label for step in steps] == labels
    assert [len(step.scores) for step in steps] == [5] * 6
    for before, step in pairwise(steps[:-1]):
        assert step.before == pytest.approx(before.mean)
    assert steps[-1].before == pytest.approx(steps[0].mean)
    assert steps[-1].scores == steps[-2].scores
    for step in steps[1:]:
        assert step.mean - step.before == pytest.approx(100 * step.finding.mean)
        ends = [step.before + 100 * end for end in step.finding.interval]
        assert list(step.interval) == pytest.approx(ends)
    low, high = _limits(steps, 0.5)
    assert all(low < score < high for step in steps for score in step.scores)


def test_where_less_is_better_the_interval_is_turned_and_a_far_score_is_an_arrow(climbed):
    question = dataclasses.replace(climbed.plan.question, goal="minimize", metric="test/loss")
    plan = dataclasses.replace(climbed.plan, question=question)
    step = _steps(dataclasses.replace(climbed, plan=plan), "")[1]
    around = [step.mean - (end - step.finding.mean) for end in step.finding.interval]
    assert list(step.interval) == pytest.approx(around)
    steps = _steps(climbed, "")
    fallen = dataclasses.replace(steps[2], scores=[*steps[2].scores[1:], 10.0])
    low, _ = _limits([*steps[:2], fallen, *steps[3:]], 0.5)
    assert low > 10.0


def test_the_picture_names_each_step_with_its_verdict(climbed):
    (picture,) = staircases(climbed)
    drawn = picture.svg()
    for finding in climbed.effects:
        assert f"+ {finding.contrast.name}" in drawn or finding.contrast.name == "all together"
        assert finding.verdict.value in drawn
    assert "all together" in drawn


@pytest.mark.usefixtures("no_pictures")
def test_every_table_keeps_the_order_of_the_steps(climbed):
    order = ["first", "second", "third", "last", "all together"]
    page, text, lines = html.page(climbed), markdown.page(climbed), verdict_table(climbed)
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines()]
    assert [row for row in rows if row in order] == order
    places = [page.index(f'<th scope="row">{name}</th>') for name in order]
    assert places == sorted(places)
    shown = [name for line in lines for name in order if f"  {name}  " in line]
    assert shown == order
    assert "added one after the other in this order" in text
    assert "<h2>Step by step</h2>" in page


def test_all_together_takes_no_tricks_word_for_its_own(tmp_path):
    root = tmp_path / "idle"
    plan = write_ablation(root, tricks(first=0.0, second=0.0), "cumulative", seeds=3)
    for seed in plan.seeds:
        for variant in plan.variants:
            file = root / variant / f"seed={seed}" / "result.json"
            result = json.loads(file.read_text()) | {"inactive": ["first"]}
            file.write_text(json.dumps(result))
    found = {finding.contrast.name: finding for finding in judge(root, plan).effects}
    assert "by its own count" in found["first"].reason
    assert "by its own count" not in found["all together"].reason
    assert found["all together"].trick_metrics == {}
