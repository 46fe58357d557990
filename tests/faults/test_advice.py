"""What a refusal advises, typed as it stands there: it does what it says, and nothing else."""

import os
import re
import shlex
import sys
import time

import numpy as np
import pytest

from runner import auto
from runner.__main__ import main
from runner.run import attempt, checkpoint
from runner.store import archive
from runner.store.files import read_json
from runner.train import Training
from tests.conftest import few

SHORT = ("epochs=2", "batch_size=512", "model.width=2", "name=mine")
STOPPED_AT = 3  # of 6 updates


class Commands:
    """The command in this process; all is real."""

    def __init__(self, folder, monkeypatch, capsys):
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys

    def run(self, *arguments):
        """Run it; give back its exit code or last line, and what it printed."""
        self.monkeypatch.setattr(sys, "argv", ["biscuits", *arguments])
        code = None
        try:
            main()
        except SystemExit as error:
            code = error.code
        return code, self.capsys.readouterr().out

    def stopped(self, *arguments, when=lambda _: True):
        """Run it, and stop a run in its second epoch."""
        step = Training.step

        def interrupted(training, *given):
            if training.updates == STOPPED_AT + 1 and when(training):
                raise KeyboardInterrupt
            step(training, *given)

        with self.monkeypatch.context() as patch:
            patch.setattr(Training, "step", interrupted)
            code, _ = self.run(*arguments)
        assert code == 130

    def has_cores(self, count):
        self.monkeypatch.setattr(auto, "idle_cores", lambda: count)
        self.monkeypatch.setattr(attempt, "usable_cores", lambda: count)
        self.monkeypatch.setattr(auto, "PER_THREAD", 1)  # as for a large network

    def results(self):
        files = self.folder.glob("outputs/*/*/seed=*/result.json")
        return {
            file.parent.relative_to(self.folder / "outputs"): read_json(file)[0] for file in files
        }


@pytest.fixture
def commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return Commands(tmp_path, monkeypatch, capsys)


def advised(line):
    """The commands that a refusal names."""
    return [shlex.split(found) for found in re.findall(r"python -m runner ([^;]*)", line)]


def forge(folder, **changes):
    """Change what a run was made with, as another machine would have it."""
    for name in (checkpoint.LAST, checkpoint.BEFORE):
        if (folder / name).exists():
            state = checkpoint.load(folder)
            state["made_with"] |= changes
            checkpoint.save(folder, state)


def the_run(commands, variant="*", seed=0):
    (folder,) = commands.folder.glob(f"outputs/mine/{variant}/seed={seed}")
    return folder


@pytest.mark.slow
def test_the_same_command_resumes_on_a_machine_with_other_cores(commands):
    commands.has_cores(2)
    assert commands.run(*SHORT, "name=whole")[0] is None
    (whole,) = commands.results().values()
    commands.stopped(*SHORT)
    commands.has_cores(1)
    code, out = commands.run(*SHORT)
    assert code is None
    assert "resumes with threads=2, as it was begun\n" in out
    assert f"resuming at update {STOPPED_AT} of 6\n" in out
    mine = {place: r for place, r in commands.results().items() if place.parts[0] == "mine"}
    assert list(mine.values()) == [whole]
    code, out = commands.run(*SHORT)  # is done: nothing resumes
    assert (code, "resum" in out) == (None, False)
    assert commands.run(*SHORT, "again=true")[0] is None
    assert commands.results() == {**commands.results(), **mine}
    assert commands.run(*SHORT, "threads=1")[0] is None  # a run of its own, as its folder says
    assert len(commands.results()) == 3


@pytest.mark.parametrize("sweep", few([(), ("-m", "seed=0,1")], [()]), ids=["run", "sweep"])
def test_a_run_that_may_not_resume_names_commands_for_it_alone(commands, sweep):
    given = (*sweep, *SHORT, "threads=1")
    commands.run(*given)
    wanted = commands.results()
    (folder := the_run(commands)).joinpath("result.json").unlink()
    others = {p: p.stat().st_mtime_ns for p in commands.folder.rglob("seed=1/*")}
    for number, moves in ((0, False), (1, True)):
        forge(folder, processor="another")
        line, out = commands.run(*given)
        commands_named = advised(line)
        assert len(commands_named) == 2, line
        code, out = commands.run(*commands_named[number])
        assert code is None, code
        assert ("resuming at update 6" in out) == moves
        assert ("moves" in read_json(folder / "run.json")[0]) == moves
        assert commands.results() == wanted
        (folder / "result.json").unlink()
    assert all(path.stat().st_mtime_ns == then for path, then in others.items())


def test_a_folder_with_another_config_names_the_command_of_its_own_run(commands):
    commands.stopped(*SHORT, "threads=1", "variant=mine")
    line, _ = commands.run(*SHORT, "threads=1", "variant=mine", "optimizer.lr=0.05")
    assert "optimizer.lr is 0.1, not 0.05" in line
    (command,) = advised(line)
    code, out = commands.run(*command)
    assert code is None
    assert "resuming at update 3 of 6" in out
    assert (
        commands.run(*SHORT, "threads=1", "variant=mine", "optimizer.lr=0.05", "name=b")[0] is None
    )
    assert len(commands.results()) == 2


MORE = ("resume=anywhere", "checkpoint_seconds=0", "again=true")


@pytest.mark.parametrize("key", few(MORE, ("checkpoint_seconds=0",)))
def test_a_saved_config_takes_the_settings_that_change_no_bit(commands, key):
    commands.stopped(*SHORT, "threads=1", "resume=anywhere")
    code, _ = commands.run("-cp", str(the_run(commands)), "-cn", "config", key)
    assert code is None
    assert "resume: exact" in (the_run(commands) / "config.yaml").read_text()


def test_what_goes_on_after_a_stop_is_not_the_command_that_begins_again(commands):
    commands.run(*SHORT, "threads=1")
    commands.stopped(*SHORT, "threads=1", "again=true")
    assert commands.run(*SHORT, "threads=1")[1].count("resuming at update 3") == 1


def test_a_run_that_was_begun_on_the_cpu_stays_there(commands, monkeypatch):
    commands.stopped(*SHORT, "threads=1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # a card has come
    code, out = commands.run(*SHORT, "threads=1")
    assert code is None
    assert "resumes with device=cpu, as it was begun\n" in out


def test_a_run_that_was_begun_on_a_card_says_how_to_move_it(commands):
    commands.stopped(*SHORT, "threads=1")
    forge(folder := the_run(commands), device="cuda")
    line, _ = commands.run(*SHORT, "threads=1")
    assert "device changed (cuda -> cpu)" in line
    code, _ = commands.run(*advised(line)[1])
    assert code is None
    assert "device" in read_json(folder / "run.json")[0]["moves"][0]


def test_what_is_unfit_of_a_checkpoint_is_removed_as_advised(commands):
    commands.stopped(*SHORT, "threads=1")
    folder = the_run(commands)
    checkpoint.save(folder, checkpoint.load(folder))
    (folder / checkpoint.LAST).write_bytes(sealed(b"no archive"))
    line, _ = commands.run(*SHORT, "threads=1")
    assert "Remove it: the run then resumes from the checkpoint before it" in line
    (folder / checkpoint.LAST).unlink()
    assert "resuming at update 3" in commands.run(*SHORT, "threads=1")[1]


def sealed(content):
    """Give a file the checksum of a checkpoint."""
    from hashlib import sha256

    digest = sha256(content + b"\0\0").hexdigest()
    return content + archive.comment(digest)


def test_a_finished_run_whose_data_changed_is_given_back_with_a_word_and_again_redoes_it(
    commands, tmp_path
):
    rng = np.random.default_rng(0)
    file = tmp_path / "own.npz"

    def write(seconds):
        images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
        labels = np.arange(40) % 2
        np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
        os.utime(file, (seconds, seconds))

    write(1e9)
    given = ("data=npz", f'data.file="{file}"', "epochs=1", "threads=1", "model.width=2", "name=d")
    commands.run(*given)
    assert "has changed" not in commands.run(*given)[1]
    before = commands.results()
    write(time.time() + 60)
    assert "note: data.file has changed since; again=true makes" in commands.run(*given)[1]
    assert commands.results() == before
    commands.run(*given, "again=true")
    assert commands.results() != before
