"""Each rule by files as runs write them, for a plan as the designs lay it out."""

import dataclasses
import html
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from runner.ablation.designs import Factor
from runner.ablation.power import seeds_needed
from runner.ablation.verdicts import Verdict, judge
from runner.ablation.wording import SAME_WEIGHTS
from runner.errors import UserError
from runner.report import verdict_table, write_report
from runner.report.sentences import rules
from runner.report.text import interval
from tests import builders
from tests.builders import NOISE, Runs

HELPFUL = (0.031, 0.024, 0.035, 0.027, 0.029)
TINY = (0.0003, -0.0002, 0.0001, -0.0001, 0.0002)


def make_plan(kind="one_at_a_time", tricks=("clipping", "flooding"), seeds=5, levels=2, **asked):
    factors = tuple(
        Factor(name, ("off", name, *(f"{name}={n}" for n in range(2, levels)))) for name in tricks
    )
    return builders.make_plan(factors, kind, seeds, **{"most_seeds": 30, **asked})


@pytest.fixture
def plan():
    return make_plan()


@pytest.fixture
def runs(tmp_path, plan):
    return Runs(tmp_path, plan)


def effects(root, plan):
    return {finding.contrast.name: finding for finding in judge(root, plan).effects}


def test_a_trick_that_helps_is_told_with_its_numbers(tmp_path, plan, runs):
    runs.fill(clipping=HELPFUL)
    found = effects(tmp_path, plan)["clipping"]
    low, high = stats.ttest_1samp(HELPFUL, 0).confidence_interval(0.95)
    assert found.verdict is Verdict.HELPS
    assert found.reason == "+2.92 points, more than chance"
    assert list(found.differences.values()) == pytest.approx(HELPFUL)
    assert found.mean == pytest.approx(np.mean(HELPFUL))
    assert found.interval == pytest.approx((low, high))
    assert found.p_value == pytest.approx(stats.ttest_1samp(HELPFUL, 0).pvalue)
    assert found.adjusted == pytest.approx(2 * found.p_value)
    assert not found.open
    assert found.more_seeds is None


def test_hurts_and_negligible_and_undecided_are_told_in_words(tmp_path, plan, runs):
    runs.fill(clipping=[-d for d in HELPFUL], flooding=TINY)
    found = effects(tmp_path, plan)
    assert found["clipping"].verdict is Verdict.HURTS
    assert found["clipping"].reason == "-2.92 points, more than chance"
    assert found["flooding"].verdict is Verdict.NEGLIGIBLE
    assert found["flooding"].reason == (
        "+0.01 points, less than 0.5 points either way; "
        "5 seeds do not exclude collapses in up to 45 % of runs"
    )


def test_an_undecided_one_needs_so_many_seeds_more(tmp_path, plan, runs):
    runs.fill(clipping=HELPFUL)
    found = effects(tmp_path, plan)["flooding"]
    n = int(seeds_needed(np.mean(NOISE), np.std(NOISE, ddof=1), 0.005, 0.025, 5, limit=1005))
    assert found.verdict is Verdict.UNDECIDED
    assert found.more_seeds == n - 5
    low, high = found.more_seeds_range
    assert low < n - 5 < high
    assert found.reason == f"about {low} to {high} more seeds"
    assert found.open


def test_where_seeds_would_not_do_none_are_named(tmp_path):
    plan = make_plan(margin=0.0)
    Runs(tmp_path, plan).fill(flooding=(0.02, -0.02, 0.01, -0.01, 1e-6))
    found = effects(tmp_path, plan)["flooding"]
    assert found.reason == "34 more seeds or many more"
    assert found.more_seeds is None
    assert found.more_seeds_range == (34, None)


def test_an_effect_that_is_sure_and_small_says_both(tmp_path):
    plan = make_plan(margin=0.05)
    Runs(tmp_path, plan).fill(clipping=HELPFUL)
    found = effects(tmp_path, plan)["clipping"]
    assert found.verdict is Verdict.HELPS
    assert found.reason == "+2.92 points, more than chance, but less than 5 points"


def test_less_than_the_margin_is_said_only_where_the_rule_rejects_it(tmp_path):
    # p against the margin is .0062, where one effect of ten needs .005
    names = tuple(f"trick_{n}" for n in range(10))
    plan = make_plan(tricks=names)
    Runs(tmp_path, plan).fill(trick_0=(0.0035, 0.0042, 0.0030, 0.0046, 0.0037))
    found = effects(tmp_path, plan)["trick_0"]
    assert found.verdict is Verdict.HELPS
    assert (found.reason, found.within_margin) == ("+0.38 points, more than chance", False)
    assert found.interval[1] < 0.005  # its own interval alone would say so


@pytest.mark.parametrize(("seeds", "few"), [(3, "three"), (4, "four"), (5, None)])
def test_verdicts_of_three_and_four_seeds_are_marked_in_every_output(tmp_path, seeds, few):
    plan = make_plan(seeds=seeds)
    Runs(tmp_path, plan).fill(clipping=[d + 0.1 for d in TINY], flooding=[d / 100 for d in NOISE])
    findings = judge(tmp_path, plan)
    assert [f.verdict for f in findings.effects] == [Verdict.HELPS, Verdict.NEGLIGIBLE]
    mark = f"{few} seeds only: it assumes normal scores"
    rare = (
        f"{seeds} seeds do not exclude collapses in up to {100 * (1 - 0.05 ** (1 / seeds)):.0f} %"
    )
    shown = [" ".join(verdict_table(findings)), *(f.read_text() for f in write_report(findings))]
    for text in shown:
        words = " ".join(text.replace("&#37;", "%").split())
        assert words.count(mark) == (2 if few else 0)
        assert rare in words
    assert (f"({seeds} seeds)" in shown[1]) == (few is not None)  # in the picture
    assert ("on 3 seeds only" in shown[1]) == (seeds == 3)  # in the heading


def test_no_more_is_promised_than_the_rule_holds(tmp_path):
    plan = make_plan("pairs")
    Runs(tmp_path, plan).fill()
    findings = judge(tmp_path, plan)
    for text in (path.read_text() for path in write_report(findings)[:2]):
        words = " ".join(html.unescape(text).split())
        assert (
            "If scores are roughly normal, the chance that any HELPS, HURTS or NEGLIGIBLE is "
            "false is at most 5 %. For BROKEN it is another 5 %, if runs fail independently of "
            "each other, by Fisher's exact test. Interactions are a family of their own, with a "
            "further 5 %."
        ) in words
        assert "surely" not in words
    assert "family" not in rules(make_plan())
    grows = rules(make_plan(until="decided"))
    assert "at most 5 %, however often one looks." in grows
    assert "Fisher" not in grows
    assert rules(make_plan("calibration", ())).count("%") == 0


def test_a_shared_spread_is_told_where_there_are_seeds_enough_for_it():
    three = ("clipping", "flooding", "centralization")
    for design, tricks, seeds, until, told in (
        ("one_at_a_time", three, 3, "fixed", False),
        ("one_at_a_time", three, 4, "fixed", True),
        ("one_at_a_time", three[:2], 5, "fixed", False),
        ("cumulative", three[:2], 6, "fixed", False),
        ("cumulative", three[:2], 7, "fixed", True),
        ("one_at_a_time", three, 5, "decided", False),
    ):
        plan = make_plan(design, tricks, until=until, spread="shared")
        plan = dataclasses.replace(plan, seeds=tuple(range(seeds)))
        assert ("partly its own" in rules(plan)) == told, (design, tricks, seeds, until)


def test_the_looks_at_which_an_interval_holds_are_counted_in_words(tmp_path):
    for looks, told in (((3, 5), "at both looks"), ((3, 5, 8), "at all 3 looks")):
        plan = make_plan(seeds=3, until="looks", looks=looks, most_seeds=looks[-1])
        assert interval(judge(tmp_path, plan)).endswith(told)


def test_a_loss_is_no_fair_measure_of_a_trick_that_changes_it(tmp_path):
    for name, metric, warned in (
        ("label_smoothing", "test/loss", True),
        ("label_smoothing", "test/accuracy", False),
        ("clipping", "test/loss", False),
    ):
        plan = make_plan(tricks=(name,), metric=metric, margin=0.02)
        changes = {**plan.changes, name: {f"tricks.{name}.enabled": True}}
        plan = dataclasses.replace(plan, changes=changes)
        warnings = judge(tmp_path, plan).warnings
        assert any(f"not a fair measure of {name}" in text for text in warnings) == warned


def test_of_a_loss_less_is_better(tmp_path):
    plan = make_plan(metric="test/loss", goal="minimize", margin=0.001)
    runs = Runs(tmp_path, plan)
    for seed, variant in plan.runs():
        better = {"baseline": NOISE, "clipping": HELPFUL, "flooding": [-d for d in HELPFUL]}
        runs.write(variant, seed, **{"test/loss": 0.4 - better[variant][seed]})
    found = effects(tmp_path, plan)
    assert found["clipping"].verdict is Verdict.HELPS
    assert found["clipping"].mean > 0
    assert found["clipping"].reason == "0.0292 lower, more than chance"
    assert found["flooding"].verdict is Verdict.HURTS
    assert found["flooding"].reason == "0.0292 higher, more than chance"


@pytest.mark.parametrize(
    ("seeds", "reason"),
    [(1, "one seed: no interval, no verdict"), (2, "two seeds: an interval, no verdict")],
)
def test_one_seed_gives_a_difference_and_two_an_interval_and_neither_a_verdict(
    tmp_path, seeds, reason
):
    plan = make_plan(seeds=seeds)
    Runs(tmp_path, plan).fill(clipping=HELPFUL)
    found = effects(tmp_path, plan)["clipping"]
    assert (found.verdict, found.reason) == (Verdict.NONE, reason)
    assert found.mean == pytest.approx(np.mean(HELPFUL[:seeds]))
    assert (found.interval is None) == (seeds == 1)
    assert found.p_value is None
    assert found.smallest_effect is None


@pytest.mark.parametrize("state", ["running", "stopped", None])
def test_runs_that_are_still_to_come_leave_no_verdict_but_what_is_there(
    tmp_path, plan, runs, state
):
    runs.fill(clipping=HELPFUL)
    for seed in (1, 4):
        folder = plan.folder(tmp_path, "clipping", seed)
        for file in folder.iterdir():
            file.unlink()
        if state:
            runs.write("clipping", seed, state=state)
    found = effects(tmp_path, plan)
    assert found["clipping"].verdict is Verdict.NONE
    assert found["clipping"].reason == "3 of 5 seeds so far"
    assert found["clipping"].open
    assert list(found["clipping"].differences) == [0, 2, 3]
    assert found["clipping"].mean == pytest.approx(np.mean([HELPFUL[s] for s in (0, 2, 3)]))
    assert found["clipping"].interval is not None
    assert found["clipping"].p_value is None
    assert found["flooding"].verdict is Verdict.UNDECIDED


def test_nothing_has_been_run_yet(tmp_path, plan):
    found = effects(tmp_path, plan)["clipping"]
    assert (found.verdict, found.reason) == (Verdict.NONE, "0 of 5 seeds so far")
    assert (found.mean, found.interval, found.time_ratio) == (None, None, None)


def test_the_number_of_effects_is_that_of_the_plan_also_where_some_cannot_be_judged(
    tmp_path, plan, runs
):
    runs.fill(clipping=HELPFUL)
    runs.write("flooding", 2, state="running")
    plan.folder(tmp_path, "flooding", 2).joinpath("result.json").unlink()
    found = effects(tmp_path, plan)["clipping"]
    assert found.adjusted == pytest.approx(2 * found.p_value)


def test_a_damaged_result_is_missing_and_is_told_and_nothing_is_held_against_the_trick(
    tmp_path, plan, runs
):
    runs.fill(clipping=HELPFUL)
    plan.folder(tmp_path, "clipping", 3).joinpath("result.json").write_text('{"format": 1,')
    findings = judge(tmp_path, plan)
    assert findings.effects[0].verdict is Verdict.NONE
    assert findings.effects[0].reason == "4 of 5 seeds so far"
    assert findings.effects[0].failures == {}
    assert len(findings.warnings) == 1
    assert findings.warnings[0].startswith("clipping/seed=3: result.json is damaged")


def test_a_trick_that_ended_in_the_baselines_weights_is_inactive(tmp_path, plan, runs):
    for seed, variant in plan.runs():
        weights = variant if variant == "flooding" and seed == 2 else "same"
        runs.write(variant, seed, 0.9, weights=f"{weights}{seed}")
    found = effects(tmp_path, plan)
    assert found["clipping"].verdict is Verdict.INACTIVE
    assert found["clipping"].reason == SAME_WEIGHTS
    assert found["flooding"].verdict is not Verdict.INACTIVE


def test_the_same_weights_that_predict_by_other_means_are_judged_by_the_numbers(
    tmp_path, plan, runs
):
    for seed, variant in plan.runs():
        views = variant == "flooding" and seed == 2
        digests = {
            "predictions.npz": f"{seed} {views}",
            "correct.npy": "a",
            "metrics.jsonl": variant,
        }
        more = {} if variant == "clipping" and seed == 0 else {"digests": digests}  # an older run
        runs.write(variant, seed, 0.9, weights=f"same{seed}", **more)
    found = effects(tmp_path, plan)
    assert found["clipping"].verdict is Verdict.INACTIVE
    assert found["flooding"].verdict is not Verdict.INACTIVE


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("others", "but the weights differ"),
        (None, "but not all weights are there to compare"),
    ],
)
def test_a_trick_that_says_that_it_never_acted_is_judged_by_the_numbers(
    tmp_path, plan, runs, weights, words
):
    runs.fill(clipping=HELPFUL)
    for seed in plan.seeds:
        runs.write("baseline", seed, 0.9, weights=f"same{seed}")
        own = f"same{seed}" if seed != 3 else weights
        runs.write("clipping", seed, 0.9 - HELPFUL[seed], inactive=["clipping"], weights=own)
    found = effects(tmp_path, plan)["clipping"]
    assert found.verdict is Verdict.HURTS
    assert (
        found.reason == f"-2.92 points, more than chance; by its own count it never acted, {words}"
    )


def test_a_trick_that_was_idle_with_some_seeds_is_judged_and_it_is_said(tmp_path, plan, runs):
    runs.fill(clipping=HELPFUL)
    for seed in (1, 3):
        score = sqrt(0.8 + seed * 7 % 5 / 1000) + HELPFUL[seed]
        runs.write("clipping", seed, score, inactive=["clipping"])
    found = effects(tmp_path, plan)["clipping"]
    assert found.verdict is Verdict.HELPS
    assert found.reason.endswith("; by its own count inactive with seeds 1, 3")


def test_in_a_factorial_inactive_is_what_changes_no_combination(tmp_path):
    plan = make_plan("factorial", seeds=3)
    runs = Runs(tmp_path, plan)
    for seed, variant in plan.runs():
        weights = "with" if "flooding" in variant else "without"
        runs.write(variant, seed, 0.9 + 0.0101 * seed, weights=f"{weights}{seed}")
    found = effects(tmp_path, plan)
    assert found["clipping"].verdict is Verdict.INACTIVE
    assert found["flooding"].verdict is Verdict.NEGLIGIBLE


def test_differences_that_sum_to_0_but_for_floating_point_are_0(tmp_path):
    plan = make_plan("factorial", levels=3, margin=1e-12)
    runs = Runs(tmp_path, plan)
    for seed, variant in plan.runs():
        runs.write(variant, seed, (0.7123, 0.7131, 0.9111, 0.8467, 0.31211)[seed])
    for found in effects(tmp_path, plan).values():
        assert set(found.differences.values()) == {0.0}


def test_equal_differences_of_unrounded_scores_are_no_proof(tmp_path):
    plan = make_plan(metric="test/loss", goal="minimize")
    runs = Runs(tmp_path, plan)
    for seed, variant in plan.runs():
        loss = sqrt(2) + sqrt(seed) - (variant == "clipping") * sqrt(3)
        runs.write(variant, seed, **{"test/loss": loss})
    found = effects(tmp_path, plan)["clipping"]
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason == "the same difference with every seed: no spread to judge by"


def test_of_accuracies_the_rounding_to_whole_samples_is_reckoned_with(tmp_path):
    plan = make_plan(seeds=3)
    runs = Runs(tmp_path, plan)
    for seed, variant in plan.runs():
        runs.write(variant, seed, (340 + seed + 2 * (variant == "clipping")) / 359)
    found = effects(tmp_path, plan)["clipping"]
    error = sqrt(1 / 6) / sqrt(3) / 359
    assert found.p_value == pytest.approx(2 * stats.t.sf(2 / 359 / error, 2))
    assert found.interval[0] == pytest.approx(2 / 359 - stats.t.isf(0.025, 2) * error)


def test_the_number_of_test_samples_is_that_of_the_answers(tmp_path):
    # were every score 1.0, nothing else would tell the step
    plan = make_plan(seeds=3)
    runs = Runs(tmp_path, plan)
    for seed, variant in plan.runs():
        runs.write(variant, seed, 1.0, correct=np.ones(359, bool))
    found = effects(tmp_path, plan)["clipping"]
    assert found.verdict is Verdict.UNDECIDED
    assert found.interval[1] == pytest.approx(stats.t.isf(0.025, 2) * sqrt(1 / 6) / sqrt(3) / 359)
    for folder in tmp_path.glob("*/*/correct.npy"):
        folder.unlink()
    assert effects(tmp_path, plan)["clipping"].verdict is Verdict.UNDECIDED  # not known: careful


def sequence(tmp_path, seeds, scores, missing=()):
    """An ablation until=decided of one trick, with so many seeds."""
    plan = make_plan(tricks=("clipping",), seeds=seeds, until="decided")
    runs = Runs(tmp_path, plan)
    for seed in set(plan.seeds) - set(missing):
        runs.write("baseline", seed, sqrt(0.8))
        runs.write("clipping", seed, sqrt(0.8) + scores[seed])
    return effects(tmp_path, plan)["clipping"]


CLEAR = (0.031, 0.024, 0.035, 0.027, 0.029, 0.03, 0.028, 0.031)


def test_until_decided_a_verdict_rests_on_the_e_value(tmp_path):
    found = sequence(tmp_path, 8, CLEAR)
    n, t = 8, stats.ttest_1samp(CLEAR, 0).statistic
    e = (1 + n) ** -0.5 * ((1 + t**2 / 7) / (1 + t**2 / (7 * 9))) ** 4
    assert found.verdict is Verdict.HELPS
    assert found.p_value == pytest.approx(1 / e)
    low, high = found.interval
    assert low < stats.ttest_1samp(CLEAR, 0).confidence_interval(0.95).low
    assert high > found.mean


def test_until_decided_three_seeds_may_be_judged_and_two_may_not(tmp_path):
    two, three = (sequence(tmp_path / str(n), n, CLEAR) for n in (2, 3))
    assert (two.verdict, two.reason) == (Verdict.NONE, "two seeds: an interval, no verdict")
    gap = sequence(tmp_path / "gap", 8, CLEAR, missing=(2,))
    assert (gap.reason, gap.p_value, gap.open) == (two.reason, None, True)
    assert three.verdict is Verdict.UNDECIDED
    assert three.interval is None  # it would be endless
    assert three.more_seeds == 2


def test_until_decided_the_seeds_before_the_first_gap_count(tmp_path):
    whole, gap = (
        sequence(tmp_path / str(missing), 8, CLEAR, missing) for missing in ((6, 7), (6,))
    )
    assert gap.verdict is Verdict.HELPS
    assert (gap.p_value, gap.mean) == (whole.p_value, whole.mean)
    assert 7 in gap.differences


def test_an_ablation_is_decided_when_no_effect_is_open(tmp_path, plan, runs):
    runs.fill(clipping=HELPFUL)
    assert not judge(tmp_path, plan).decided
    runs.fill(clipping=HELPFUL, flooding=TINY)
    assert judge(tmp_path, plan).decided


def test_interactions_are_adjusted_among_themselves_and_shares_not_at_all(tmp_path):
    plan = make_plan("both", ("clipping", "flooding", "centralization"))
    draw = np.random.default_rng(0)
    runs = Runs(tmp_path, plan)
    for seed, variant in plan.runs():
        runs.write(variant, seed, 0.9 + 0.01 * draw.standard_normal())
    findings = judge(tmp_path, plan)
    assert len(findings.effects) == 6
    p = [finding.p_value for finding in findings.interactions]
    assert min(f.adjusted for f in findings.interactions) == pytest.approx(min(1, 3 * min(p)))
    assert all(f.verdict is None for f in (*findings.interactions, *findings.shares))
    assert all(f.p_value is None and f.adjusted is None for f in findings.shares)
    assert all(f.interval for f in findings.shares)
    alone, company, _, share = (
        next(f for f in group if f.contrast.name.startswith("clipping") and end in f.contrast.name)
        for group, end in (
            (findings.effects, "alone"),
            (findings.effects, "others"),
            (findings.interactions, ""),
            (findings.shares, ""),
        )
    )
    assert share.mean == pytest.approx((alone.mean + company.mean) / 2)


def test_time_and_memory_are_geometric_means_of_the_ratios(tmp_path, plan, runs):
    for seed, variant in plan.runs():
        on = variant == "clipping"
        seconds = (2.0, 4.0 + seed) if on else (1.0, 2.0)
        runs.write(variant, seed, seconds=seconds, memory=3000 if on else 1000)
    found = effects(tmp_path, plan)["clipping"]
    ratios = [(6.0 + seed) / 3.0 for seed in plan.seeds]
    assert found.time_ratio == pytest.approx(stats.gmean(ratios))
    assert found.memory_ratio == pytest.approx(3)


def test_cost_that_was_not_measured_is_not_told(tmp_path, plan, runs):
    runs.fill()
    plan.folder(tmp_path, "clipping", 0).joinpath("metrics.jsonl").unlink()
    found = effects(tmp_path, plan)
    assert found["clipping"].time_ratio is None
    assert found["clipping"].memory_ratio is None
    assert found["flooding"].time_ratio == pytest.approx(1)


def test_what_the_trick_reported_is_the_mean_over_its_runs(tmp_path, plan, runs):
    for seed, variant in plan.runs():
        runs.write(variant, seed, **{"tricks/clipping/clipped": seed / 10, "tricks/other/x": 1.0})
    assert effects(tmp_path, plan)["clipping"].trick_metrics == {"clipped": pytest.approx(0.2)}


def test_scores_that_rise_and_fall_together_are_told(tmp_path, plan, runs):
    runs.fill(clipping=(0.001,) * 5)
    found = effects(tmp_path, plan)
    assert found["clipping"].correlation == pytest.approx(1)
    assert -1 < found["flooding"].correlation < 1


def test_the_interval_over_samples_is_wider_where_the_test_set_is_small(tmp_path, plan, runs):
    draw = np.random.default_rng(0)
    for seed, variant in plan.runs():
        right = np.arange(50) < (45 if variant == "clipping" else 30)
        right[draw.integers(50)] = False  # else all are equal, and only the samples are chance
        runs.write(variant, seed, float(right.mean()), correct=right)
    findings = judge(tmp_path, plan)
    (found,) = (each for each in findings.effects if each.contrast.name == "clipping")
    assert sum(found.samples_interval) / 2 == pytest.approx(found.mean)
    assert found.samples_interval[0] < found.interval[0]
    assert found.noise.variance == pytest.approx(np.var([*found.differences.values()], ddof=1))
    assert (found.noise.samples, found.noise.seeds, found.noise.share) == (50, 5, 1)
    assert findings.noise.interval[0] > found.noise.interval[0]  # of both effects


def test_without_equally_many_answers_there_is_no_interval_over_samples(tmp_path, plan, runs):
    for seed, variant in plan.runs():
        many = 40 if (variant, seed) == ("clipping", 2) else 50
        correct = None if (variant, seed) == ("flooding", 1) else np.arange(many) < 30
        runs.write(variant, seed, 0.6, correct=correct)
    found = effects(tmp_path, plan)
    assert found["clipping"].samples_interval is found["clipping"].noise is None
    assert found["flooding"].samples_interval is None


def test_a_metric_that_a_result_lacks_is_named_with_the_file(tmp_path):
    plan = make_plan(metric="validation/accuracy")
    Runs(tmp_path, plan).fill()
    with pytest.raises(UserError) as error:
        judge(tmp_path, plan)
    assert "got validation/accuracy, which is not there" in str(error.value)
    assert str(plan.folder(tmp_path, "baseline", 0) / "result.json") in str(error.value)
    assert "test/accuracy" in str(error.value)


def test_runs_that_were_not_made_alike_are_named(tmp_path, plan, runs):
    runs.fill()
    runs.write("flooding", 1, machine={"code": {"commit": "def+"}, "threads": 4})
    runs.write("flooding", 2, machine={"libraries": {"torch": "2.11"}, "processor": "b"})
    assert judge(tmp_path, plan).warnings == (
        "The runs were made with different code: abc (14 runs), def+ (1 run).",
        "The runs were made with different torch: 2.10 (14 runs), 2.11 (1 run).",
        "The runs were made with different processors: a (14 runs), b (1 run).",
        "The runs were made with different numbers of threads: 1 (14 runs), 4 (1 run).",
    )


def test_of_many_damaged_files_five_are_named(tmp_path, plan, runs):
    runs.fill()
    for variant in ("clipping", "flooding"):
        for seed in range(4):
            (plan.folder(tmp_path, variant, seed) / "metrics.jsonl").write_text("{]\n")
    found = judge(tmp_path, plan).warnings
    assert len(found) == 6
    assert found[0].startswith("clipping/seed=0: metrics.jsonl, line 1 is damaged")
    assert found[-1] == "and 3 more with damaged files"


def test_what_is_no_run_of_the_plan_is_ignored(tmp_path, plan, runs):
    runs.fill(clipping=HELPFUL)
    before = judge(tmp_path, plan)
    runs.write("another", 0, state="failed")
    runs.write("clipping", 77, 0.1)
    assert judge(tmp_path, plan).effects == before.effects
    assert len(before.runs) == 15


@pytest.mark.parametrize(("done", "sides"), [(5, []), (6, [3]), (19, [3, 5]), (20, [3, 5, 10])])
def test_a_calibration_pairs_the_runs_that_are_done(tmp_path, done, sides):
    plan = make_plan("calibration", (), seeds=20)
    runs = Runs(tmp_path, plan)
    draw = np.random.default_rng(0)
    for seed in range(done):
        runs.write("baseline", seed, draw.binomial(359, 0.97) / 359)
    findings = judge(tmp_path, plan)
    assert findings.effects == ()
    assert [row.seeds for row in findings.calibration] == sides
    assert all(row.draws == 1000 and 0 < row.false < 0.1 for row in findings.calibration)


def test_a_calibration_with_a_wide_margin_finds_nothing_but_negligible(tmp_path):
    plan = make_plan("calibration", (), seeds=20, margin=0.5)
    runs = Runs(tmp_path, plan)
    draw = np.random.default_rng(0)
    for seed in plan.seeds:
        runs.write("baseline", seed, draw.binomial(359, 0.97) / 359)
    assert [row.negligible for row in judge(tmp_path, plan).calibration] == [1, 1, 1]
