"""The log: what an attempt wrote beyond the checkpoint is taken back, in both of its forms."""

import math

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner.log import METRICS, RunLog, read_metrics


def test_what_was_logged_beyond_the_checkpoint_is_done_again(tmp_path):
    with RunLog(tmp_path, 0) as log:
        for epoch in (1, 2, 3):
            log.write(epoch, 10 * epoch, {"train/loss": float(epoch)})
    with RunLog(tmp_path, 10) as log:  # the checkpoint was that of update 10
        for epoch in (2, 3):
            log.write(epoch, 10 * epoch, {"train/loss": 100.0 + epoch})
    expected = [(10, 1.0), (20, 102.0), (30, 103.0)]
    assert [(line["update"], line["train/loss"]) for line in read_metrics(tmp_path)] == expected
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == expected


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    with RunLog(tmp_path, 0) as log:
        log.write(1, 10, {"train/loss": 1.0})
    with open(tmp_path / METRICS, "a") as file:
        file.write('{"epoch": 2, "upda')
    assert len(read_metrics(tmp_path)) == 1
    with RunLog(tmp_path, 10) as log:
        log.write(2, 20, {"train/loss": math.nan})
    assert [line["train/loss"] for line in read_metrics(tmp_path)] == [1.0, None]
