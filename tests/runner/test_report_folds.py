from math import nan

import pytest

from runner.report.folds import over_folds
from runner.report.rows import Row


def rows(*settings):
    names = ["+".join(f"{k}={v}" for k, v in each.items()) for each in settings]
    return [Row(n, f"baseline+{n}", [], each) for n, each in zip(names, settings, strict=True)]


@pytest.fixture(autouse=True)
def _in_one_place(monkeypatch):
    monkeypatch.setattr(Row, "place", "")


def test_folds_have_a_mean_and_no_best():
    some = rows({"data.fold": 0}, {"data.fold": 1}, {"data.fold": 2})
    found = over_folds(some, {"data.fold=0": 0.8, "data.fold=1": 0.9, "data.fold=2": nan})
    assert found == ["85.00 ± 7.07 % on the test set, mean ± standard deviation over 2 folds."]


def test_each_setting_has_its_own_folds():
    some = rows(*({"data.fold": fold, "optimizer.lr": lr} for fold in (0, 1) for lr in (0.1, 0.2)))
    found = over_folds(
        some, dict(zip((row.name for row in some), (0.5, 0.6, 0.7, 0.8), strict=True))
    )
    assert found == [
        "baseline+optimizer.lr=0.1: 60.00 ± 14.14 % on the test set, mean ± standard deviation "
        "over 2 folds.",
        "baseline+optimizer.lr=0.2: 70.00 ± 14.14 % on the test set, mean ± standard deviation "
        "over 2 folds.",
    ]


def test_rows_of_one_fold_are_no_folds():
    some = rows({"data.fold": 0, "optimizer.lr": 0.1}, {"data.fold": 0, "optimizer.lr": 0.2})
    assert over_folds(some, {row.name: 0.5 for row in some}) == []
