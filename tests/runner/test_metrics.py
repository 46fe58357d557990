"""Metrics by name: by hand, by another library, and what no run could measure in one line."""

import numpy as np
import pytest
import torch

from runner import allowed
from runner.build import build
from runner.errors import UserError
from runner.metrics import check_metrics, measure, refuse_unmeasurable, top_accuracy
from runner.run.result import summary
from runner.store.runs import read_metrics, read_run
from tests.conftest import run_in, settings

OURS = ("balanced_accuracy", "macro_f1", "top2_accuracy", "top3_accuracy", "calibration_error")


def drawn(samples=500, classes=6, seed=0):
    """Logits that are right more often than not, and labels of unequal classes, each there."""
    random = np.random.default_rng(seed)
    labels = np.concatenate(
        [np.arange(classes), random.geometric(0.4, samples).clip(max=classes) - 1]
    )
    logits = random.standard_normal((len(labels), classes)) * 2
    logits[np.arange(len(labels)), labels] += 1.5
    return logits.astype(np.float32), labels


def test_the_metrics_are_those_of_torchmetrics():
    from torchmetrics.functional import classification as theirs  # takes two seconds

    logits, labels = drawn()
    found = measure(OURS, logits, labels)
    scores, targets = torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)
    wanted = {
        "balanced_accuracy": theirs.multiclass_recall(scores, targets, 6, average="macro"),
        "macro_f1": theirs.multiclass_f1_score(scores, targets, 6, average="macro"),
        "top2_accuracy": theirs.multiclass_accuracy(scores, targets, 6, "micro", top_k=2),
        "top3_accuracy": theirs.multiclass_accuracy(scores, targets, 6, "micro", top_k=3),
        "calibration_error": theirs.multiclass_calibration_error(scores, targets, 6, n_bins=15),
    }
    float32 = {name: pytest.approx(value.item(), abs=2e-7) for name, value in wanted.items()}
    assert found == float32
    assert 0.05 < found["calibration_error"] < found["top2_accuracy"] < found["top3_accuracy"] < 1


def test_the_metrics_by_hand():
    labels = np.array([0, 0, 0, 1])  # none of class 2, which is predicted once
    logits = np.eye(3, dtype=np.float32)[[0, 0, 2, 1]]
    found = measure(["balanced_accuracy", "macro_f1"], logits, labels)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 1 + 0) / 3)
    # three samples of confidence 0.8, two of them right, and one of 0.5, wrong
    shares = np.array([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.5, 0.5]])
    found = measure(["calibration_error"], np.log(shares), np.array([0, 0, 0, 1]))
    assert found["calibration_error"] == pytest.approx((abs(2 - 2.4) + 0.5) / 4)
    # 1/3 is the upper end of a bin, in which 0.3 is too: one of two is right
    logits = np.array([[0, 0, 0, -1000], np.log([0.3, 0.25, 0.25, 0.2])])
    found = measure(["calibration_error"], logits, np.array([0, 3]))
    assert found["calibration_error"] == pytest.approx(abs(1 - 1 / 3 - 0.3) / 2)
    sure = np.array([[1000.0, 0.0], [0.0, -np.inf]], np.float32)
    assert measure(["calibration_error"], sure, np.array([0, 0])) == {"calibration_error": 0}
    assert measure(["calibration_error"], sure, np.array([1, 0])) == {"calibration_error": 0.5}


def test_of_equal_logits_the_first_counts_as_argmax_has_it():
    logits = np.zeros((4, 4), np.float32)
    assert [top_accuracy(logits, np.arange(4), k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1]
    logits, labels = drawn()
    assert top_accuracy(logits, labels, 1) == (logits.argmax(1) == labels).mean()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Functions of the user's own, in a file beside."""
    (tmp_path / "mine_metrics.py").write_text(
        "import torch\n"
        "def worst_class(logits, labels):\n"
        "    assert (logits.dtype, labels.dtype) == (torch.float32, torch.int64)\n"
        "    torch.rand(3), logits.zero_()\n"
        "    right = logits.argmax(1) == labels\n"
        "    return min(right[labels == c].double().mean() for c in labels.unique())\n"
        "def macro_f1(logits, labels): return 1\n"
        "def one(logits): return 1\n"
        "def text(logits, labels): return 'much'\n"
        "def fails(logits, labels): raise KeyError('no such class')\n"
        "def undefined(logits, labels): return float('nan')\n"
        "def of_many(logits, labels): return 1 if len(labels) > 200 else float('nan')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = ("worst_class", "macro_f1", "one", "text", "fails", "undefined", "gone", "of_many")
    monkeypatch.setattr(allowed, "USERS", frozenset(f"mine_metrics.{name}" for name in names))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["macro_f"], r"macro_f is unknown. Did you mean macro_f1\? There are: balanced_accuracy"),
        (["top1_accuracy"], "top1_accuracy is unknown. accuracy, loss and shift_consistency are"),
        (["top10_accuracy"], "top10_accuracy is 1 for 10 classes.* Take top9_accuracy at most"),
        (["macro_f1", "macro_f1"], "metrics names macro_f1 twice"),
        (["os.getcwd"], r"metrics\[0\] must be built in, got os.getcwd. If you trust it, "),
        (["mine_metrics.macro_f1"], "would be called macro_f1 in the results, which is the name"),
        (["mine_metrics.gone"], "has no attribute 'gone'. Correct the name."),
        (["mine_metrics.one"], r"mine_metrics.one must be a function of \(logits, labels\)"),
        (["mine_metrics.text"], "mine_metrics.text failed: could not convert string to float"),
        (["mine_metrics.fails"], r"mine_metrics.fails failed: .*no such class.* \(mine_metrics.py"),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_cannot_be_measured_is_refused_before_training(names, told):
    def try_all():
        check_metrics(names)
        refuse_unmeasurable(names, np.arange(5000) // 500, 10)

    with pytest.raises(UserError, match=told):
        try_all()


@pytest.mark.parametrize(
    ("name", "told"),
    [("mine_metrics.gone", "must be importable"), ("top10_accuracy", "is 1 for 10 classes")],
)
@pytest.mark.usefixtures("own")
def test_a_run_refuses_it_too(name, told):
    with pytest.raises(UserError, match=told):
        build(settings(f"metrics=[{name}]"))


@pytest.mark.usefixtures("own")
def test_a_function_of_ones_own_changes_neither_the_logits_nor_random_numbers():
    logits, labels = drawn()
    before, state = logits.copy(), torch.get_rng_state()
    found = measure(["mine_metrics.worst_class"], logits, labels)
    assert found == {"worst_class": 0.0}  # it made its logits zero: all are of class 0
    assert (logits == before).all()
    assert (torch.get_rng_state() == state).all()


SHORT = ("epochs=1", "batch_size=500", "model.width=2")


@pytest.mark.usefixtures("own")
def test_what_is_asked_for_is_measured_at_each_evaluation_and_at_the_end(do, tmp_path):
    asked = ("balanced_accuracy", "top3_accuracy", "calibration_error", "mine_metrics.worst_class")
    plain = do(*SHORT, folder="plain")
    found = do(*SHORT, f"metrics=[{','.join(asked)}]")
    names = [*asked[:3], "worst_class"]
    more = {f"{split}/{name}" for split in ("test", "validation") for name in names}
    assert set(found) - set(plain) == more
    assert {key: found[key] for key in plain if key != "digests"} == {
        key: value for key, value in plain.items() if key != "digests"
    }
    (line,) = read_metrics(tmp_path / "run")
    measured = measure(asked, *read_run(tmp_path / "run", "").predictions())
    for name in names:
        assert found[f"test/{name}"] == measured[name]
        assert found[f"validation/{name}"] == line[f"validation/{name}"]
    assert "top3 accuracy" in summary(found)


@pytest.mark.usefixtures("own")
def test_a_number_that_is_not_finite_is_told_with_its_metric(tmp_path):
    with pytest.raises(UserError, match="metrics: undefined is nan on the test split"):
        run_in(tmp_path / "run", *SHORT, "metrics=[mine_metrics.undefined]")
    assert read_metrics(tmp_path / "run")[-1]["validation/undefined"] is None
    assert not (tmp_path / "run/result.json").exists()


@pytest.mark.usefixtures("own")
def test_one_that_is_not_known_on_the_validation_split_alone_is_null_in_the_result(do, tmp_path):
    found = do(*SHORT, "metrics=[mine_metrics.of_many]")  # that split has 144 images
    assert (found["test/of_many"], found["validation/of_many"]) == (1.0, None)
    assert read_run(tmp_path / "run", "").result["validation/of_many"] is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_measure_nothing(value):
    logits, labels = drawn()
    logits[3, 2] = value
    assert all(np.isnan(value) for value in measure(OURS, logits, labels).values())


def test_names_that_are_known_pass():
    check_metrics([*OURS, "top1000_accuracy"])
