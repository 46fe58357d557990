"""What is said about a mistake on the command line: where it is, and the cure."""

import sys

import pytest
from hydra.errors import HydraException

from runner.__main__ import main
from runner.cli.explain import explain
from runner.cli.hydra_internals import Loader
from runner.cli.task import register
from tests.conftest import ROOT

SAID = {
    ("lr=0.1",): "lr is not a setting. Did you mean optimizer.lr? See python -m runner --cfg job.",
    ("optimizer=adam", "optimizer.momentum=0.5"): (
        "optimizer=adam has no setting momentum (optimizer=sgd has). It has: lr, betas, eps, "
        "weight_decay, decay_norms_and_biases."
    ),
    ("optimizer.LR=0.1",): "Did you mean optimizer.lr?",
    ("tricks.Clipping.max_norm=2",): "Did you mean tricks.clipping.max_norm?",
    ("model=Resnet20",): "model=Resnet20 is not an option. Did you mean resnet20?",
    ("epochs", "=", "3"): 'epochs has no value. Write epochs=VALUE, without spaces around "=".',
    ("model.weights=a/seed=0/b",): "Quote it twice: 'model.weights=\"a/seed=0/b\"'.",
    ("seed=range(3)",): "seed=range(3) is several values. Sweep over them with -m.",
    ("-m", "optimizer.lr=interval(0,1)"): "interval(...) needs a sweeper that draws from it.",
    ("optimizer.lr=0.1,0.2",): "optimizer.lr must have one value, got 0.1,0.2. Sweep over them",
    ("@=None",): "@ is not a setting.",
    ("tricks=[clipping",): "Cannot read tricks=[clipping.",
    ("-m", "hydra.mode=RUN", "seed=0,1"): "-m makes many runs. Drop hydra.mode=RUN.",
    ("ablation=pairs", "hydra.mode=RUN"): "ablation=pairs makes many runs. Drop hydra.mode=RUN.",
    ("-cd", "OWN", "model=shalow"): "Did you mean shallow? There are: resnet18_cifar, ",
    ("-cd", "OWN", "model=shallow", "model.depth=3"): "model=shallow has no setting depth",
}


@pytest.fixture(autouse=True)
def _own_tricks_are_forgotten():
    yield
    register()


@pytest.mark.parametrize(("arguments", "said"), SAID.items(), ids=str)
def test_a_mistake_is_named_with_its_cure(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    own = str(ROOT / "examples/own/conf")
    monkeypatch.setattr(sys, "argv", ["biscuits", *(own if a == "OWN" else a for a in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    line = str(ended.value)
    assert said in line
    assert "\n" not in line
    key = arguments[-1].partition("=")[0]
    assert f"Did you mean {key}?" not in line, "what was typed is no proposal"
    assert not list(tmp_path.iterdir())


def test_a_launcher_that_is_not_installed_is_named_with_its_package(monkeypatch):
    loader = Loader()
    monkeypatch.setattr(loader, "get_group_options", lambda _: ["basic", "local"])
    with pytest.raises(HydraException) as raised:
        loader.compose(["hydra/launcher=joblib_"])
    assert "pip install hydra-joblib-launcher" in str(explain(raised.value, loader))
