"""The laws that hold for every trick in conf/tricks, whatever it does."""

import copy
import dataclasses
import importlib
import io
import itertools
import pickle

import pytest
import torch
from omegaconf import OmegaConf

import tricks
from runner.models import cifar_resnet
from runner.names import CONF
from runner.ranks import Parts
from runner.train import Training
from tests.conftest import ROOT, few
from tests.loop import CLASSES, INPUTS, UPDATES, Loop, batch
from tricks import Chain, Trick

NODES = {
    name: node
    for file in sorted(CONF.glob("tricks/*.yaml"))
    for name, node in OmegaConf.to_container(OmegaConf.load(file)).items()
    if name != "defaults"
}
NOTICEABLE = {
    "flooding": {"level": 5.0},
    "clipping": {"max_norm": 0.01},
    "ghost_batch_norm": {"size": 2},
    "mixup": {"probability": 0.5},  # which leaves some to cutmix
    "selective_backward": {"start": 0.0},
    "look_ahead": {"k": 2},
    "swa": {"start": 0.0, "unit": "update"},
}
"""Parameters with which a trick changes even the first update; the defaults elsewhere."""

HOOKS = (
    *("model", "initialize", "optimizer", "schedule", "order", "images", "batch", "loss"),
    *("backward", "gradients", "weights", "evaluation", "prediction"),
)

every_trick = pytest.mark.parametrize("name", NODES)


def class_of(name):
    return getattr(tricks, NODES[name]["_target_"].removeprefix("tricks."))


def make(name):
    return class_of(name)(**NOTICEABLE.get(name, {}))


def defaults_of(kind):
    return {field.name: field.default for field in dataclasses.fields(kind) if field.init}


def network(classes=CLASSES):
    torch.manual_seed(0)
    return cifar_resnet(depth=8, width=8, channels=3, classes=classes)


def training(*chosen, classes=CLASSES, device="cpu", **options):
    chain, inputs = Chain(*chosen), [each.to(device) for each in INPUTS]
    model = chain.model(network(classes)).train().to(device)
    chain.initialize(model, inputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    optimizer = chain.optimizer(optimizer, model)
    known = {"updates": UPDATES, "classes": classes, "inputs": inputs}
    return Training(model, optimizer, chain, lambda _: 0.5, 2, **known, **options)


def step(run):
    """Make the next update of a training."""
    run.step(batch(run.updates, run.trick))


def trained(updates, *chosen, **options):
    run = training(*chosen, **options)
    for _ in range(updates):
        step(run)
    return run


def weights_after(updates, *chosen, **options):
    return trained(updates, *chosen, **options).model.state_dict()


@torch.no_grad()
def evaluated(run):
    """The weights that are evaluated, and their logits."""
    with run.evaluation():
        weights = {k: v.clone() for k, v in run.model.state_dict().items()}
        logits = run.predictor.eval()(INPUTS[0])
        run.model.train()
    return {**weights, "logits": logits}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@every_trick
def test_the_yaml_writes_out_every_parameter_with_the_default_of_the_class(name):
    node, kind = dict(NODES[name]), class_of(name)
    assert node.pop("enabled") is True
    assert node.pop("_target_") == f"tricks.{kind.__name__}"
    assert kind.name == name
    defaults = defaults_of(kind)
    assert node == {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
    for key, value in node.items():
        assert type(value) is type(defaults[key]) or isinstance(value, list), key


@every_trick
def test_a_trick_is_final_and_overrides_some_hook_and_names_tricks_that_exist(name):
    kind = class_of(name)
    assert kind.__mro__[1:] == (Trick, object)
    assert kind.__final__
    assert [hook for hook in HOOKS if getattr(kind, hook) is not getattr(Trick, hook)]
    assert {*kind.after} <= {class_of(other).__name__ for other in NODES}


@every_trick
def test_a_frozen_trick_holds_its_parameters_alone(name):
    step(training(trick := make(name)))
    if type(trick).__dataclass_params__.frozen:
        assert vars(trick).keys() == defaults_of(type(trick)).keys()
        hash(tuple(vars(trick).values()))  # a list, a dict or a set has none


@every_trick
def test_tricks_in_different_states_are_not_equal(name):
    run, fresh = training(used := make(name)), make(name)
    step(run)
    changed = vars(used) != vars(fresh)
    assert (used == fresh) != changed
    assert len({used, fresh}) == 1 + changed


@every_trick
def test_a_parameter_cannot_be_assigned(name):
    trick = make(name)
    for parameter, value in vars(make(name)).items():
        if parameter in defaults_of(type(trick)):
            with pytest.raises(dataclasses.FrozenInstanceError, match=parameter):
                setattr(trick, parameter, value)


@every_trick
def test_the_four_files_of_a_trick_share_its_name_and_its_source_is_cited(name):
    assert (ROOT / f"tests/tricks/test_{name}.py").exists()
    assert f"`{name}`" in (ROOT / "README.md").read_text()
    module = importlib.import_module(f"tricks.{name}")
    assert "https://" in module.__doc__
    assert "https://" in (CONF / f"tricks/{name}.yaml").read_text()


@every_trick
def test_a_trick_changes_the_training_and_the_same_seed_gives_the_same_bits(name):
    runs = [trained(3, make(name)), trained(3, make(name)), trained(3)]
    one, again, plain = map(evaluated, runs)
    assert all(value.isfinite().all() for value in one.values())
    assert same(one, again)
    assert not same(one, plain)


@every_trick
def test_switching_a_trick_on_moves_no_other_random_stream(name):
    states = []
    for chosen in ([], [make(name)]):
        evaluated(trained(2, *chosen))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def companies():
    """As many tricks together as can be, each trick in one company at least.

    >>> len(companies()) > 1  # since some put their own in place of the same
    True
    """
    left, found = [class_of(name) for name in NODES], []
    while left:
        company = []
        for kind in (*left, *map(class_of, NODES)):
            taken = {what for other in company for what in other.replaces}
            if kind not in company and not taken.intersection(kind.replaces):
                company.append(kind)
        left = [kind for kind in left if kind not in company]
        found.append(suited([make(kind.name) for kind in tricks.in_order(company)]))
    return found


def suited(chosen):
    """Centralize the update where another optimizer decouples weight decay, as its error asks."""
    if not any("optimizer" in trick.replaces for trick in chosen):
        return chosen
    update = dataclasses.replace(make("centralization"), where="update")
    return [update if trick.name == "centralization" else trick for trick in chosen]


COMPANIES = companies()
CHAINS = {
    **{name: [make(name)] for name in NODES},
    **{f"company {n}": company for n, company in enumerate(COMPANIES, start=1)},
    "quantile": [tricks.Clipping(by="quantile", quantile=0.5, warmup=2)],  # one with a history
}


QUICK = ("quantile", "clipping", "schedule_free", *(n for n in CHAINS if n.startswith("company")))
every_chain = pytest.mark.parametrize("named", few(CHAINS, QUICK))


@every_chain
def test_a_training_resumes_bit_identically(named):
    chain = CHAINS[named]
    straight = trained(2, *copy.deepcopy(chain), parts=Parts(5))
    torch.save(straight.state_dict(), file := io.BytesIO())
    file.seek(0)
    stopped = training(*copy.deepcopy(chain), parts=Parts(5))
    stopped.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        step(straight)
        step(stopped)
    assert same(straight.model.state_dict(), stopped.model.state_dict())
    assert same(evaluated(straight), evaluated(stopped))
    assert straight.recent.means() == stopped.recent.means()


@every_chain
def test_an_evaluation_leaves_the_training_as_it_is(named):
    chain = CHAINS[named]
    plain, looked_at = (training(*copy.deepcopy(chain), parts=Parts(5)) for _ in range(2))
    for _ in range(3):
        step(plain)
        step(looked_at)
        random = torch.get_rng_state()
        evaluated(looked_at)
        assert torch.equal(torch.get_rng_state(), random)
    assert same(plain.model.state_dict(), looked_at.model.state_dict())
    assert same(evaluated(plain), evaluated(looked_at))


@every_chain
def test_a_second_training_with_the_same_tricks_equals_one_with_fresh_ones(named):
    chain = CHAINS[named]
    used, fresh = copy.deepcopy(chain), copy.deepcopy(chain)
    earlier = training(*used, classes=3)
    for _ in range(3):
        whole = batch(earlier.updates, earlier.trick)
        earlier.step(whole._replace(targets=torch.full((len(whole.targets), 3), 1 / 3)))
    runs = [trained(3, *tricks, parts=Parts(5)) for tricks in (used, fresh)]
    assert same(*map(evaluated, runs))
    assert runs[0].recent.means() == runs[1].recent.means()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
@every_chain
def test_a_copy_in_mid_training_trains_bit_identically(named, again):
    chain = CHAINS[named]
    loop = Loop(chain, network())
    loop.step()
    copied = again(loop)
    for each in (loop, copied):
        each.step()
    assert same(loop.model.state_dict(), copied.model.state_dict())
    assert torch.equal(loop.answers(), copied.answers())


def pairs():
    """Quick are those of which one must follow the other, those refused and every tenth else."""
    others = 0
    for pair in itertools.combinations(NODES, 2):
        first, second = tricks.in_order(map(class_of, pair))
        replaced = {*first.replaces} & {*second.replaces}
        others += (is_other := first.__name__ not in second.after and not replaced)
        yield pytest.param(*pair, marks=pytest.mark.slow if is_other and others % 10 else ())


@pytest.mark.parametrize(("one", "other"), [*pairs()])
def test_every_pair_trains_in_its_order_or_is_refused_with_the_reason(one, other):
    ordered = tricks.in_order([class_of(one), class_of(other)])
    pair = [make(kind.name) for kind in ordered]
    if {*ordered[0].replaces} & {*ordered[1].replaces}:
        with pytest.raises(ValueError, match=rf"{ordered[0].__name__} and .* Keep one of them\."):
            Chain(*pair)
        return
    plain, pair = pair, suited(pair)
    if pair != plain:
        with pytest.raises(ValueError, match=r"Set where=update"):
            training(*plain)
    assert all(value.isfinite().all() for value in evaluated(trained(1, *pair)).values())
    if ordered[0].__name__ in ordered[1].after:
        with pytest.raises(ValueError, match="must come after"):
            Chain(*reversed(pair))


@pytest.mark.parametrize("company", COMPANIES)
def test_all_tricks_together_are_right_under_micro_batches_and_scaling(company):
    runs = [training(*copy.deepcopy(company), parts=Parts(5)) for _ in range(2)]
    runs[0].scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for run in runs:
        step(run)
        step(run)
    assert same(*map(evaluated, runs))
