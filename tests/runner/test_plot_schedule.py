"""The plot of a schedule: its rates are those of a training, without data or training."""

import os
import subprocess
import sys

import pytest

from runner.build import build
from runner.plot_schedule import count_updates, main, summary, trace
from tests.conftest import ROOT, few, settings

RESTARTS = ("tricks=[warm_restarts]", "tricks.warm_restarts.T_0=2", "epochs=3")
TORCHS = ("scheduler=torch", "scheduler.step_size=1")


TRAININGS = [
    ("epochs=2", "batch_size=400", "data.validation=0.3"),
    ("epochs=2", "batch_size=400", "drop_last=true"),
    ("epochs=2", "batch_size=400", "scheduler=one_cycle", "optimizer=adamw"),
    (*TORCHS, "epochs=2", "batch_size=400", "optimizer.decay_norms_and_biases=false"),
    (*RESTARTS, "batch_size=500", "tricks.warm_restarts.T_up=0.7"),
    (*RESTARTS, "batch_size=500", "tricks.warm_restarts.unit=update", "optimizer.lr=0.3"),
]


@pytest.mark.parametrize("overrides", few(TRAININGS, TRAININGS[1::2]), ids=str)
def test_the_rates_are_those_that_a_training_sets(overrides):
    given = settings(*overrides)
    bench, trained = build(given), []
    for epoch in range(given.epochs):
        for batch in bench.batches.epoch(epoch):
            bench.training.step(batch)
            trained.append(bench.training.optimizer.param_groups[0]["lr"])
    curve = trace("one", given, count_updates(given))
    assert curve.rates == trained
    assert (
        curve.updates_per_epoch
        == bench.training.begin.updates_per_epoch
        == len(trained) / given.epochs
    )


@pytest.mark.parametrize(
    ("overrides", "restarts"),
    [
        (("epochs=14",), [2, 6]),
        (("epochs=15", "tricks.warm_restarts.T_mult=1.5"), [2, 5, 9.5]),
        (("epochs=9", "tricks.warm_restarts.T_up=0.5"), [2, 5.5]),
        (("epochs=2", "tricks.warm_restarts.unit=update"), [0.2, 0.6, 1.4]),
        (("epochs=1", "tricks.warm_restarts.T_0=0.1", "tricks.warm_restarts.T_mult=1"), 9),
    ],
)
def test_restarts_are_in_epochs_where_the_rate_peaks_or_starts_to_warm_up(overrides, restarts):
    given = settings(*RESTARTS[:2], *overrides)
    curve = trace("restarts", given, 10)
    expected = restarts if isinstance(restarts, list) else [(i + 1) / 10 for i in range(restarts)]
    assert curve.restarts == pytest.approx(expected)
    end = 0.0 if given.tricks["warm_restarts"]["T_up"] else 0.1
    whole = [round(10 * r) for r in curve.restarts if 10 * r == round(10 * r)]
    assert [curve.rates[update] for update in whole] == [end] * len(whole)


def test_a_line_has_the_highest_and_last_rate_and_warns_of_an_unfinished_cycle():
    assert summary(trace("short", settings(*RESTARTS), 2)) == (  # .1 (1 + cos(pi / 8)) / 2
        "short  highest 0.1  last 0.09619  note: warm_restarts: training ends within a cycle, "
        "after 3 epochs; cycles end after 2 and 6."
    )
    rising = trace("rising", settings("scheduler=one_cycle", "epochs=10"), 1)
    assert summary(rising) == "rising  highest 0.1  last 4e-07"
    assert "note" not in summary(trace("whole", settings(*RESTARTS, "epochs=6"), 2))


def command(folder, *arguments, **environment):
    """Run the command in a process of its own; return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "runner.plot_schedule", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_command_draws_the_picture_without_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    absent = ("data=image_folder", "data.root=nowhere", "--updates-per-epoch", "5")
    main([*RESTARTS, *absent, "--out", "a.png", "optimizer.lr=1"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("a.png  warm_restarts-T_0=2.0+")
    assert "highest 1  last 0.9045  note:" in line  # (1 + cos(pi / 5)) / 2: after 4 of 20 updates
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]  # no folder of a run


@pytest.mark.slow
def test_a_users_own_optimizer_is_found_in_their_config_dir(tmp_path):
    own = ROOT / "examples" / "own"
    (line,) = command(
        tmp_path,
        *("optimizer=sign_sgd", "--config-dir", str(own / "conf"), "--updates-per-epoch", "2"),
        PYTHONPATH=f"{ROOT}:{own}",
        BISCUITS_ALLOW="own_parts.SignSGD,own_parts.UnitGradients",
    )
    assert line.startswith("schedule.png  baseline+optimizer=sign_sgd  highest 0.003")


def lines(capsys, tmp_path, *arguments):
    out = tmp_path / "schedule.svg"
    main([*arguments, "--updates-per-epoch", "4", "--out", str(out)])
    return [line.removeprefix(f"{out}  ") for line in capsys.readouterr().out.splitlines()]


def test_values_with_commas_are_schedules_in_one_picture(capsys, tmp_path):
    both = lines(
        capsys, tmp_path, "epochs=2", "tricks=[],[warm_restarts]", "tricks.warm_restarts.T_0=2"
    )
    assert both == [
        "tricks=[]  highest 0.1  last 0.003806",
        "tricks=[warm_restarts]  highest 0.1  last 0.003806",
    ]
    four = lines(capsys, tmp_path, "scheduler=constant,linear", "epochs=1", "optimizer.lr=1,2")
    assert four == [
        "scheduler=constant optimizer.lr=1  highest 1  last 1",
        "scheduler=constant optimizer.lr=2  highest 2  last 2",
        "scheduler=linear optimizer.lr=1  highest 1  last 0.25",
        "scheduler=linear optimizer.lr=2  highest 2  last 0.5",
    ]
    drawn = (tmp_path / "schedule.svg").read_text()
    assert "learning rate" in drawn and "scheduler=linear optimizer.lr=2" in drawn  # noqa: PT018


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sheduler=cosine"], "sheduler is not a setting. Did you mean scheduler?"),
        (["scheduler=cosin"], "scheduler=cosin is not an option. Did you mean cosine?"),
        (["tricks.warm_restarts.T_0=2"], "warm_restarts is off. Switch it on with"),
        ([*RESTARTS, "scheduler=step"], "scheduler=step would change nothing"),
        (["data=cifar10", "data.root=nowhere"], "Or give --updates-per-epoch"),
        (["--updates-per-epoch", "0"], "--updates-per-epoch must be >= 1, got 0"),
        (["--out", "picture.txt"], "--out must end in .png, .pdf or .svg, got picture.txt"),
        (["--out", "nowhere/a.png"], "--out: no folder nowhere. Create it first."),
        (["-cd", "nowhere"], "--config-dir: no folder nowhere."),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_draws_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert list(tmp_path.iterdir()) == []


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "python -m runner.plot_schedule scheduler=cosine,linear" in capsys.readouterr().out
