"""What is said about a mistake on the command line: where it is, and the cure."""

import re
import shlex
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.__main__ import main
from runner.cli.explain import explain
from runner.cli.hydra_internals import Loader
from runner.cli.task import register
from runner.config import check
from runner.errors import UserError
from tests.conftest import ROOT, few, few_of

SAID = {
    ("lr=0.1",): (
        "lr is not a setting. Did you mean optimizer.lr or tricks.muon.lr? "
        "See python -m runner --cfg job."
    ),
    ("optimizer=adamw", "momentum=0.5"): "Did you mean optimizer.momentum, of optimizer=sgd?",
    ("optimizer=adam", "optimizer.momentum=0.5"): (
        "optimizer=adam has no setting momentum (optimizer=sgd has). It has: lr, betas, eps, "
        "weight_decay, decay_norms_and_biases."
    ),
    ("optimizer.LR=0.1",): "Did you mean optimizer.lr?",
    ("tricks.Clipping.max_norm=2",): "Did you mean tricks.clipping.max_norm?",
    ("model=Resnet20",): "model=Resnet20 is not an option. Did you mean resnet20?",
    ("epochs",): 'epochs has no value. Write KEY=VALUE, without spaces around "=".',
    ("--batch-size", "3"): "Settings have no dashes: batch_size=3.",
    ("ép=3",): "ép is not the name of a setting. See python -m runner --cfg job.",
    ("~fooo",): "fooo is not a setting.",
    ("~optimizer.wd",): "Did you mean optimizer.weight_decay?",
    ("+optimizer.lr=3",): "optimizer.lr has a value already: give another without the plus.",
    ("-m", "optimizer.lr=glob(*)"): "optimizer.lr=glob(*) matches nothing: glob(...) chooses",
    ("-m", "optimizer=glob(z*)"): "and optimizer has adam, adamw, sgd, torch.",
    ("-m", "seed=range(3,3)"): "seed=range(3,3) has no values, so there is nothing to run.",
    ("-m", "optimizer.lr=choice()"): "Cannot read optimizer.lr=choice().",
    ("hydra/launcher=basic", "hydra.launcher.workers=2", "-m"): "(hydra/launcher=local or",
    ("hydra/launcher=slurm",): "Did you mean submitit_slurm?",
    ("hydra/launcher=submitit",): "Did you mean submitit_local or submitit_slurm?",
    ("hydra/sweeper=ax",): "hydra/sweeper=ax needs hydra-ax-sweeper, which is not installed: pip",
    ("hydra/launcher=submitit_slurm", "hydra.launcher.additional_parameters={nice:1}"): (
        "hydra.launcher.additional_parameters has no such key yet. To add one, write "
        "'+hydra.launcher.additional_parameters={KEY: VALUE}'."
    ),
    ("~data.test",): "data.test is null, and Hydra cannot remove what is null.",
    ("data.root=a",): "data=digits has no setting root (data=image_folder or data=cifar10",
    ("model.name=a",): "model=resnet8 has no setting name (model=timm or model=torchvision has).",
    ("scheduler=step", "scheduler.T_max=3"): "no setting T_max. It has: milestones, gamma.",
    ("variant=${variant}",): "variant=${variant} refers to itself. Give a value.",
    ("optimizer.lr=${optimizer.lr}",): "optimizer.lr=${optimizer.lr} refers to itself.",
    ("name=${oc.env:NO_SUCH}",): "write ${oc.env:NO_SUCH,VALUE}.",
    ("name=${foo:1}",): "${foo:...} is not supported; ${oc.env:NAME} is.",
    ("tricks=a,b",): "switch on all of them: 'tricks=[a,b]'; to try each alone: add -m.",
    ("-cd", "OWN", "data=stripe"): "Did you mean stripes?",
    ("-cd", "OWN", "tricks=[unit_gradient]"): "Did you mean unit_gradients?",
    ("-cd", "OWN", "length=2"): "tricks.warm_up.length or tricks.unit_gradients.length?",
    ("ablation=one_at_a_time", "ablation.factors={lr:[1,2]}"): "Did you mean optimizer.lr or",
    ("ablation.factors={a:{'b c':{seed:1}}}",): "Write 'ablation.factors={a:{b c:{seed:1}}}'.",
    ("ablation=one_at_time",): "Did you mean one_at_a_time?",
    ("seed=range(3)",): "seed=range(3) is several values. Sweep over them with -m.",
    ("-m", "optimizer.lr=interval(0,1)"): "interval(...) needs a sweeper that draws from it.",
    ("optimizer.lr=0.1,0.2",): "optimizer.lr must have one value, got 0.1,0.2. Sweep over them",
    ("@=None",): "@ is not a setting.",
    ("data.root={a",): "Cannot read data.root={a. A list is 'data.root=[a,b]',",
    ("-m", "hydra.mode=RUN", "seed=0,1"): "-m makes many runs. Drop hydra.mode=RUN.",
    ("ablation=pairs", "hydra.mode=RUN"): "ablation=pairs makes many runs. Drop hydra.mode=RUN.",
    ("-cd", "OWN", "model=shalow"): "Did you mean shallow? There are: airbench, ",
    ("-cd", "OWN", "model=shallow", "model.depth=3"): "model=shallow has no setting depth",
}


QUICK = (
    ("hydra/launcher=submitit_slurm", "hydra.launcher.additional_parameters={nice:1}"),
    *(("optimizer=adamw", "momentum=0.5"), ("optimizer=adam", "optimizer.momentum=0.5")),
    *(("model=Resnet20",), ("epochs",), ("--batch-size", "3"), ("+optimizer.lr=3",)),
    *(("-m", "optimizer=glob(z*)"), ("-m", "seed=range(3,3)"), ("-m", "optimizer.lr=choice()")),
    *(("hydra/launcher=slurm",), ("hydra/sweeper=ax",), ("model.name=a",)),
    *(("variant=${variant}",), ("name=${oc.env:NO_SUCH}",), ("name=${foo:1}",), ("tricks=a,b",)),
    *(("-cd", "OWN", "length=2"), ("-m", "optimizer.lr=interval(0,1)"), ("seed=range(3)",)),
    *(("ablation.factors={a:{'b c':{seed:1}}}",), ("ablation=pairs", "hydra.mode=RUN")),
)


@pytest.fixture(autouse=True)
def _own_tricks_are_forgotten():
    yield
    register()


@pytest.mark.parametrize(("arguments", "said"), few_of(SAID, QUICK), ids=str)
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


@pytest.fixture
def refused():
    """Do what composes and checks a config with overrides; give back the line that refuses it."""

    def refused(*overrides):
        loader = Loader()
        try:
            loader.find_mode("config", list(overrides), multirun=False)
            config = loader.compose(overrides)
            check(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]), overrides)
        except (HydraException, OmegaConfBaseException, UserError) as error:
            return explain(error, loader)
        return None

    return refused


def advice(line):
    """The overrides that a line proposes, as a shell hands them on."""
    word = r"""(?:'[^']*'(?:"'"'[^']*')*|[\w.+]+=[^\s'?]*[^\s'?.])"""
    leads = "Write|Did you mean|on with|no dashes:|as text:|one text:|literally:|takes it, too:"
    found = re.search(rf"(?:{leads}) ({word}(?: {word})*)(?:[.?]| or )", line)
    assert found, line
    return shlex.split(found[1])


FOLLOWED = {
    ("epochs", "=", "3"): (),
    ("tricks=[clipping,", "flooding]"): (),
    ("tricks=[clipping,flooding",): (),
    ("epochs==3",): (),
    ("model=ResNet50",): (),
    ("data=some/folder (2)",): (),
    ("data=é.npz",): (),
    ("name=2024",): (),
    ("name=Ürün",): (),
    ("name=${nothing}",): (),
    ("data.root=7",): ("data=image_folder",),
    ("data.root=a,b",): ("data=image_folder",),
    ("model.weights=outputs/x/seed=0/checkpoint.pt",): (),
    ("model.weights=~/x.pt",): (),
    ("optimizer.amsgrad=true",): ("optimizer=adam",),
    ("tricks.flooding.level=0.1",): (),
}


FIRST = (
    *(("tricks=[clipping,", "flooding]"), ("epochs==3",), ("data=some/folder (2)",)),
    *(("name=${nothing}",), ("data.root=a,b",), ("tricks.flooding.level=0.1",)),
)


@pytest.mark.parametrize("mistake", few(FOLLOWED, FIRST), ids=str)
def test_the_advice_is_what_to_type(refused, mistake):
    given = FOLLOWED[mistake]
    line = refused(*given, *mistake)
    typed = [override.replace("VALUE", "true") for override in advice(line)]
    assert refused(*given, *typed, *(mistake if "flooding is off" in line else ())) is None, line


@settings(max_examples=150)
@given(st.text(st.sampled_from("aZ09 é=~(),:\\'\"$#&!;|*?@%{}[]-/."), max_size=8))
def test_any_text_is_given_as_the_line_says(text):
    assume(text[:1] not in ("=", "[", "{", " ") and not text.endswith(" "))
    parse = OverridesParser.create().parse_overrides
    try:
        parse([f"model.name={text}"])
    except OverrideParseException as error:
        (override,) = parse(advice(explain(error)))
        assert OmegaConf.create({"name": override.value()}).name == text


def test_a_launcher_that_is_not_installed_is_named_with_its_package(monkeypatch):
    loader = Loader()
    monkeypatch.setattr(loader, "get_group_options", lambda _: ["basic", "local"])
    with pytest.raises(HydraException) as raised:
        loader.compose(["hydra/launcher=joblib_"])
    assert "pip install hydra-joblib-launcher" in str(explain(raised.value, loader))
