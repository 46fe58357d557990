"""Signals: a checkpoint at the update's end, the same bits afterwards, and who else hears them."""

import os
import signal
import sys
import warnings

import pytest

from runner.errors import UserError
from runner.run import checkpoint, course
from runner.run import status as folder_module
from runner.signals import Stopped, defer_signals, raise_if_stopping, stoppable
from runner.train import Training
from tests.builders import read_status
from tests.conftest import run_in

RUN = ("epochs=3", "batch_size=256", "model.width=4", "tricks=[clipping,flooding]")
LENGTH = 6  # updates in an epoch
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGUSR2: 143}


def go(folder, *overrides):
    return run_in(folder, *RUN, *overrides)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(n, c, id=n.name, marks=pytest.mark.slow if "USR" in n.name else ())
        for n, c in SIGNALS.items()
    ],
)
def test_a_signal_stops_at_the_updates_end_and_the_run_goes_on_to_the_same_bits(
    tmp_path, signal_after, number, code, capsys
):
    straight = go(tmp_path / "straight")
    ends = (4, LENGTH, LENGTH + 5, 3 * LENGTH)  # in mid-epoch, at an epoch's end, the last update
    signal_after({update: [number] for update in ends})
    for end in ends:
        with pytest.raises(Stopped) as stopped, stoppable():
            go(tmp_path / "run")
        assert stopped.value.code == code
        told = read_status(tmp_path / "run")
        assert (told["status"], told["update"], told["checkpoint"]) == ("stopped", end, end)
        assert f"Stopped and saved at update {end} of {3 * LENGTH}." in capsys.readouterr().out
    assert go(tmp_path / "run") == straight
    assert read_status(tmp_path / "run")["attempts"] == len(ends) + 1


def test_checkpoints_are_saved_where_worth_it_and_when_the_last_is_old(tmp_path, monkeypatch):
    saved = []
    save = checkpoint.save

    def noted(folder, state):
        saved.append(state["training"]["updates"])
        save(folder, state)

    monkeypatch.setattr(checkpoint, "save", noted)
    straight = go(tmp_path / "seldom")
    assert saved == [LENGTH, 3 * LENGTH]  # after the first epoch and the last
    saved.clear()
    monkeypatch.setattr(course, "WORTH", 0)
    assert go(tmp_path / "usual") == straight
    assert saved == [LENGTH, 2 * LENGTH, 3 * LENGTH]
    saved.clear()
    assert go(tmp_path / "often", "checkpoint_seconds=0") == straight
    assert saved == list(range(1, 3 * LENGTH + 1))


def test_a_second_ctrl_c_ends_where_it_stands(tmp_path, signal_after):
    signal_after({8: [signal.SIGTERM, signal.SIGINT]})
    with pytest.raises(KeyboardInterrupt), stoppable():
        go(tmp_path / "run")
    told = read_status(tmp_path / "run")
    assert (told["status"], told["update"], told["checkpoint"]) == ("stopped", 8, LENGTH)


def test_other_signals_do_not_cut_the_saving_short(tmp_path, signal_after):
    signal_after({8: [signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM]})
    with pytest.raises(Stopped), stoppable():
        go(tmp_path / "run")
    assert read_status(tmp_path / "run")["checkpoint"] == 8


def test_who_read_what_it_says_may_be_gone(tmp_path, signal_after, monkeypatch):
    """As at Ctrl-C on `biscuits ... 2>&1 | tee log`, where tee goes first."""
    reader, writer = os.pipe()
    os.close(reader)
    before = [os.dup(1), os.dup(2)]
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        try:
            os.dup2(writer, 2)
            signal_after({8: [signal.SIGINT]})
            with pytest.raises(Stopped), stoppable():
                go(tmp_path / "run")
        finally:
            os.dup2(before[1], 2)
            monkeypatch.undo()
    for handle in before:
        os.close(handle)
    told = read_status(tmp_path / "run")
    assert (told["status"], told["checkpoint"]) == ("stopped", 8)


def test_signals_that_are_repeated_while_it_ends_do_not_cut_it_short(
    tmp_path, signal_after, monkeypatch
):
    signal_after({8: [signal.SIGTERM]})
    write = folder_module.write_json

    def write_while_they_come(path, content, **how):
        if content["status"] == "stopped":
            os.kill(os.getpid(), signal.SIGTERM)
        write(path, content, **how)
        if content["status"] == "stopped":
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(folder_module, "write_json", write_while_they_come)
    with pytest.raises(Stopped), stoppable():
        go(tmp_path / "run")
    told = read_status(tmp_path / "run")
    assert (told["status"], told["checkpoint"]) == ("stopped", 8)


def fail_and_go_on(folder):
    with pytest.raises(UserError, match="the trick failed"):
        go(folder)
    assert read_status(folder)["status"] == "failed"
    raise_if_stopping()  # what the next run of a sweep begins with


def test_a_stop_that_was_asked_for_is_not_lost_where_something_fails(tmp_path, monkeypatch):
    def failing(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("the trick failed")

    monkeypatch.setattr(Training, "step", failing)
    with pytest.raises(Stopped), stoppable():
        fail_and_go_on(tmp_path / "run")


def test_a_handler_that_was_there_is_called_when_all_is_saved_and_put_back(tmp_path, signal_after):
    heard = []

    def theirs(number, _):
        heard.append((number, read_status(tmp_path / "run")["checkpoint"]))

    before = signal.signal(signal.SIGUSR1, theirs)
    try:
        signal_after({5: [signal.SIGUSR1]})
        with pytest.raises(Stopped) as stopped, stoppable():
            go(tmp_path / "run")
        assert stopped.value.code == 143
        assert heard == [(signal.SIGUSR1, 5)]
        assert signal.getsignal(signal.SIGUSR1) is theirs
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_was_ignored_stays_so_as_under_nohup():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable(), defer_signals() as asked:
            os.kill(os.getpid(), signal.SIGINT)
            assert not asked()
    finally:
        signal.signal(signal.SIGINT, before)


def receive(number):
    os.kill(os.getpid(), number)
    pytest.fail("not at once")


def test_outside_of_training_a_signal_is_obeyed_at_once():
    with pytest.raises(Stopped), stoppable():
        receive(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stoppable(), stoppable():
        receive(signal.SIGINT)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, lambda *_: os._exit(7)], ids=["none", "own"])
def test_a_forked_worker_does_what_it_would_have_done_and_never_saves(handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with stoppable(), defer_signals() as asked:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Python 3.12, about threads
                child = os.fork()
            if child == 0:
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                finally:
                    os._exit(1)  # it went on
            _, how = os.waitpid(child, 0)
            assert not asked()
        code = os.waitstatus_to_exitcode(how)
        assert code == (-signal.SIGTERM if handler == signal.SIG_DFL else 7)
    finally:
        signal.signal(signal.SIGTERM, before)
