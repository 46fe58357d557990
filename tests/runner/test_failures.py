"""Runs that failed: what is evidence against a trick, how much is enough, and the other runs."""

import dataclasses
from math import comb

import numpy as np
import pytest
from scipy import stats

from runner.ablation.decide import Verdict, adjust, decide
from runner.ablation.failures import (
    cause_outside,
    failure_p,
    failure_p_of_several,
    seeds_to_prove,
)
from runner.ablation.verdicts import judge
from runner.report import as_json, write_report
from runner.store.runs import read_run
from tests import builders
from tests.builders import NOISE, RAISED, Runs
from tests.runner.test_verdicts import HELPFUL, TINY, effects, make_plan

KILLED = (
    "The worker process was killed by SIGKILL (out of memory?). Give the same command to go on."
)


@pytest.fixture
def plan():
    return make_plan()


@pytest.fixture
def runs(tmp_path, plan):
    return Runs(tmp_path, plan)


@pytest.mark.parametrize(
    ("cause", "error", "words"),
    [
        ("killed", KILLED, "was killed by SIGKILL"),
        ("killed", "The worker process ended with code 3 without reporting.", "was killed"),
        ("timeout", "It took longer than hydra.launcher.timeout=20 seconds.", "at the time limit"),
        ("machine", f"{RAISED}\nMemoryError", "lacked memory, room, a file or a device"),
        ("exception", "data.root: nowhere does not exist.", "could not run"),
        (None, "", "ended without an error"),
    ],
)
def test_what_the_machine_did_or_a_refusal_is_no_evidence(tmp_path, cause, error, words):
    builders.write_status(tmp_path, "failed", error=error, cause=cause)
    assert words in cause_outside(read_run(tmp_path, "x"))


@pytest.mark.parametrize("cause", ["exception", None])
def test_an_exception_that_was_raised_in_the_run_is_evidence(tmp_path, cause):
    builders.write_status(tmp_path, "failed", error=RAISED, cause=cause)
    assert cause_outside(read_run(tmp_path, "x")) is None


@pytest.mark.parametrize("variant", ["clipping", "baseline"])
def test_a_run_that_was_killed_gives_no_verdict_and_says_what_to_do(tmp_path, plan, runs, variant):
    runs.fill(clipping=HELPFUL)
    runs.fail(variant, 3, "failed", KILLED, "killed")
    found = effects(tmp_path, plan)["clipping"]
    assert found.verdict is Verdict.NONE
    assert found.reason == (
        f"4 of 5 seeds so far; {variant}/seed=3 was killed by SIGKILL, which is not evidence: "
        "give the same command again"
    )
    assert (found.failures, found.failures_without, found.failure_p) == ({}, {}, None)
    assert found.ended_outside == {f"{variant}/seed=3": "was killed by SIGKILL"}
    assert found.open


def test_a_trick_that_only_the_machine_ended_is_never_broken(tmp_path, plan, runs):
    runs.fill()
    for seed in plan.seeds:
        runs.fail("clipping", seed, "failed", KILLED, "killed")
    found = effects(tmp_path, plan)["clipping"]
    assert found.verdict is Verdict.NONE
    assert "and 4 more runs were ended, which is not evidence" in found.reason


@pytest.mark.parametrize(("state", "error"), [("diverged", "the loss is nan"), ("failed", RAISED)])
def test_a_trick_that_always_fails_is_broken_by_fishers_test(tmp_path, plan, runs, state, error):
    runs.fill()
    for seed in plan.seeds:
        runs.fail("clipping", seed, state, error)
    found = effects(tmp_path, plan)
    p = stats.fisher_exact([[5, 0], [0, 5]], alternative="greater").pvalue
    assert found["clipping"].verdict is Verdict.BROKEN
    assert found["clipping"].reason == f"5 of 5 {state} (baseline 0 of 5)"
    assert found["clipping"].failure_p == pytest.approx(p)
    assert found["clipping"].failure_adjusted == pytest.approx(2 * p)
    assert not found["clipping"].open
    assert found["flooding"].verdict is Verdict.UNDECIDED
    assert (found["flooding"].failures, found["flooding"].failure_p) == ({}, 1.0)


def test_broken_is_not_called_before_all_runs_are_done(tmp_path, plan, runs):
    runs.fill()
    for seed in (0, 1, 2, 3):
        runs.fail("clipping", seed)
    runs.fail("clipping", 4, "running")
    found = effects(tmp_path, plan)["clipping"]
    assert (found.verdict, found.failure_p) == (Verdict.NONE, None)
    assert found.reason.startswith("4 of 5 seeds so far; 4 of 4 diverged (baseline 0 of 4)")


@pytest.mark.parametrize(
    ("differences", "verdict", "words"),
    [
        (HELPFUL, Verdict.UNDECIDED, ""),
        (TINY, Verdict.UNDECIDED, ""),
        (NOISE, Verdict.UNDECIDED, ""),
        ([-d for d in HELPFUL], Verdict.HURTS, "-2.98 points, more than chance; four seeds only"),
    ],
)
def test_a_trick_with_a_failed_run_is_never_called_good_by_the_others(
    tmp_path, plan, runs, differences, verdict, words
):
    runs.fill(clipping=differences)
    runs.fail("clipping", 3)
    found = effects(tmp_path, plan)["clipping"]
    assert found.verdict is verdict
    assert found.reason.startswith(words)
    assert found.reason.endswith("1 of 5 diverged (baseline 0 of 5)")
    assert (found.failures, found.left_out) == ({"diverged": 1}, (3,))
    assert found.more_seeds is None


def test_where_too_few_seeds_can_prove_nothing_it_says_how_many_could(tmp_path):
    plan = make_plan(tricks=("a", "b", "c", "d", "e"), seeds=3)
    runs = Runs(tmp_path, plan)
    runs.fill()
    for seed in plan.seeds:
        runs.fail("a", seed)
    found = effects(tmp_path, plan)["a"]
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason == (
        "3 of 3 diverged (baseline 0 of 3): 3 seeds cannot prove it broken among 5 effects, "
        "5 can if it always fails"
    )
    assert 1 / comb(10, 5) <= 0.05 / 5 < 1 / comb(8, 4)


def test_three_of_three_alone_are_just_enough(tmp_path):
    plan = make_plan(tricks=("a",), seeds=3)
    runs = Runs(tmp_path, plan)
    runs.fill()
    for seed in plan.seeds:
        runs.fail("a", seed)
    found = effects(tmp_path, plan)["a"]
    assert (found.verdict, found.failure_p) == (Verdict.BROKEN, 0.05)


@pytest.mark.parametrize("state", ["diverged", "failed"])
def test_one_lost_seed_of_the_baseline_leaves_the_others_to_judge_by(tmp_path, plan, runs, state):
    runs.fill(clipping=HELPFUL)
    runs.fail("baseline", 3, state, RAISED)
    found = effects(tmp_path, plan)["clipping"]
    rest = [d for seed, d in enumerate(HELPFUL) if seed != 3]
    assert found.verdict is Verdict.HELPS
    assert found.p_value == pytest.approx(stats.ttest_1samp(rest, 0).pvalue)
    assert found.adjusted == pytest.approx(2 * found.p_value)
    assert (found.left_out, found.seeds) == ((3,), 4)
    assert found.reason == (
        "+2.98 points, more than chance; four seeds only: it assumes normal scores; "
        f"left out seed 3: the baseline {state} there, with it none of 5 runs did"
    )
    assert (found.failures, found.failures_without) == ({}, {state: 1})


def test_what_is_left_must_be_three_seeds_and_what_the_trick_spared_is_told(tmp_path, plan, runs):
    runs.fill(clipping=HELPFUL)
    for seed in (0, 1, 2):
        runs.fail("baseline", seed)
    found = effects(tmp_path, plan)["clipping"]
    assert found.verdict is Verdict.NONE
    assert found.reason == (
        "two seeds remain; left out seeds 0, 1, 2: the baseline diverged with them, "
        "with it none of 5 runs did"
    )
    assert found.open


def test_seeds_that_fail_on_both_sides_are_no_evidence_and_no_excuse(tmp_path, plan, runs):
    runs.fill(clipping=HELPFUL)
    for variant in ("baseline", "clipping"):
        runs.fail(variant, 3)
    found = effects(tmp_path, plan)["clipping"]
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason == "1 of 5 diverged (baseline 1 of 5)"
    assert found.failure_p == pytest.approx(
        stats.fisher_exact([[1, 4], [1, 4]], alternative="greater").pvalue
    )


def test_a_trick_whose_weights_are_equal_but_for_a_failed_seed_is_not_called_inactive(
    tmp_path, plan, runs
):
    for seed, variant in plan.runs():
        runs.write(variant, seed, 0.9, weights=f"same{seed}")
    assert effects(tmp_path, plan)["clipping"].verdict is Verdict.INACTIVE
    for variant in ("baseline", "clipping"):
        runs.fail(variant, 3)
    assert effects(tmp_path, plan)["clipping"].verdict is Verdict.UNDECIDED


def factorial(tmp_path, fails, seeds=5, tricks=("a", "b", "c")):
    """A factorial, of which `fails` tells by variant and seed what diverged."""
    plan = make_plan("factorial", tricks, seeds=seeds)
    runs = Runs(tmp_path, plan)
    draw = np.random.default_rng(0)
    for seed, variant in plan.runs():
        on = {level for level in plan.variants[variant] if level != "off"}
        if fails(on, seed):
            runs.fail(variant, seed)
        else:
            runs.write(variant, seed, 0.9 + 0.001 * draw.standard_normal())
    return effects(tmp_path, plan)


def test_in_a_factorial_what_always_fails_is_broken_also_where_two_do(tmp_path):
    found = factorial(tmp_path, lambda on, _: bool(on & {"a", "b"}))
    assert [found[name].verdict for name in "abc"] == ["BROKEN", "BROKEN", "UNDECIDED"]
    assert found["a"].reason == "20 of 20 diverged (without it 10 of 20)"
    assert found["c"].reason == "15 of 20 diverged (without it 15 of 20)"


def test_in_a_factorial_two_that_fail_together_are_both_broken(tmp_path):
    found = factorial(tmp_path, lambda on, _: on >= {"a", "b"})
    assert [found[name].verdict for name in "abc"] == ["BROKEN", "BROKEN", "UNDECIDED"]


def test_in_a_factorial_a_seed_that_was_lost_without_a_trick_is_left_out(tmp_path):
    found = factorial(tmp_path, lambda on, seed: not on and seed == 1)
    for name in "abc":
        assert found[name].left_out == (1,)
        assert found[name].reason.endswith(
            "left out seed 1: 4 variants without it diverged there, with it none of 20 runs did"
        )


def test_runs_that_fail_together_in_a_seed_count_once():
    # of a factorial whose other tricks changed nothing: one failure of a seed is that of all
    draw, k = np.random.default_rng(0), 8
    counts, false = np.ones(5, bool), 0
    for _ in range(1000):
        one, other = np.repeat(draw.random((2, 1, 5)) < 0.1, k, axis=1)
        false += failure_p_of_several(one, other, counts) <= 0.05
        pooled = stats.hypergeom.sf(one.sum() - 1, 10 * k, one.sum() + other.sum(), 5 * k)
        false += 1j * (pooled <= 0.05)
    assert false.real / 1000 <= 0.05
    assert false.imag / 1000 > 0.1


def test_fishers_p_value_is_scipys_and_small_samples_have_none():
    for x, y in ((0, 0), (1, 0), (3, 1), (5, 0), (2, 4)):
        failed = [np.arange(5) < n for n in (x, y)]
        theirs = stats.fisher_exact([[x, 5 - x], [y, 5 - y]], alternative="greater").pvalue
        assert failure_p(*failed, np.ones(5)) == pytest.approx(theirs)
    assert np.isnan(failure_p([1, 1], [0, 0], [1, 1]))
    assert np.isnan(failure_p_of_several(np.ones((2, 4)) > 0, np.ones((1, 4)) > 0, np.ones(4) > 0))


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("rate", [0.01, 0.03, 0.3, "by seed"])
def test_where_every_run_fails_as_often_few_families_have_a_broken_one(rate, sequential):
    draw, n = np.random.default_rng(0), 20
    rates = draw.beta(0.2, 0.6, (4000, 1, n)) if rate == "by seed" else rate
    failed = draw.random((4000, 6, n)) < rates
    p = failure_p(failed[:, 1:], failed[:, :1], np.ones((4000, 5, n)), sequential)
    assert (adjust(p, p) <= 0.05).any(-1).mean() <= 0.05 + 2 * (0.05 * 0.95 / 4000) ** 0.5


@pytest.mark.parametrize("sequential", [False, True])
def test_where_every_run_may_be_lost_few_families_have_a_false_verdict(sequential):
    draw = np.random.default_rng(1)
    scores = draw.standard_normal((10_000, 6, 8))
    lost = draw.random(scores.shape) < 0.03
    d = np.where(lost[:, 1:] | lost[:, :1], np.nan, scores[:, 1:] - scores[:, :1])
    if sequential:
        d = np.take_along_axis(d, np.argsort(np.isnan(d), -1, kind="stable"), -1)
    verdicts = decide(d, 0.5, 0.05, sequential).verdict
    own = lost[:, 1:].any(-1)
    helps = (verdicts == Verdict.HELPS) & ~own
    assert (helps | (verdicts == Verdict.HURTS)).any(-1).mean() <= 0.05 + 2 * 0.00218
    assert (np.isfinite(d).sum(-1) < 3).any(-1).mean() < 0.002  # voided


def test_in_a_sequence_looking_again_and_again_makes_few_broken():
    draw = np.random.default_rng(2)
    failed = draw.random((4000, 6, 30)) < 0.2
    for n in (3, 10, 30):
        p = failure_p(failed[:, 1:, :n], failed[:, :1, :n], np.ones((4000, 5, n)), True)
        assert (adjust(p, p) <= 0.05).any(-1).mean() <= 0.05
        assert np.all(
            p <= failure_p(failed[:, 1:, :3], failed[:, :1, :3], np.ones((4000, 5, 3)), True)
        )


def test_so_many_seeds_prove_it():
    assert [seeds_to_prove(0.05 / k, False) for k in (1, 5, 10)] == [3, 5, 5]
    assert [seeds_to_prove(0.05 / k, True) for k in (1, 5, 10)] == [4, 5, 6]


def sequence(tmp_path, scores, fails):
    """An ablation of one trick, until=decided."""
    plan = make_plan(tricks=("clipping",), seeds=len(scores), until="decided")
    runs = Runs(tmp_path, plan)
    for seed, difference in enumerate(scores):
        for variant, more in (("baseline", 0.0), ("clipping", difference)):
            if (variant, seed) in fails:
                runs.fail(variant, seed, *fails[variant, seed])
            else:
                runs.write(variant, seed, 0.5**0.5 + more)
    return effects(tmp_path, plan)["clipping"]


CLEAR = (0.031, 0.024, 0.035, 0.027, 0.029, 0.03, 0.028, 0.031)


def test_until_decided_a_lost_seed_of_the_baseline_is_passed_over(tmp_path):
    found = sequence(tmp_path / "lost", CLEAR, {("baseline", 2): ()})
    rest = CLEAR[:2] + CLEAR[3:]
    other = sequence(tmp_path / "rest", rest, {})
    assert found.verdict is other.verdict is Verdict.HELPS
    assert (found.p_value, found.interval) == (other.p_value, other.interval)
    assert (found.left_out, found.seeds) == ((2,), 7)


def test_until_decided_what_always_fails_is_broken_and_what_was_killed_ends_the_sequence(tmp_path):
    always = {("clipping", seed): () for seed in range(8)}
    found = [sequence(tmp_path / str(n), CLEAR[:n], always) for n in (3, 4)]
    assert [f.verdict for f in found] == [Verdict.UNDECIDED, Verdict.BROKEN]
    assert found[0].open
    assert "3 seeds cannot prove it broken, 4 can if it always fails" in found[0].reason
    killed = sequence(tmp_path / "killed", CLEAR, {("clipping", 3): ("failed", KILLED, "killed")})
    assert killed.verdict is Verdict.UNDECIDED
    assert killed.seeds == 3
    assert "clipping/seed=3 was killed by SIGKILL, which is not evidence" in killed.reason


def test_the_p_values_of_failures_are_in_the_json_and_in_no_table(tmp_path, plan, runs):
    runs.fill(clipping=HELPFUL)
    runs.fail("clipping", 3)
    findings = dataclasses.replace(judge(tmp_path, plan), root=tmp_path)
    told = as_json.content(findings)["effects"][0]
    assert told["failure_p"] == pytest.approx(0.5)
    assert told["failure_adjusted"] == 1.0
    assert told["failures"] == {"diverged": 1}
    pages = [path.read_text() for path in write_report(findings)[:2]]
    for page in pages:
        assert "1 of 5 diverged (baseline 0 of 5)" in page
