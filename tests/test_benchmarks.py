"""What the comparison of tools rests on; it runs without the packages that it compares."""

import sys

import numpy as np

from benchmarks import nothing
from benchmarks.keep_if_better import changed_digits


def test_the_quick_comparison(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nothing", "--quick"])
    nothing.main()
    where_nothing_differs, _, elsewhere = capsys.readouterr().out.partition("has an effect")
    rates = {}
    for line in where_nothing_differs.splitlines():
        if line.startswith("|"):
            name, *cells = line.strip("|").split("|")
            rates[name.strip()] = [[float(x) for x in cell.split("±")] for cell in cells]
    ours = [cells for name, cells in rates.items() if "Biscuits" in name]
    assert len(ours) == 2
    assert all(rate <= 5 + 2 * error for cells in ours for rate, error in cells), rates
    assert all(rate > 45 for rate, _ in rates["keep if better, one run each"])
    assert "Biscuits" in elsewhere


def test_a_package_that_is_not_installed_is_named():
    tool = nothing.Tool("other", None, "of-others", "module_of_others")
    assert "pip install 'of-others'" in tool.missing()


def test_null_changes_of_the_digits_change_no_image_and_no_class():
    plain, changed = changed_digits(0.05, 0.8, 0, 0), changed_digits(0.05, 0.8, 3, 4)
    assert not np.array_equal(plain.train.labels, changed.train.labels)
    numbers = dict(zip(plain.test.labels.tolist(), changed.test.labels.tolist(), strict=True))
    assert sorted(numbers.values()) == list(range(10)) != list(numbers.values())
    for one, other in (plain.test, changed.test), (plain.train, changed.train):
        renamed = [(image, numbers[label]) for image, label in samples(one)]
        assert sorted(renamed) == sorted(samples(other))


def samples(split):
    return [(i.numpy().tobytes(), n.item()) for i, n in zip(*split[:2], strict=True)]
