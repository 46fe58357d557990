"""The log: what an attempt wrote beyond the checkpoint is taken back, in both of its forms."""

import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner.store.files import FORMAT, Damaged
from runner.run.log import RunLog
from runner.store.runs import METRICS, read_metrics


def test_what_was_logged_beyond_the_checkpoint_is_done_again(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(1, 10, {"train/loss": 1.0})
        saved = list(log.lines)  # the checkpoint was that of update 10
        for epoch in (2, 3):
            log.write(epoch, 10 * epoch, {"train/loss": float(epoch)})
    with RunLog(tmp_path, saved, 10) as log:
        for epoch in (2, 3):
            log.write(epoch, 10 * epoch, {"train/loss": 100.0 + epoch})
    expected = [(10, 1.0), (20, 102.0), (30, 103.0)]
    assert [(line["update"], line["train/loss"]) for line in read_metrics(tmp_path)] == expected
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == expected


def test_a_damaged_log_is_mended_from_the_checkpoint(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(1, 10, {"train/loss": 1.0})
    (tmp_path / METRICS).write_text("no")
    with RunLog(tmp_path, log.lines, 10):
        assert [line["train/loss"] for line in read_metrics(tmp_path)] == [1.0]


def test_a_line_cut_short_by_a_crash_is_left_out_and_one_not_finite_is_null(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(1, 10, {"train/loss": math.nan})
    with open(tmp_path / METRICS, "a") as file:
        file.write('{"epoch": 2, "upda')
    assert [line["train/loss"] for line in read_metrics(tmp_path)] == [None]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "metrics.jsonl, line 2 is damaged"),
        ("[]", "metrics.jsonl, line 2 is damaged"),
        ('{"epoch": "2", "update": 20}', "no whole number"),
        ('{"epoch": 2}', "metrics.jsonl, line 2 is damaged"),
        (json.dumps({"format": FORMAT + 1, "epoch": 2, "update": 20}), f"of format {FORMAT + 1}"),
        ("[" * 100_000, "metrics.jsonl, line 2 is damaged"),
    ],
)
def test_a_damaged_line_is_named_and_so_is_a_newer_format(tmp_path, line, words):
    with RunLog(tmp_path) as log:
        log.write(1, 10, {"train/loss": 1.0})
    with open(tmp_path / METRICS, "a") as file:
        file.write(line + "\n")
    with pytest.raises(Damaged, match=words):
        read_metrics(tmp_path)
