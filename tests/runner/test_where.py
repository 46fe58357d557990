"""Where a model errs: in the report and in TensorBoard, from the predictions that runs saved."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import classification_report, confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner import tiles
from runner.ablation.find import find_loose_runs
from runner.ablation.plan import load_plan
from runner.ablation.verdicts import judge
from runner.report import answers, where, write_report
from runner.report.__main__ import main as report
from runner.report.multirun import Multirun
from runner.store.files import Damaged, read_json
from runner.store.runs import read_run
from tests.builders import tricks, write_ablation, write_files, write_run
from tests.conftest import run_in
from tests.runner.test_report import Page

EVIL = (
    "<script>alert(1)</script>",
    "|`a`|\n# b",
    "\x1b[31mred",
    "$x$ @you",
    "{{ 7 * 7 }}",
    "猫" * 300,
)


TENS = [*range(10)] * 3

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Two seeds of a real run."""
    root = tmp_path_factory.mktemp("digits")
    (root / "baseline").mkdir()
    for seed in (0, 1):
        run_in(root / f"baseline/seed={seed}", "epochs=1", f"seed={seed}", "name=digits")
    return root


def answer(folder, labels, predicted, names):
    """Write what a run answered."""
    logits = np.eye(len(names), dtype=np.float32)[np.array(predicted)] * 5
    np.savez(folder / "predictions.npz", logits=logits, labels=np.array(labels, dtype=np.int64))
    result = read_json(folder / "result.json")[0]
    write_files(folder, result={**result, "classes": list(names)})


def one(tmp_path, labels, predicted, names, variant="baseline", seed=0):
    """Write a run with these answers; give back the folder of all."""
    answer(write_run(tmp_path, variant, seed, 0.5), labels, predicted, names)
    return tmp_path


def written(root):
    """Write the reports of loose runs; give back the page, the Markdown and the content."""
    write_report(Multirun(root, list(find_loose_runs(root))))
    texts = [(root / f"report.{kind}").read_text() for kind in ("html", "md", "json")]
    return *texts[:2], json.loads(texts[2])


def test_the_numbers_of_real_runs_are_scikit_learns(digits):
    _, markdown, content = written(digits)
    found = content["per_class"][next(iter(content["per_class"]))]
    runs = [read_run(folder, "baseline").predictions() for folder in digits.glob("*/seed=*")]
    labels = np.concatenate([labels for _, labels in runs])
    predicted = np.concatenate([logits.argmax(1) for logits, _ in runs])
    assert found["confusion"] == confusion_matrix(labels, predicted).tolist()
    names = [row["name"] for row in found["classes"]]
    told = classification_report(labels, predicted, target_names=names, output_dict=True)
    for row in found["classes"]:
        theirs = told[row["name"]]
        ours = [row[key] for key in ("precision", "recall", "f1", "support")]
        theirs = [theirs[key] for key in ("precision", "recall", "f1-score", "support")]
        assert ours == pytest.approx(theirs)
    measured = [read_json(f / "result.json")[0]["test/accuracy"] for f in digits.glob("*/seed=*")]
    row = markdown.split("| 0 | ")[1].split(" |")[0]
    assert float(row) == pytest.approx(sum(labels == 0) / 2)
    assert f"accuracy {100 * np.mean(measured):.1f} %" in markdown


def test_what_is_not_known_of_a_class_is_a_dash(tmp_path):
    """Class b has no test image, and c is never predicted."""
    root = one(tmp_path, [0, 0, 2, 2], [0, 1, 0, 0], ["a", "b", "c"])
    page, markdown, content = written(root)
    by_name = {row.pop("name"): row for row in content["per_class"]["baseline"]["classes"]}
    assert by_name["b"] == {"support": 0, "recall": None, "precision": 0.0, "f1": 0.0}
    assert by_name["c"] == {"support": 2, "recall": 0.0, "precision": None, "f1": 0.0}
    assert "| b | 0 | - | 0.0 | 0.0 |" in markdown
    assert "| c | 2 | 0.0 | - | 0.0 |" in markdown
    assert "c taken for a: 100.0 % (2 of 2)" in markdown
    assert "nan" not in page.lower().partition("where it errs")[2]


def test_an_ablation_shows_the_baseline_and_what_changes_most(tmp_path):
    names, labels = ["cat", "dog", "owl"], [0] * 10 + [1] * 10 + [2] * 10
    plan = write_ablation(tmp_path, tricks(clipping=0.0, flooding=0.0), seeds=2)
    right = {"baseline": (8, 5, 10), "clipping": (7, 9, 10), "flooding": (8, 5, 10)}
    for seed, variant in plan.runs():
        last = np.repeat(right[variant], 10)  # of the ten images of a class that are right
        told = [
            c if place < n else (c + 1) % 3 for c, place, n in zip(labels, TENS, last, strict=True)
        ]
        answer(tmp_path / variant / f"seed={seed}", labels, told, names)
    write_report(judge(tmp_path, load_plan(tmp_path)))
    page = Page((tmp_path / "report.html").read_text())
    assert "baseline, 2 seeds" in page.inside("h3")
    summaries = page.inside("summary")
    assert "clipping, 2 seeds: recall of dog: +40.0, cat: -10.0 points" in summaries
    assert "flooding, 2 seeds: recall as the first one's" in summaries
    assert "dog taken for owl: 50.0 % (10 of 20)" in page.inside("li")
    counts = json.loads((tmp_path / "report.json").read_text())["per_class"]
    assert counts["clipping"]["confusion"] == [[14, 6, 0], [0, 18, 2], [0, 0, 20]]
    assert "(baseline)" in (tmp_path / "report.md").read_text()


def test_many_classes_have_a_list_and_no_matrix(tmp_path):
    names = [f"kind {number}" for number in range(21)]
    root = one(tmp_path, [*range(21)] * 2, [*range(21), *range(1, 21), 0], names)
    page, markdown, content = written(root)
    assert 'class="confusion"' not in page
    assert sum(" taken for " in line for line in Page(page).inside("li")) == where.LISTED
    assert "| kind 3 |" not in markdown
    assert len(content["per_class"]["baseline"]["confusion"]) == 21
    few = one(tmp_path / "few", [*range(20)], [*range(20)], names[:20])
    page, markdown, _ = written(few)
    assert 'class="confusion"' in page
    assert "No answer is wrong." in page
    assert "| kind 3 |" in markdown


def test_the_names_of_classes_are_text(tmp_path):
    count = len(EVIL)
    clean = one(tmp_path / "clean", [*range(count)], [1] * count, [*"abcdef"])
    dressed = one(tmp_path / "dressed", [*range(count)], [1] * count, EVIL)
    tags = [[tag for tag, _ in Page(written(root)[0]).found] for root in (clean, dressed)]
    assert tags[0] == tags[1]
    page, markdown, _ = written(dressed)
    for text in (page, markdown):
        assert all(c.isprintable() or c == "\n" for c in text)
        assert "<script>" not in text


def test_a_run_without_predictions_has_no_such_section(tmp_path, capsys):
    write_run(tmp_path, "baseline", 0, 0.5)
    page, markdown, content = written(tmp_path)
    assert "Where it errs" not in page + markdown
    assert content["per_class"] == {}
    report([str(tmp_path)])
    assert "errs" not in capsys.readouterr().out


def test_predictions_that_do_not_fit_together_are_left_out(tmp_path):
    one(tmp_path, [0, 1], [0, 0], ["a", "b"])
    one(tmp_path, [0, 1, 2], [0, 0, 1], ["a", "b", "c"], seed=1)
    infinite = one(tmp_path, [0, 1], [0, 0], ["a", "b"], seed=2) / "baseline/seed=2"
    logits = np.full((2, 2), np.nan, np.float32)
    np.savez(infinite / "predictions.npz", logits=logits, labels=np.array([0, 1]))
    content = written(tmp_path)[2]["per_class"]["baseline"]
    assert (content["seeds"], content["confusion"]) == (1, [[1, 0], [1, 0]])


def test_of_many_runs_some_are_read_and_the_page_says_so(tmp_path, monkeypatch):
    for variant in ("baseline", "x", "y"):
        for seed in range(3):
            one(tmp_path, [0, 1], [0, 0], ["a", "b"], variant, seed)
    monkeypatch.setattr(answers, "MOST_VARIANTS", 2)
    monkeypatch.setattr(answers, "MOST_SEEDS", 2)
    page, _, content = written(tmp_path)
    assert [each["seeds"] for each in content["per_class"].values()] == [2, 2]
    assert "To save time this is of 2 of 3 variants, and of 2 seeds of each at most." in page
    monkeypatch.setattr(answers, "MOST_BYTES", 1)
    assert [each["seeds"] for each in written(tmp_path)[2]["per_class"].values()] == [1, 1]


def test_the_terminal_says_of_a_single_run_where_it_errs(tmp_path, capsys):
    report([str(one(tmp_path, [0, 0, 1, 1, 2], [0, 1, 1, 1, 0], ["cat", "dog", "owl"]))])
    lines = capsys.readouterr().out.splitlines()
    first = lines.index("Where it errs, of 5 test images:")
    assert lines[first + 1 : first + 4] == [
        "  owl taken for cat: 100.0 % (1 of 1)",
        "  cat taken for dog: 50.0 % (1 of 2)",
        "  lowest recall: owl, 0.0 %",
    ]


def png(width, height, mode="RGB"):
    return tiles.encode(Image.new(mode, (width, height)))


def links_out(file):
    (file.parent / "secret.png").write_bytes(png(3, 3))
    file.symlink_to("secret.png")


HOSTILE = {
    "not a PNG": lambda file: file.write_bytes(b"<svg onload=alert(1)>"),
    "cut": lambda file: file.write_bytes(png(50, 50)[:60]),
    "of 8 million pixels": lambda file: file.write_bytes(png(2**12, 2**11, "1")),
    "another format": lambda file: Image.new("RGB", (3, 3)).save(file, "jpeg"),
    "too long": lambda file: file.write_bytes(png(3, 3) + bytes(tiles.MOST_BYTES)),
    "a link": links_out,
    "a pipe": os.mkfifo,
    "a folder": lambda file: file.mkdir(),
}


def test_a_picture_that_no_run_wrote_is_left_out_with_a_word(tmp_path):
    root = one(tmp_path, [0, 1], [0, 0], ["a", "b"])
    file = tmp_path / "baseline/seed=0/mistakes.png"
    for title, spoil in HOSTILE.items():
        spoil(file)
        page = written(root)[0]
        assert "<img" not in page, title
        assert "baseline/seed=0: mistakes.png " in page, title
        shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    with_text = png(8, 8)[:-12] + b"<script>alert(1)</script>" + png(8, 8)[-12:]
    file.write_bytes(with_text)
    page = written(root)[0]
    assert "alert" not in page


def test_only_the_pixels_of_a_picture_are_taken():
    content = png(8, 5)
    assert tiles.decode(content).size == (8, 5)
    assert tiles.encode(tiles.decode(content + b"<script>")) == content
    with pytest.raises(Damaged, match="pixels"):
        tiles.decode(png(2**12, 2**11, "L"))


def pictures(folder):
    shown = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    found = {tag: shown.Images(tag) for tag in shown.Tags()["images"]}
    return {
        tag: [(e.step, e.encoded_image_string) for e in several] for tag, several in found.items()
    }


def test_tensorboard_shows_the_mistakes_and_who_is_taken_for_whom(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "digits")
    folder = tmp_path / "digits/baseline/seed=0"
    before = pictures(folder)
    assert set(before) == {"images/mistakes", "images/confusion"}
    updates = read_json(folder / "result.json")[0]["updates"]
    assert [[step for step, _ in each] for each in before.values()] == [[updates], [updates]]
    assert before["images/mistakes"][0][1] == (folder / "mistakes.png").read_bytes()
    report([str(folder), "--rebuild-events"])
    assert pictures(folder) == before
    (folder / "mistakes.png").write_bytes(b"no picture")
    report([str(folder), "--rebuild-events"])
    assert set(pictures(folder)) == {"images/confusion"}
