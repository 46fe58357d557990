"""A run: its files, going on where it stood, doing it again, and never mixing with another."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.functional import cross_entropy

from runner.build import build
from runner.cli.task import task
from runner.config import check
from runner.errors import UserError
from runner.run import checkpoint
from runner.run.attempt import attempt
from runner.run.result import finished
from runner.run.status import conclude
from runner.store.files import READABLE, read_json, write_json
from runner.store.runs import read_metrics, read_run
from runner.train import Training
from tests.builders import read_status, write_status
from tests.conftest import composed, few, few_of, settings
from tests.faults.images import make_folder

SHORT = ("epochs=3", "batch_size=256", "model.width=4")


def timeless(lines):
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def test_a_run_writes_its_files_and_the_same_config_gives_the_same_bits(do, tmp_path):
    result = do(*SHORT, "tricks=[clipping]")
    again = do(*SHORT, "tricks=[clipping]", folder="again")
    assert result == again
    assert timeless(read_metrics(tmp_path / "run")) == timeless(read_metrics(tmp_path / "again"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "config.yaml",
        "run.json",
        "status.json",
        "metrics.jsonl",
        "result.json",
        "correct.npy",
        "predictions.npz",
        "model.pt",
        "checkpoint.pt",
    } <= names
    assert "checkpoint.before.pt" not in names
    assert do(*SHORT, "seed=1", folder="seed")["weights"] != result["weights"]

    correct = np.load(tmp_path / "run" / "correct.npy")
    assert correct.mean() == pytest.approx(result["test/accuracy"])
    run = read_run(tmp_path / "run", "run")
    logits, labels = run.predictions()
    assert ((logits.argmax(1) == labels) == correct).all()
    loss = cross_entropy(torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)).item()
    assert loss == pytest.approx(result["test/loss"], rel=1e-6)
    assert run.classes() == tuple("0123456789")
    assert read_status(tmp_path / "run")["status"] == "done"


def test_a_run_begins_with_a_line_of_what_it_does_but_for_a_sweep(do, tmp_path, capsys):
    given = settings("epochs=1", "batch_size=256", "model.width=3", "tricks=[clipping,flooding]")
    folder = tmp_path / "r\x1b[31m"
    folder.mkdir()
    count = sum(p.numel() for p in build(given).training.model.parameters())
    for end in ("", "  resuming at update 6 of 6"):
        attempt(folder, given, build(given), quiet=False)
        first = capsys.readouterr().out.splitlines()[0]
        assert first == (
            f"cifar_resnet(depth=8, width=3) ({count:,} parameters), digits: 1,294 train / "
            "144 validation / 359 test images of 1 x 8 x 8, cpu, 1 thread, contiguous, "
            "tricks: flooding, clipping -> "
            rf"{tmp_path}/r\x1b[31m{end}"
        )
        (folder / "result.json").unlink()
    do("epochs=1", "batch_size=2000", "model.width=2", "data.validation=0")
    assert capsys.readouterr().out == ""


def test_a_run_tells_what_its_numbers_leave_out(tmp_path, capsys):
    make_folder(tmp_path / "images")
    (tmp_path / "images/test/dog/y.png").unlink()
    given = settings(
        *("data=image_folder", f"data.root='{tmp_path}/images'", f"data.cache='{tmp_path}'"),
        *("data.validation=0", "epochs=1"),
    )
    (tmp_path / "run").mkdir()
    attempt(tmp_path / "run", given, build(given), quiet=True)
    note = "note: the test split has no images of dog: the test accuracy is over 1 of 2 classes\n"
    assert note in capsys.readouterr().out


def test_tensorboard_shows_what_metrics_jsonl_holds(do, tmp_path):
    do(*SHORT, "tricks=[flooding]", "tricks.flooding.level=2.0")
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0}).Reload()
    lines = read_metrics(tmp_path / "run")
    assert len(lines) == 3
    for key in (
        "train/loss",
        "validation/accuracy",
        "tricks/flooding/flooded_share",
        "time/seconds",
    ):
        shown = [(event.step, event.value) for event in events.Scalars(key)]
        assert shown == [(line["update"], pytest.approx(line[key])) for line in lines], key
    assert len(events.Scalars("test/shift_consistency")) == 1
    assert lines[-1]["train/transformed_loss"] > lines[-1]["train/loss"]


def test_a_finished_run_tells_its_result_and_another_config_is_refused_with_what_differs(
    do, tmp_path
):
    result = do(*SHORT)
    stored = finished(tmp_path / "run", settings(*SHORT))
    assert {k: v for k, v in stored.items() if k != "format"} == result
    with pytest.raises(UserError, match=r"epochs is 3, not 4.*name=NAME.*remove that folder"):
        finished(tmp_path / "run", settings(*SHORT[1:], "epochs=4"))


def test_again_does_a_finished_run_over(do, tmp_path):
    first = do(*SHORT)
    (tmp_path / "run" / "mine.txt").write_text("a file of the user's")
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    assert do(*SHORT, "again=true") == first
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns > before
    assert (tmp_path / "run" / "mine.txt").exists()
    assert len(read_metrics(tmp_path / "run")) == 3


def test_the_saved_config_is_resolved_and_gives_the_same_settings(do, tmp_path):
    do(*SHORT, "tricks=[clipping]")
    saved = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert "${" not in (tmp_path / "run" / "config.yaml").read_text()
    assert check(saved) == settings(*SHORT, "tricks=[clipping]")


def test_a_run_that_diverges_says_where_and_keeps_its_last_good_checkpoint(
    do, tmp_path, monkeypatch
):
    monkeypatch.setattr("runner.run.course.WORTH", 0)  # a checkpoint after each epoch
    with pytest.raises(
        UserError, match=r"the loss is not finite .* at update 1; there is no check"
    ):
        do(*SHORT, "optimizer.lr=1e30", "scheduler=constant", folder="at once")
    rises = ("scheduler=step", "scheduler.gamma=1e20", "scheduler.milestones=[0.8]")
    with pytest.raises(UserError, match=r"diverged: the loss is not finite \(nan\) at update \d+"):
        do(*SHORT, *rises)
    status = read_status(tmp_path / "run")
    assert status["status"] == "diverged"
    assert status["error"].endswith("the last good checkpoint is from update 12")
    state = checkpoint.load(tmp_path / "run")["training"]
    assert state["updates"] == status["checkpoint"] == 12 < status["update"]
    assert all(value.isfinite().all() for value in state["model"].values())
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("overrides", "advice"),
    [
        ((), "Lower optimizer.lr, or clip the gradients with 'tricks=[clipping]', or skip such"),
        (("tricks=[clipping]",), "Lower optimizer.lr, or skip such updates with not_finite=skip."),
    ],
)
def test_the_advice_after_divergence_leaves_out_what_is_on(do, overrides, advice):
    with pytest.raises(UserError) as diverged:
        do(*SHORT, "optimizer.lr=1e30", "scheduler=constant", *overrides)
    assert advice in str(diverged.value)


CAUSES = {
    AssertionError("Wrong image height!"): "exception",
    KeyError("logits"): "exception",
    MemoryError(): "machine",
    RuntimeError("DefaultCPUAllocator: can't allocate memory"): "machine",
    torch.OutOfMemoryError("CUDA out of memory."): "machine",
    OSError(errno.ENOSPC, "No space left on device"): "machine",
    FileNotFoundError(errno.ENOENT, "No such file"): "machine",
    RuntimeError("DataLoader worker (pid 3) is killed"): "machine",
    RuntimeError("sizes must match"): "exception",
}


@pytest.mark.parametrize(("error", "cause"), few_of(CAUSES, [*CAUSES][1::2]))
def test_whatever_a_run_raises_is_one_line_and_its_cause_is_recorded(
    do, tmp_path, monkeypatch, error, cause
):
    monkeypatch.setattr(Training, "step", lambda *_: raises(error))
    with pytest.raises(UserError, match=r"status.json has the traceback") as told:
        do(*SHORT)
    assert "\n" not in str(told.value)
    assert type(error).__name__ in str(told.value) or str(error) in str(told.value)
    run = read_run(tmp_path / "run", "run")
    assert (run.state, run.cause) == ("failed", cause)
    assert "Traceback" in run.status["error"]


def raises(error):
    raise error


def test_an_older_status_has_no_cause(tmp_path):
    write_status(tmp_path, "failed", error="x")
    assert read_run(tmp_path, "x").cause is None


def test_a_run_whose_last_update_spoils_the_weights_has_diverged(do, tmp_path):
    with pytest.raises(UserError, match=r"diverged: the test loss is not finite"):
        do(
            "epochs=1",
            "batch_size=2000",
            "optimizer.lr=1e30",
            "scheduler=constant",
            "data.validation=0",
        )
    assert read_status(tmp_path / "run")["status"] == "diverged"


def test_an_evaluation_after_nothing_but_skipped_updates_is_told_too(tmp_path, capsys):
    given = settings("epochs=2", "batch_size=256", "optimizer.lr=1e30", "not_finite=skip")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="diverged"):
        attempt(tmp_path / "run", given, build(given), quiet=False)
    assert "epoch 2/2" in capsys.readouterr().out


def test_again_mends_a_damaged_result_and_a_status_is_put_right(do, tmp_path, monkeypatch):
    result = do(*SHORT)
    place = tmp_path / "run"
    with open(place / "result.json", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"result.json is damaged"):
        do(*SHORT)
    assert do(*SHORT, "again=true") == result
    conclude(place, "done")
    write_status(place, "running")  # killed just after the result
    cfg = composed("threads=1", "memory_format=contiguous", *SHORT)
    OmegaConf.resolve(cfg)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra_of(place))
    task(cfg)
    assert read_status(place)["status"] == "done"


def hydra_of(place):
    return OmegaConf.create(
        {"runtime": {"output_dir": str(place)}, "mode": None, "overrides": {"task": []}}
    )


NO_RESULTS = [{}, {"test/accuracy": "x"}, {"test/accuracy": 1.0, "test/loss": 1, "inactive": []}]


@pytest.mark.parametrize("content", few(NO_RESULTS, NO_RESULTS[-1:]), ids=str)
def test_what_is_no_result_is_refused_in_one_line(do, tmp_path, content):
    do(*SHORT)
    write_json(tmp_path / "run" / "result.json", content)
    with pytest.raises(UserError, match=r"result.json is not the result of a run"):
        do(*SHORT)


ODD = [{"attempts": "x"}, {"seconds": "x"}, {"checkpoint": [1]}]


@pytest.mark.parametrize("odd", few(ODD, ODD[:1]), ids=str)
def test_an_odd_status_is_rewritten(do, tmp_path, odd):
    do(*SHORT)
    (tmp_path / "run" / "result.json").unlink()
    write_status(tmp_path / "run", "stopped", **odd)
    do(*SHORT)
    assert read_status(tmp_path / "run")["attempts"] == 1


def test_again_never_wipes_a_run_of_another_config(do, tmp_path):
    do(*SHORT)
    before = {path.name for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError, match=r"epochs is 3, not 4"):
        do(*SHORT[1:], "epochs=4", "again=true")
    assert {path.name for path in (tmp_path / "run").iterdir()} == before


def test_a_trick_that_changed_nothing_is_marked_inactive(do):
    result = do(
        *SHORT,
        "tricks=[clipping,flooding]",
        "tricks.clipping.max_norm=1e6",
        "tricks.flooding.level=1e-6",
    )
    assert result["inactive"] == ["flooding", "clipping"]
    assert (
        do(*SHORT, "tricks=[clipping]", "tricks.clipping.max_norm=0.5", folder="b")["inactive"]
        == []
    )


def test_a_training_that_ends_within_a_cycle_says_so_and_names_lengths_that_would_not(do, capsys):
    do(*SHORT, "tricks=[warm_restarts]", "tricks.warm_restarts.T_0=1.0")
    assert "note" not in capsys.readouterr().out  # 1 + 2 epochs
    do(*SHORT, "tricks=[warm_restarts]", "tricks.warm_restarts.T_0=2.0", folder="other")
    told = capsys.readouterr().out
    assert "warm_restarts: training ends within a cycle, after 3 epochs" in told
    assert "cycles end after 2 and 6." in told


def test_two_processes_cannot_share_a_folder(do, tmp_path):
    (tmp_path / "run").mkdir()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from filelock import FileLock\n"
            "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)",
            str(tmp_path / "run" / ".lock"),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="is locked by another process"):
            do(*SHORT)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert do(*SHORT)["updates"] > 0  # the lock died with its owner


def test_a_json_file_has_a_line_for_each_value_until_nobody_would_read_it(tmp_path):
    file = tmp_path / "report.json"
    for count, lines in ((1, 5), (READABLE, 1)):
        content = {"text": "x" * count}
        write_json(file, content)
        assert read_json(file)[0] == {"format": 1, **content}
        assert len(file.read_text().splitlines()) == lines
