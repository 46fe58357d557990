"""The terminal: strangers' strings do not act on it, and it may be full, closed or gone."""

import io
import logging
import os
import sys
import warnings
from contextlib import nullcontext

import pytest

from runner import anti_alias, plot_schedule, texts, verify
from runner.__main__ import main
from runner.report.__main__ import main as report
from runner.run import checkpoint
from runner.sweep.failures import cause_in_words, exit_with_failures
from runner.terminal import show_as_text, terminal
from runner.texts import complain, say
from tests.conftest import run_in

SHORT = ("epochs=1", "batch_size=500", "model.width=2", "threads=1")
EVIL = "a\x1b]0;PWNED\x07\x1b[2J\x9b31m\u202eb\u2028c\rd[red]e[/red]\x00"
SAFE = r"a\x1b]0;PWNED\x07\x1b[2J\x9b31m\u202eb\u2028c\rd[red]e[/red]\x00"


def is_text(text):
    return all(line.isprintable() for line in text.split("\n"))


def test_what_is_said_is_text(capsys):
    say(EVIL, "two\nlines")
    complain(EVIL)
    out, err = capsys.readouterr()
    assert out == f"{SAFE}\ntwo\nlines\n"
    assert err == f"{SAFE}\n"
    say(f"\x1b[1m{EVIL}\x1b[0m", coloured=True)
    out = capsys.readouterr().out
    assert out.startswith("\x1b[1ma")
    assert "\x1b]" not in out
    assert "\x1b[2J" not in out
    assert "\u202e" not in out


def test_warnings_logs_and_tracebacks_are_text(monkeypatch, capsys):
    for owner, name in ((warnings, "formatwarning"), (sys, "excepthook")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    show_as_text()
    assert is_text(warnings.formatwarning(EVIL, UserWarning, f"{EVIL}.py", 3, EVIL))
    record = logging.getLogRecordFactory()("x", 20, "x.py", 1, "%s", (EVIL,), None)
    assert is_text(record.getMessage())
    try:
        raise type(EVIL.replace("\0", ""), (ValueError,), {})(EVIL)
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert is_text(capsys.readouterr().err)


def test_a_strangers_checkpoint_says_nothing_to_the_terminal(tmp_path, capsys):
    run_in(tmp_path / "run", *SHORT)
    (tmp_path / "run/result.json").unlink()
    state = checkpoint.load(tmp_path / "run")
    state["made_with"] |= {EVIL: EVIL, "processor": EVIL}
    checkpoint.save(tmp_path / "run", state)
    run_in(tmp_path / "run", *SHORT, "resume=anywhere")
    out = capsys.readouterr().out
    assert "resuming, although" in out
    assert is_text(out)


def exit_code(command, *arguments):
    try:
        command(*arguments)
    except SystemExit as error:
        return error.code
    return None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["biscuits", *SHORT, "name=mine"])
    monkeypatch.setattr(texts._Lost, "is_true", False)
    assert exit_code(main) is None
    (place,) = tmp_path.glob("outputs/mine/*/seed=0")
    return place


COMMANDS = {
    "a run": (main, *SHORT, "name=other"),
    "a run that is done": (main, *SHORT, "name=mine"),
    "a sweep": (main, "-m", *SHORT, "name=third", "seed=0"),
    "the config": (main, "--cfg", "job"),
    "the help": (main, "--help"),
    "the version": (main, "--version"),
    "the report": (report, "outputs/mine"),
    "the verification": (verify.main, "outputs/mine/RUN"),
    "the places": (anti_alias.main, "resnet20"),
    "the schedule": (plot_schedule.main, "--updates-per-epoch=3"),
}


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_a_full_closed_or_broken_terminal_is_a_line_at_most(tmp_path, folder, monkeypatch, faults):
    for title, (command, *arguments) in COMMANDS.items():
        given = [a.replace("outputs/mine/RUN", str(folder)) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["biscuits", *given])
        all_ways = title in ("a run", "a run that is done", "the config", "the report")
        for how in ("full", "pipe", "closed") if all_ways else ("full",):
            with monkeypatch.context() as patch:
                patch.setattr(texts._Lost, "is_true", False)
                patch.setattr(sys, "stderr", err := io.StringIO())
                with opened(how) as stream:
                    patch.setattr(sys, "stdout", stream)
                    code = exit_code(command, *([] if command is main else [given]))
            faults("terminals that are full, closed or gone")
            assert "Traceback" not in err.getvalue(), (title, how)
            assert "Logging error" not in err.getvalue(), (title, how)
            if how == "full":
                assert code == 1, title
                line = "What is printed cannot be written: No space left on device.\n"
                assert err.getvalue() == line, title
            else:
                assert code in (None, 1), (title, how)
                assert not err.getvalue(), (title, how)
    assert len([*tmp_path.glob("outputs/*/*/seed=0/result.json")]) == 3  # each run is done


def opened(how):
    """Open what cannot be written into."""
    if how == "full":
        return open("/dev/full", "w")
    if how == "closed":
        return nullcontext()  # Python puts None there
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3. GiB"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_too_little_memory_is_a_line(error, capsys):
    @terminal()
    def command():
        raise error

    assert exit_code(command) == 1
    assert capsys.readouterr().err.startswith("There is too little memory: ")


def test_another_error_of_a_command_is_raised():
    @terminal()
    def command():
        raise ImportError("No module named x")

    with pytest.raises(ImportError, match="No module"):
        command()


def test_a_sweep_ends_with_how_many_runs_failed_and_each_cause_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong = ("tricks.clipping.max_norm=1,-1", "optimizer.lr=0.1,1e10")
    monkeypatch.setattr(sys, "argv", ["b", "-m", "tricks=[clipping]", *wrong, *SHORT, "name=f"])
    code = exit_code(main)
    head, diverged, refused = code.split("\n")
    assert head == "3 of 4 runs failed or were stopped. To try them again, give the same command."
    assert diverged.startswith("  outputs/f/clipping+model.width=2+optimizer.lr=1e10")
    assert "diverged: the loss is not finite" in diverged
    assert "tricks=[clipping]" not in diverged  # it is on
    assert refused.endswith(
        "max_norm must be > 0, got -1.0. Use .inf to measure only. (and 1 more)"
    )
    out, err = capsys.readouterr()
    assert "Error executing job" not in out + err
    assert len([*tmp_path.glob("outputs/f/*/seed=0/result.json")]) == 1


def test_causes_are_words_and_each_once():
    trace = 'Traceback (most recent call last):\n  File "x"\nValueError: bad'
    errors = (RuntimeError(trace), KeyError("x"), "", trace, RuntimeError("a\nb"))
    words = [cause_in_words(error) for error in errors]
    assert words == ["ValueError: bad", "KeyError: 'x'", "no reason is recorded", words[0], "a b"]
    causes = [f"outputs/a/b/seed={n}: it was stopped" for n in range(3)] + [EVIL]
    with pytest.raises(SystemExit) as ended:
        exit_with_failures(causes, 9, again=True)
    text = str(ended.value)
    assert text.startswith("4 of 9 runs failed or were stopped. To try them again, give the same ")
    assert (
        "command without again=true.\n  outputs/a/b/seed=0: it was stopped (and 2 more)\n" in text
    )
    assert is_text(text)
    exit_with_failures([], 9, again=False)
