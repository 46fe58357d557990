"""Doing a run again: every bit is compared, the folder only read, and nothing in it executed."""

import json
import os
import shutil
import sys
import tempfile
from importlib.metadata import version

import numpy as np
import pytest
import torch

from runner.build import build
from runner.run import checkpoint, fingerprint
from runner.run.attempt import attempt
from runner.run.course import Course
from runner.store.answers import digest_answers, digest_predictions, read_predictions
from runner.store.files import write_json
from runner.store.runs import digest_metrics, read_metrics
from runner.train import Diverged
from runner.verify import main
from tests.conftest import few, few_of, settings

SHORT = ("epochs=2", "batch_size=256", "model.width=4")


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A run that is done."""
    place = tmp_path_factory.mktemp("once")
    given = settings(*SHORT, "tricks=[clipping]")
    attempt(place, given, build(given), quiet=True)
    return place


@pytest.fixture
def folder(once, tmp_path, monkeypatch):
    """A copy of it; what is temporary has a folder of its own, empty before and after."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield shutil.copytree(once, tmp_path / "run")
    assert list((tmp_path / "temporary").iterdir()) == []


def refusal(*folders):
    """What the command exits with: all of it on the standard error, and 1."""
    with pytest.raises(SystemExit) as exit_:
        main([str(folder) for folder in folders])
    return str(exit_.value)


def contents(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in (folder, *folder.rglob("*"))
    }


def change_json(path, **values):
    """Change a file as one who knows of checksums does, or as a run that came out otherwise."""
    content = {**json.loads(path.read_text()), **values}
    write_json(path, {k: v for k, v in content.items() if k != "checksum"})


def seal(folder):
    """Make the digests those of what is there."""
    change_json(
        folder / "result.json",
        digests={
            "metrics.jsonl": digest_metrics(read_metrics(folder)),
            "correct.npy": digest_answers(np.load(folder / "correct.npy")),
            "predictions.npz": digest_predictions(*read_predictions(folder / "predictions.npz")),
        },
    )


def change_line(path, number, **values):
    lines = path.read_text().splitlines()
    lines[number] = json.dumps({**json.loads(lines[number]), **values})
    path.write_text("\n".join(lines) + "\n")
    seal(path.parent)


def test_a_run_done_again_is_bit_identical_and_its_folder_is_only_read(folder, capsys):
    before = contents(folder)
    main([str(folder)])
    assert contents(folder) == before
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    keys = [key for line in lines for key in line if key != "format"]
    numbers = sum(not key.startswith("time/") for key in keys) + len(result) - 6
    answers = len(np.load(folder / "correct.npy"))
    assert capsys.readouterr().out == (
        f"{folder} is bit-identical: {numbers} numbers, weights, {answers} answers, "
        f"{10 * answers:,} logits\n"
    )


def test_time_is_not_compared(folder, capsys):
    change_line(folder / "metrics.jsonl", 0, **{"time/seconds": 1e6})
    main([str(folder)])
    assert "is bit-identical" in capsys.readouterr().out


def test_a_digit_of_an_evaluation_is_noticed_with_its_line_and_that_nothing_else_changed(
    folder, monkeypatch
):
    monkeypatch.setattr(fingerprint, "_commit", lambda: "abc")
    change_json(folder / "run.json", code={"commit": "abc", "version": version("biscuits-bench")})
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[1])
    digit = float(np.nextafter(line["train/loss"], 9))
    change_line(folder / "metrics.jsonl", 1, **{"train/loss": digit})
    change_json(folder / "result.json", updates=1)  # later in the run: not what differs first
    first, *rest = refusal(folder).splitlines()
    assert first == (
        f"{folder} differs: metrics.jsonl, line 2 (epoch 2, update {line['update']}): "
        f"train/loss was {digit!r}, is now {line['train/loss']!r}"
    )
    (why,) = rest
    assert why.startswith("  changed: nothing that run.json records: a file was edited, or")


def test_code_that_was_not_as_its_commit_has_it_may_be_why(folder, monkeypatch):
    monkeypatch.setattr(fingerprint, "_commit", lambda: "abc+")
    change_json(folder / "run.json", code={"commit": "abc+", "version": version("biscuits-bench")})
    change_json(folder / "result.json", updates=1)
    told = "perhaps the code: it had uncommitted changes when the run was made"
    assert refusal(folder).splitlines()[1:] == [f"  changed: {told}"]


ODD = {
    ("train/skipped", -0.0): "train/skipped was -0.0, is now 0",
    ("extra", 1): "extra was 1, is now not there",
    ("train/loss", None): "train/loss was null, is now ",
}


@pytest.mark.parametrize(("change", "told"), few_of(ODD, [("train/skipped", -0.0), ("extra", 1)]))
def test_equal_is_to_the_bit(folder, change, told):
    change_line(folder / "metrics.jsonl", 0, **dict([change]))
    assert f"line 1 (epoch 1, update 6): {told}" in refusal(folder)


def test_an_evaluation_too_few_or_too_many_is_noticed(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    for number in (1, 3):
        (folder / "metrics.jsonl").write_text("".join([*lines, lines[1]][:number]))
        seal(folder)
        assert f"metrics.jsonl has {number} evaluations, now 2" in refusal(folder)


OTHER = {"weights": "0" * 64, "test/loss": 0.5, "inactive": ["clipping"]}


@pytest.mark.parametrize(("key", "value"), few_of(OTHER, ("weights", "inactive")))
def test_a_change_of_the_result_is_noticed(folder, key, value):
    true = json.loads((folder / "result.json").read_text())[key]
    change_json(folder / "result.json", **{key: value})
    told = f"result.json: {key} was {json.dumps(value)}, is now {json.dumps(true)}"
    assert told in refusal(folder)


def test_a_flipped_answer_is_noticed(folder):
    answers = np.load(folder / "correct.npy")
    answers[[7, 9]] ^= True
    np.save(folder / "correct.npy", answers)
    seal(folder)
    was, now = ("right", "wrong") if answers[7] else ("wrong", "right")
    told = f"test sample 7 was {was}, is now {now} (2 of {len(answers)} differ)"
    assert f"correct.npy: {told}" in refusal(folder)
    np.save(folder / "correct.npy", answers[:5])
    seal(folder)
    assert f"correct.npy has 5 answers, now {len(answers)}" in refusal(folder)


def test_a_bit_of_a_logit_is_noticed_with_its_sample_and_class(folder):
    with np.load(folder / "predictions.npz") as saved:
        logits, labels = saved["logits"], saved["labels"]
    true = logits[7, 3]
    logits[[7, 9], 3] = np.nextafter(true, np.float32(9)), 0.0
    np.savez(folder / "predictions.npz", logits=logits, labels=labels)
    assert f"{folder} is damaged: predictions.npz is damaged or not there" in refusal(folder)
    seal(folder)
    told = f"the logit of test sample 7 for class 3 was {logits[7, 3]}, is now {true}"
    assert f"predictions.npz: {told} (2 of 3,590 differ)" in refusal(folder)
    np.savez(folder / "predictions.npz", logits=logits[:, :9], labels=labels.clip(max=8))
    seal(folder)
    assert "predictions.npz has logits [359, 9], now [359, 10]" in refusal(folder)


def test_what_has_changed_since_is_named_where_it_may_be_why(folder):
    change_json(folder / "result.json", weights="0")
    machine = json.loads((folder / "run.json").read_text())
    machine["libraries"]["torch"] = "1.0"
    changed = {"threads": 7, "processor": "another", "data": "f" * 16}
    change_json(folder / "run.json", libraries=machine["libraries"], **changed)
    told = refusal(folder)
    assert "the number of threads, a part of config.yaml, was 7, is now 1\n" in told
    assert "processor was another, is now " in told
    assert f"  changed: torch was 1.0, is now {version('torch')}\n" in told
    assert "the hash of the images and labels was ffffffffffffffff, is now " in told
    assert "python was" not in told
    assert "the hash of config.yaml" not in told


def test_the_data_of_an_older_run_are_known_from_its_checkpoint(folder):
    change_json(folder / "result.json", weights="0")
    machine = json.loads((folder / "run.json").read_text())
    del machine["data"], machine["checksum"]
    write_json(folder / "run.json", machine)
    state = checkpoint.load(folder)
    assert "hash of the images" not in refusal(folder)
    state["made_with"]["data"] = "f" * 64
    checkpoint.save(folder, state)
    assert "the hash of the images and labels was ffffffffffffffff, is now " in refusal(folder)


def test_a_config_that_was_edited_is_named_as_the_reason(folder):
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    told = refusal(folder)
    assert "differs: metrics.jsonl, line 1" in told
    assert "the hash of config.yaml (edited since" in told
    assert "edited since" in told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("_target_: runner.data.digits", "_target_: os.system", "data._target_ must be of"),
        ("_target_: runner.data.digits", "_target_: evil.boom", "data._target_ must be of"),
        ("seed: 0", "seed: ${oc.env:SECRET,0}", "must be resolved, got ${"),
        ("seed: 0", "seed: !!python/object/apply:os.mkdir [evil]", "must have no tags"),
        ("seed: 0", "seed: 0\nhydra: {run: {dir: evil}}", "hydra is not a setting"),
        ("seed: 0", "seed: 0\ndefaults: [evil]", "defaults is not a setting"),
        ("data:\n", "data:\n  _args_: [evil]\n", 'data must have plain keys, got "_args_"'),
        ("seed: 0\n", "seed: [\n", "must be YAML in UTF-8"),
        ("seed: 0", 'seed: "\\x24{oc.env:SECRET,0}"', "must be resolved, got ${"),
    ],
)
def test_nothing_in_a_config_is_followed_or_executed(folder, tmp_path, monkeypatch, old, new, told):
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('evil').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = (folder / "config.yaml").read_text()
    assert old in text
    (folder / "config.yaml").write_text(text.replace(old, new, 1))
    refused = refusal(folder)
    assert told in refused
    assert refused.startswith("run/config.yaml")
    assert len(refused.splitlines()) == 1
    assert not (tmp_path / "evil").exists()
    assert "evil" not in sys.modules


def test_an_empty_config_or_a_list_is_refused(folder):
    for text, told in (("", "is damaged"), ("[1, 2]", "is damaged (not a mapping)")):
        (folder / "config.yaml").write_text(text)
        assert told in refusal(folder)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda f: (f / "config.yaml").unlink(),
            "is not the folder of a run: it has no config.yaml",
        ),
        (lambda f: (f / "result.json").write_text("{"), "is damaged: result.json"),
        (
            lambda f: (f / "metrics.jsonl").write_text("x\n"),
            "metrics.jsonl, line 1 is damaged",
        ),
        (
            lambda f: (f / "metrics.jsonl").write_text("[1]\n"),
            "metrics.jsonl, line 1 is damaged",
        ),
        (lambda f: (f / "correct.npy").write_bytes(b"x"), "is damaged: correct.npy is damaged"),
        (lambda f: (f / "correct.npy").unlink(), "is damaged: correct.npy is damaged or not there"),
        (lambda f: (f / "predictions.npz").unlink(), "predictions.npz is damaged or not there"),
        (
            lambda f: change_json(f / "result.json", format=99),
            "is damaged: result.json is of format 99",
        ),
        (lambda f: change_json(f / "run.json", format=99), "is damaged: run.json is of format 99"),
        (lambda f: (f / "run.json").unlink(), "is damaged: run.json is not there"),
        (lambda f: (f / "run.json").write_text('{"a":' * 900 + "1" + "}" * 900), "nested deeper"),
        (lambda f: (f / "status.json").unlink(), "is damaged: status.json is not there"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(folder, spoil, told):
    spoil(folder)
    refused = refusal(folder)
    assert told in refused
    assert len(refused.splitlines()) == 1


@pytest.mark.parametrize("state", ["running", "stopped", "failed", "diverged", None])
def test_a_run_that_is_not_done_is_refused(folder, state):
    (folder / "result.json").unlink()
    if state:
        change_json(folder / "status.json", status=state)
    else:
        (folder / "status.json").unlink()
    told = state or "its status is unknown"
    assert f"{folder} is not done ({told}). Finish it" in refusal(folder)


@pytest.mark.parametrize("way", ["given", "auto"])
def test_a_device_that_is_not_here_is_named(folder, way):
    if way == "given":
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("device: auto", "device: cuda:99"))
    else:  # it was chosen where there was one
        change_json(folder / "run.json", device="cuda:99")
    assert f"{folder} was made on cuda:99, which is not here" in refusal(folder)


def test_a_run_that_fails_now_differs_and_data_that_is_gone_is_said(folder, monkeypatch):
    def diverge(*_):
        raise Diverged("the loss is not finite")

    with monkeypatch.context() as patched:
        patched.setattr(Course, "epoch", diverge)
        told = refusal(folder)
    assert f"{folder} differs: it fails now: the loss is not finite\n" in told
    assert str(tempfile.tempdir) not in told

    text = (folder / "config.yaml").read_text().replace("  test: null\n", "")
    npz = "_target_: runner.data.npz\n  file: nowhere.npz"
    (folder / "config.yaml").write_text(text.replace("_target_: runner.data.digits", npz))
    assert f"{folder} cannot be done again: data.file: " in refusal(folder)


def test_stopping_it_leaves_nothing_behind_and_says_nothing_of_a_folder(
    folder, monkeypatch, capsys
):
    real, done = Course.epoch, []

    def interrupted(*arguments):
        if done:
            assert os.listdir(tempfile.tempdir)
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments)

    before = contents(folder)
    monkeypatch.setattr(Course, "epoch", interrupted)
    with pytest.raises(SystemExit) as exit_:
        main([str(folder)])
    assert exit_.value.code == 130
    assert os.listdir(tempfile.tempdir) == []
    assert capsys.readouterr().out == ""
    assert contents(folder) == before


def test_of_several_runs_each_is_told(folder, tmp_path, capsys):
    told = refusal(folder, tmp_path / "none", folder)
    assert told.splitlines() == [
        f"{tmp_path / 'none'} is not the folder of a run: it has no config.yaml. "
        "Expected a folder such as outputs/NAME/VARIANT/seed=0."
    ]
    assert capsys.readouterr().out.count(f"{folder} is bit-identical") == 2


def test_a_move_is_told_and_a_commit_is_not_where_the_code_is_the_same(folder):
    change_json(folder / "result.json", weights="0")
    machine = json.loads((folder / "run.json").read_text())
    code = {**machine["code"], "commit": "another", "version": "0"}
    moves = ["from update 6: processor was A, is B", "x"]
    change_json(folder / "run.json", moves=moves, code=code)
    assert refusal(folder).splitlines()[1:] == [
        "  changed: it was resumed elsewhere: from update 6: processor was A, is B",
        "  changed: it was resumed elsewhere: x",
    ]
    code = {**code, "digest": "0" * 16, "own": "1" * 16}
    change_json(folder / "run.json", moves=7, code=code)
    told = refusal(folder)
    assert "  changed: the hash of the code that trains was 0000000000000000, is now " in told
    assert "  changed: the hash of your own classes was 1111111111111111, is now None" in told
    assert "  changed: the commit of the code was another, is now " in told
    assert "elsewhere" not in told


REAL = {
    "the number of threads, a part of config.yaml, was 1, is now 2": ("threads: 1", "threads: 2"),
    "the memory format, a part of config.yaml, was contiguous, is now channels_last": (
        "memory_format: contiguous",
        "memory_format: channels_last",
    ),
    "the precision, a part of config.yaml, was float32, is now bfloat16": (
        "precision: float32\nallow_emulated: false",
        "precision: bfloat16\nallow_emulated: true",
    ),
}


@pytest.mark.parametrize("told", few(REAL, [next(iter(REAL))]))
def test_what_really_changes_the_bits_is_named(tmp_path, told):
    old, new = REAL[told]
    given = settings("epochs=1", "batch_size=256", "model.width=8")
    attempt(tmp_path, given, build(given), quiet=True)
    text = (tmp_path / "config.yaml").read_text()
    assert old in text
    (tmp_path / "config.yaml").write_text(text.replace(old, new))
    first, *rest = refusal(tmp_path).splitlines()
    torch.set_num_threads(1)
    assert "differs: metrics.jsonl, line 1 (epoch 1, update " in first
    assert f"  changed: {told}" in rest
    assert len(rest) == 2  # and the config's hash
