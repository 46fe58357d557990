"""Verdicts for scores that were made elsewhere: `python -m runner.judge`, and `judge_scores`."""

import io
import json
import random
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from torch.utils.tensorboard import SummaryWriter

from runner import judge
from runner.ablation.decide import Verdict, conclude, decide
from runner.ablation.sampling import find_step
from runner.ablation.scores import judge_scores
from runner.ablation.scores.counted import as_counted
from runner.ablation.scores.unpaired import welch
from runner.errors import UserError
from runner.frames import read_frames
from tests.builders import tricks, write_ablation, write_run
from tests.conftest import ROOT

TRUE = {"baseline": 0.90, "good": 0.93, "bad": 0.87, "same": 0.9001}
VERDICTS = {"good": "HELPS", "bad": "HURTS", "same": "NEGLIGIBLE"}


def made_up(seeds=8, sd=0.002, true=TRUE):
    """Rows (variant, seed, score), of which the variants of a seed have something in common."""
    draw = random.Random(1)
    common = [draw.gauss(0, sd) for _ in range(seeds)]
    return [
        (name, seed, round(mean + common[seed] + draw.gauss(0, sd), 6))
        for seed in range(seeds)
        for name, mean in true.items()
    ]


ROWS = made_up()


def table(rows=ROWS, heads=("variant", "seed", "score"), between=","):
    lines = [between.join(heads), *(between.join(map(str, row)) for row in rows)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def judged(tmp_path, capsys):
    """Judge a text or the path of a table; give the exit code, what was printed, and JSON."""

    def run(content, *options, name="scores.csv"):
        source = tmp_path / name
        if isinstance(content, bytes):
            source.write_bytes(content)
        elif isinstance(content, str):
            source.write_text(content)
        else:
            source = content
        code = 0
        try:
            judge.main([str(source), *options])
        except SystemExit as end:
            code = end.code or 0
        out, complaint = capsys.readouterr()
        found = json.loads(out) if "--json" in options and code in (0, 3) else None
        return SimpleNamespace(code=code, out=out, complaint=complaint, json=found)

    return run


def verdicts(found):
    return {effect["contrast"]["name"]: effect["verdict"] for effect in found.json["effects"]}


# What is read


def wide():
    scores = {(name, seed): score for name, seed, score in ROWS}
    rows = [(seed, *(scores[name, seed] for name in TRUE)) for seed in range(8)]
    return table(rows, ("seed", *TRUE))


RECORDS = [dict(zip(("variant", "seed", "score"), row, strict=True)) for row in ROWS]
LINES = [json.dumps({"variant": v, "config": {"seed": s}, "score": x}) for v, s, x in ROWS]
EXPORT = [(f"run-{n}", "finished", *row, 12.5, 3) for n, row in enumerate(ROWS)]
W_AND_B = ("Name", "State", "Group", "config.seed", "summary.accuracy", "Runtime", "summary.epoch")
MLFLOW = ("run_id", "status", "tags.mlflow.runName", "params.seed", "metrics.accuracy")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.csv", table()),
        ("scores.tsv", table(between="\t")),
        ("scores.txt", table(between=";")),
        ("excel.csv", ("\ufeff" + table().replace("\n", "\r\n")).encode()),
        ("wide.csv", table().encode("utf-16")),
        ("scores.csv", table().replace("score", '"score"').replace("\n", "\n\n")),
        ("scores.json", json.dumps(RECORDS)),
        ("scores.jsonl", "\n".join(LINES) + "\n"),
        ("across.csv", wide()),
        ("wandb.csv", table(EXPORT, W_AND_B)),
        ("mlflow.csv", table([row[:-2] for row in EXPORT], MLFLOW)),
        ("names.csv", table([(f"{v}-s{s}", x) for v, s, x in ROWS], ("run", "score"))),
        ("seeds.csv", table([(v, f"{s}.0", x) for v, s, x in ROWS])),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_the_same_scores_in_any_form_have_the_same_verdicts(judged, name, content):
    found = judged(content, "--json", name=name)
    assert (found.code, verdicts(found)) == (0, VERDICTS)
    assert found.json["seeds"] == list(range(8))
    differences = found.json["effects"][0]["differences"]
    assert differences["3"] == pytest.approx(ROWS[13][2] - ROWS[12][2])
    assert not any("Unpaired" in warning for warning in found.json["warnings"])


def test_standard_input_and_a_frame_too(monkeypatch, tmp_path, capsys):
    stdin = SimpleNamespace(buffer=io.BytesIO(table().encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    judge.main(["-", "--report", str(tmp_path / "page.html")])
    frame = pd.DataFrame(ROWS, columns=["arm", "seed", "test/accuracy"])
    found = judge_scores(frame, seed="seed")
    assert {f.contrast.name: f.verdict.value for f in found.effects} == VERDICTS
    # what an ablation says of these differences
    by_name = frame.pivot(index="seed", columns="arm", values="test/accuracy")
    differences = [(by_name[name] - by_name["baseline"]).to_numpy() for name in VERDICTS]
    expected = decide(differences, 0.005, 0.05, step=1e-6)
    assert [*expected.verdict] == [*VERDICTS.values()]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 1
    assert "by the scores in standard input" in page
    assert not re.search("runner.verify|tensorboard|an unknown|equal epochs", page)
    assert "equal epochs" not in capsys.readouterr().out


def test_folders_of_tensorboard_are_read_by_their_last_value(judged, tmp_path):
    for name, seed, score in ROWS[:16]:
        with SummaryWriter(str(tmp_path / "logs" / name / f"seed={seed}")) as writer:
            for step, value in ((1, 0.1), (2, score)):
                writer.add_scalar("test/accuracy", value, step)
    found = judged(tmp_path / "logs", "--tag", "test/accuracy", "--json")
    assert verdicts(found)["good"] == "HELPS"
    good = next(e for e in found.json["effects"] if e["contrast"]["name"] == "good")
    assert good["differences"]["0"] == pytest.approx(0.03, abs=0.01)
    missing = judged(tmp_path / "logs", "--tag", "test/acuracy")
    assert (missing.code, "There are: test/accuracy." in missing.complaint) == (2, True)


def test_folders_of_our_own_runs_are_read_too(judged, tmp_path):
    for name, seed, score in without(ROWS[:12], ("bad", 2)):
        write_run(tmp_path / "mine", name, seed, score)
    write_run(tmp_path / "mine", "bad", 2, status="diverged")
    found = judged(tmp_path / "mine", "--json")
    assert verdicts(found) == {"bad": "UNDECIDED", "good": "HELPS", "same": "UNDECIDED"}
    write_ablation(tmp_path / "ablation", tricks(clipping=0.03), seeds=3)
    found = judged(tmp_path / "ablation")
    assert (found.code, "python -m runner.report" in found.complaint) == (1, True)
    read_frames(tmp_path / "ablation").runs.to_csv(tmp_path / "runs.csv")
    assert verdicts(judged(tmp_path, "--json")) == {"clipping": "HELPS"}


# What is missing, failed or repeated


def without(rows, *gone):
    return [row for row in rows if row[:2] not in gone]


def test_seeds_that_one_side_lacks_are_left_out_and_named(judged):
    rows = without(ROWS, ("baseline", 1), ("good", 6), ("good", 7))
    found = judged(table(rows), "--json")
    good, bad, _ = found.json["effects"]
    assert [*good["differences"]] == ["0", "2", "3", "4", "5"]
    assert good["seeds"] == 5
    assert bad["seeds"] == 7
    notes = " ".join(found.json["warnings"])
    assert "as baseline lacks these seeds: good with seed 1" in notes
    assert "good lacks seeds 6, 7" in notes


def test_a_run_without_a_score_counts_against_its_variant(judged):
    lost = [(v, s, "" if v == "good" and s == 2 else x) for v, s, x in ROWS]
    found = judged(table(lost), "--json")
    assert found.json["effects"][0]["verdict"] == "UNDECIDED"
    assert "1 of 8 diverged (baseline 0 of 8)" in found.json["effects"][0]["reason"]
    assert found.code == 3
    always = [(v, s, "nan" if v == "good" else x) for v, s, x in ROWS]
    assert verdicts(judged(table(always), "--json"))["good"] == "BROKEN"
    first = [(v, s, "inf" if v == "baseline" and s == 2 else x) for v, s, x in ROWS]
    found = judged(table(first), "--json")
    assert verdicts(found)["good"] == "HELPS"
    assert found.json["effects"][0]["left_out"] == [2]


def test_what_failed_is_counted_on_the_seeds_that_both_have(judged):
    lost = [(v, s, "" if v == "good" and s in (1, 2) else x) for v, s, x in ROWS]
    rows = without(lost, ("baseline", 1), ("good", 6), ("good", 7))
    good = judged(table(rows), "--json").json["effects"][0]
    assert good["reason"].startswith("1 of 5 diverged (baseline 0 of 5)")
    assert good["left_out"] == [2]


@pytest.mark.parametrize(("status", "verdict"), [("crash", "UNDECIDED"), ("killed", "NO VERDICT")])
def test_what_the_machine_did_to_a_run_is_no_evidence(judged, status, verdict):
    rows = [(*row, status if row[:2] == ("good", 2) else "finished") for row in ROWS]
    found = judged(table(rows, ("variant", "seed", "score", "status")), "--json")
    assert verdicts(found) == {**VERDICTS, "good": verdict}
    wanted = [{"variant": "good", "seed": 2}] if status == "killed" else []
    assert found.json["next"]["runs"] == wanted


def test_a_value_of_the_status_can_be_named_a_failure(judged):
    rows = [(*row, "gone" if row[:2] == ("good", 2) else "ok") for row in ROWS]
    heads = ("variant", "seed", "score", "status")
    assert verdicts(judged(table(rows, heads), "--json"))["good"] == "HELPS"
    found = judged(table(rows, heads), "--json", "--failed", "gone")
    assert verdicts(found)["good"] == "UNDECIDED"


LOOP = """commit\tval_bpb\tmemory_gb\tstatus\tdescription
a1b2c3d\t0.997900\t44.0\tkeep\tbaseline
b2c3d4e\t0.993200\t44.2\tkeep\tincrease the "rate
c3d4e5f\t1.005000\t44.0\tdiscard\tanother activation
d4e5f6a\t0.000000\t0.0\tcrash\ttwice as wide
"""


def test_the_best_of_a_loop_is_to_be_run_afresh(judged):
    assert judged(LOOP, "--margin", "0.002").code == 2  # is less better?
    found = judged(LOOP, "--margin", "0.002", "--lower-is-better", "--json", name="results.tsv")
    assert (found.code, found.json["baseline"]) == (3, "a1b2c3d")
    assert {*verdicts(found).values()} == {"NO VERDICT"}
    runs = [(run["variant"], run["seed"]) for run in found.json["next"]["runs"]]
    assert {name for name, _ in runs} == {"a1b2c3d", "b2c3d4e"}
    assert len(runs) == 10
    assert "must not count again" in found.json["next"]["why"]


def test_too_few_common_seeds_are_filled_up(judged):
    rows = [("baseline", 0, 0.9), ("a", 0, 0.91), ("b", 0, 0.92), ("b", 1, 0.93)]
    for options in ([], ["--until", "decided"]):
        found = judged(table(rows), "--json", *options)
        assert {e["reason"] for e in found.json["effects"]} == {"one seed: no interval, no verdict"}
        runs = {(run["variant"], run["seed"]) for run in found.json["next"]["runs"]}
        assert runs == {(v, s) for v in ("baseline", "a", "b") for s in (1, 2)} - {("b", 1)}


@pytest.mark.parametrize(
    ("content", "options", "code", "message"),
    [
        ("", [], 1, "It is empty"),
        ("variant,seed,score\n", [], 1, "There are no rows"),
        (b"variant\n\xff\xfe\xfa", [], 1, "line 2: must be text in UTF-8"),
        (table([("baseline", 0, 0.9)]), [], 1, "one variant only, baseline"),
        (table([("baseline", 0, 0.9), ("a", 0, "bad")]), [], 1, "line 3, column score: must be a"),
        (table([("baseline", 0, 0.9), ("a", 0, "93 %")]), [], 1, "93.1 without the sign"),
        (table([("baseline", 0, 0.9), ("a", "", 1)]), [], 1, "line 3, column seed: must be a seed"),
        (table([("baseline", 0, 0.9), ("baseline", 0, 1)]), [], 1, "is there already, in line 2"),
        (table([("baseline", 0, 0.9, 4)]), [], 1, "line 2 has 4 cells, the head has 3"),
        (table([("baseline", 0, ""), ("a", 0, "")]), [], 1, "No run has a score"),
        ("score,score\n1,2\n", [], 1, "two columns are called 'score'"),
        ('{"variant": "a"\n', [], 1, "line 1 is no JSON"),
        ("[1, 2]", [], 1, "must be a list of records"),
        (
            table([("baseline", 0, 0.9), ("a", 0, 93)], ("variant", "seed", "accuracy")),
            *([], 1, "share in line 2 (0.9) and percent in line 3 (93)"),
        ),
        (table(), ["--samples", "7"], 1, "no multiples of 1/7"),
        (table(), ["--baseline", "bassline"], 2, "Did you mean baseline? There are: baseline, g"),
        (
            table([(f"{v}_{s}", x) for v, s, x in ROWS], ("run", "score")),
            *(["--baseline", "good"], 2, "If they end in a seed, say so: --split"),
        ),
        (table(), ["--score", "scroe"], 2, "--score: no column scroe. Did you mean score?"),
        (table(), ["--variant", "x"], 2, "There are: variant, seed, score"),
        (table(), ["--lower-is-better"], 2, "--margin: what is the smallest difference"),
        (table([(v, s, 100 * x) for v, s, x in ROWS]), [], 2, "--margin: what is the smallest"),
        (table(heads=("variant", "seed", "val_loss")), [], 2, "--higher-is-better: val_loss looks"),
        (table(heads=("a", "b", "c")), [], 2, "--score: which column is it, of"),
        (table(heads=("a", "seed", "score")), [], 2, "--variant: which column names the variant"),
        (table(), ["--margin", "nan"], 2, "--margin must be 0 or more"),
        (table(), ["--alpha", "1"], 2, "--alpha must be between 0 and 1"),
    ],
)
def test_a_mistake_is_a_line_that_can_be_followed(judged, content, options, code, message):
    found = judged(content, *options)
    assert (found.code, found.out) == (code, "")
    assert message in found.complaint
    assert found.complaint.count("\n") == 1


def test_a_missing_file_and_a_mistyped_option(judged, tmp_path):
    assert judged(tmp_path / "nothing.csv").code == 1
    assert judged(table(), "--marign", "3").code == 2


def test_rows_that_are_there_twice_count_once_and_equal_scores_are_suspicious(judged):
    rows = [(v, s, 0.9 if v == "baseline" else x) for v, s, x in ROWS]
    notes = " ".join(judged(table([*rows, rows[0]]), "--json").json["warnings"])
    assert "One row is there twice, and counts once." in notes
    assert "All runs have the same score in baseline: is the seed used there?" in notes


def test_what_looks_like_a_mistake_is_noted(judged):
    def notes(rows, *options):
        return " ".join(judged(table(rows), *options, "--json").json["warnings"])

    base = [row for row in ROWS if row[0] == "baseline"]
    same = [("copy", seed, score) for _, seed, score in base]
    assert "score is that of baseline in copy: was the change switched on" in notes(base + same)
    assert "switched on" not in notes(ROWS)
    low = max(100 * score for *_, score in ROWS)
    percent = [(v, s, 100 * x if v != "baseline" else x) for v, s, x in ROWS]
    assert f"to {low:g} (line" in notes(percent, "--margin", "0.5")
    assert "The margin, 5, is far more than any two scores differ" in notes(ROWS, "--margin", "5")


@pytest.mark.parametrize(("status", "known"), [("OOM", True), ("kept", True), ("gone", False)])
def test_a_status_that_nobody_knows_is_named(judged, status, known):
    rows = [(*row, status if row[0] != "baseline" else "done") for row in ROWS]
    found = judged(table(rows, ("variant", "seed", "score", "status")), "--json")
    notes = " ".join(found.json["warnings"])
    assert ("those whose status is gone. If it means that they failed: --failed gone" in notes) is (
        not known
    )
    assert ("HELPS" in verdicts(found).values()) is (status != "OOM")


def test_a_number_too_large_is_called_so(judged):
    found = judged(table([(v, s, x * 1e200) for v, s, x in ROWS]))
    assert (found.code, "too large a number to be judged" in found.complaint) == (1, True)


# Until decided


def test_single_runs_are_continued_in_the_same_table(judged):
    rows = [row for row in ROWS if row[1] == 0]
    then = judged(table(rows), "--until", "decided", "--json").json["next"]
    assert {run["variant"] for run in then["runs"]} == {row[0] for row in rows}
    assert "at the end of the table" in then["why"]


def test_runs_are_asked_for_until_all_is_decided(judged):
    draw = random.Random(0)
    rows, rounds = made_up(seeds=2, sd=0.004), 0
    while (found := judged(table(rows), "--until", "decided", "--json")).code == 3:
        runs = [(run["variant"], run["seed"]) for run in found.json["next"]["runs"]]
        assert runs
        assert not {*runs} & {row[:2] for row in rows}
        rows += [(name, seed, TRUE[name] + draw.gauss(0, 0.004)) for name, seed in runs]
        rounds += 1
        assert rounds < 40
    assert verdicts(found) == VERDICTS
    count = [sum(row[0] == name for row in rows) for name in TRUE]
    assert count[0] >= max(count[1:])
    assert count[1] < count[3]  # what is decided needs no more


def test_seeds_count_in_the_order_of_the_rows(judged):
    rows = [(v, 7 - s, x) for v, s, x in ROWS]
    found = judged(table(rows), "--until", "decided", "--json")
    assert found.json["seeds"] == [*range(7, -1, -1)]
    assert [*found.json["effects"][0]["differences"]] == [str(n) for n in range(7, -1, -1)]


def test_without_common_seeds_nothing_is_decided_by_looking(judged):
    rows = [(v, s + 100 * (v == "baseline"), x) for v, s, x in ROWS]
    assert verdicts(judged(table(rows), "--json")) == VERDICTS
    found = judged(table(rows), "--until", "decided", "--json")
    assert {*verdicts(found).values()} == {"NO VERDICT"}
    assert len({run["seed"] for run in found.json["next"]["runs"]}) == 5


# Unpaired


def test_unpaired_runs_are_two_groups(judged):
    rows = [(v, x) for v, s, x in ROWS if not (v == "good" and s > 3)]
    found = judged(table(rows, ("variant", "score")), "--json")
    good = found.json["effects"][0]
    assert (good["verdict"], good["unpaired"], good["seeds"]) == ("HELPS", [4, 8], 4)
    assert good["reason"].endswith("four seeds only: it assumes normal scores; 4 runs against 8")
    groups = ([x for v, x in rows if v == name] for name in ("good", "baseline"))
    t = stats.ttest_ind(*groups, equal_var=False).statistic
    assert good["p_value"] == pytest.approx(2 * stats.t.sf(t, 3), rel=1e-4)
    lower = [(v, 1 - x) for v, x in rows]
    options = ("--lower-is-better", "--margin", "0.005", "--json")
    assert verdicts(judged(table(lower, ("variant", "score")), *options)) == verdicts(found)


def test_unpaired_runs_that_fail_or_are_few(judged):
    rows = [(v, "" if v == "good" else x) for v, _, x in ROWS]
    assert verdicts(judged(table(rows, ("variant", "score")), "--json"))["good"] == "BROKEN"
    rows = [(v, "" if v == "good" and s == 2 else x) for v, s, x in ROWS]
    assert verdicts(judged(table(rows, ("variant", "score")), "--json"))["good"] == "UNDECIDED"
    rows = [(v, x) for v, s, x in ROWS if not (v == "good" and s > 1)]
    found = judged(table(rows, ("variant", "score")), "--json")
    assert verdicts(found) == {**VERDICTS, "good": "NO VERDICT"}
    assert {run["variant"] for run in found.json["next"]["runs"]} == {"baseline", "good"}


def test_equal_scores_without_a_step_are_no_certainty():
    good, bad = np.full((1, 3), 0.931234567891), np.full(3, 0.9123456789123)
    assert np.isnan(welch(good, bad, 0.005).tests.p_zero)
    counted = welch(np.full((1, 3), 0.9), np.full(3, 0.9), 0.005, step=1 / 359).tests
    assert counted.p_margin > 0.05


@pytest.mark.parametrize(("runs", "baseline"), [(3, 10), (10, 3), (5, 20)])
def test_unequal_numbers_and_spreads_keep_the_error_rate(runs, baseline):
    draw = np.random.default_rng(0)
    tricks = 3 * draw.standard_normal((4000, 10, runs))
    tests = welch(tricks, draw.standard_normal((4000, baseline)), 1.0).tests
    found = conclude(tests, 1.0, 0.05).verdict
    false = np.isin(found, (Verdict.HELPS, Verdict.HURTS)).any(1).mean()
    assert false < 0.057  # with Satterthwaite's degrees of freedom up to 0.19


# Accuracies that were written with too few digits


@pytest.mark.parametrize("samples", [359, 1797, 10_000])
def test_the_number_of_test_samples_is_found_behind_rounding(samples):
    right = np.random.default_rng(0).binomial(samples, 0.93, 30)
    for written in (
        (right / samples).astype(np.float32).astype(float),
        np.round(right / samples, 6),
        np.round(100 * right / samples, 2),
    ):
        exact, counted_on = as_counted(written.tolist())
        unit = 100 if written.max() > 1 else 1
        assert find_step(exact, "", counted_on) == pytest.approx(unit / samples)
        assert exact == pytest.approx(unit * right / samples, rel=1e-12)
    few = np.round(right[:3] / samples, 6).tolist()
    assert as_counted(few, samples)[1] == samples


def test_other_scores_stay_as_they_are():
    scores = np.random.default_rng(0).normal(0.5, 0.01, 30)
    for written in (scores, scores.astype(np.float32).astype(float), np.round(scores, 6)):
        assert as_counted(written.tolist()) == (written.tolist(), None)


# What it says of itself


def test_neither_torch_nor_hydra_is_imported(tmp_path):
    (tmp_path / "scores.csv").write_text(table())
    code = (
        "import sys; from runner.judge import main; main(sys.argv[1:])\n"
        "new = {name.split('.')[0] for name in sys.modules}\n"
        "print(new & {'torch', 'hydra', 'omegaconf', 'matplotlib', 'pandas', 'tensorboard'})"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "scores.csv")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "set()", found.stderr


def commands(text):
    """The arguments of each command of the judge in a page."""
    for line in re.findall(r"python -m runner\.judge ([^\n`#|]*)", text):
        yield shlex.split(line.replace("--margin X", "--margin 1").partition("; [")[0])


@pytest.mark.parametrize("page", ["llms.txt", "runner/guide.txt", "docs/judge.md", "README.md"])
def test_the_commands_that_pages_show_are_understood(page):
    found = [*commands((ROOT / page).read_text())]
    assert found
    for arguments in found:
        judge._parser().parse_args([a for a in arguments if a not in (">", "verdicts.json")][:9])


def test_the_guide_and_its_template(judged, capsys):
    judge.main(["--guide"])
    guide = capsys.readouterr().out
    rows = [line.strip() for line in guide.splitlines() if re.match(r"  \w+,\w+,", line)]
    found = judged("\n".join(rows) + "\n", "--json")
    assert verdicts(found) == {"mine": "UNDECIDED"}
    for option in re.findall(r"--[a-z-]+", guide):
        assert option in judge._parser().format_help(), option


def test_a_report_has_no_columns_of_what_nobody_knows(judged, tmp_path):
    page = tmp_path / "page.html"
    judged(table(), "--report", str(page))
    text = page.read_text()
    assert "Detectable</th>" in text
    assert not [word for word in ("Time</th>", "Memory</th>", "Time and memory") if word in text]


def test_frames_of_all_shapes_are_read_as_they_are_meant():
    frame = pd.DataFrame(ROWS, columns=["variant", "seed", "score"])
    number = {name: place for place, name in enumerate(TRUE)}
    expected = sorted(found.p_value for found in judge_scores(frame).effects)
    for other, baseline in (
        (frame.set_index(["variant", "seed"]), None),
        (frame.pivot(index="seed", columns="variant", values="score"), None),
        (frame.assign(variant=frame.variant.map(number)), number["baseline"]),
        (frame.astype({"variant": "category", "seed": "Int64"}), None),
    ):
        found = judge_scores(other, baseline)
        assert sorted(each.p_value for each in found.effects) == pytest.approx(expected)
    with pytest.raises(UserError, match="Two columns are called 'score'"):
        judge_scores(pd.concat([frame, frame[["score"]]], axis=1))
    with pytest.raises(UserError, match="--until must be fixed or decided, got decide"):
        judge_scores(frame, until="decide")
