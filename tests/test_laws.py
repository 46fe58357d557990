"""The laws that hold for every trick in conf/tricks, whatever it does."""

import copy
import dataclasses
import importlib
import io
import pickle

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

import tricks
from runner.models import cifar_resnet
from runner.names import CONF
from runner.train import Training
from tests.conftest import ROOT
from tricks import Batch, Chain, Trick

NODES = {
    name: node
    for file in sorted(CONF.glob("tricks/*.yaml"))
    for name, node in OmegaConf.to_container(OmegaConf.load(file)).items()
    if name != "defaults"
}
NOTICEABLE = {"flooding": {"level": 5.0}, "clipping": {"max_norm": 0.01}}
"""Parameters with which a trick changes even the first update; the defaults elsewhere."""

HOOKS = ("model", "optimizer", "schedule", "batch", "loss", "gradients", "weights")

every_trick = pytest.mark.parametrize("name", NODES)


def class_of(name):
    return getattr(tricks, NODES[name]["_target_"].removeprefix("tricks."))


def make(name):
    return class_of(name)(**NOTICEABLE.get(name, {}))


def defaults_of(kind):
    return {field.name: field.default for field in dataclasses.fields(kind) if field.init}


def network(classes=10):
    torch.manual_seed(0)
    return cifar_resnet(depth=8, width=8, channels=3, classes=classes)


def batch(seed, samples=12):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 3, 16, 16, generator=generator)
    return Batch(inputs, torch.randint(10, (samples,), generator=generator))


def training(*chosen, classes=10, **options):
    chain = Chain(*chosen)
    model = chain.model(network(classes)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    return Training(model, chain.optimizer(optimizer), chain, lambda _: 0.5, 2, **options)


def weights_after(updates, *chosen, **options):
    run = training(*chosen, **options)
    for seed in range(updates):
        run.step(batch(seed))
    return run.model.state_dict()


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
    run = training(trick := make(name))
    run.step(batch(0))
    if type(trick).__dataclass_params__.frozen:
        assert vars(trick).keys() == defaults_of(type(trick)).keys()
        hash(tuple(vars(trick).values()))  # a list, a dict or a set has none


@every_trick
def test_tricks_in_different_states_are_not_equal(name):
    run, fresh = training(used := make(name)), make(name)
    run.step(batch(0))
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
    one = weights_after(2, make(name))
    assert all(value.isfinite().all() for value in one.values())
    assert same(one, weights_after(2, make(name)))
    assert not same(one, weights_after(2))


@every_trick
def test_switching_a_trick_on_moves_no_other_random_stream(name):
    states = []
    for chosen in ([], [make(name)]):
        training(*chosen).step(batch(0))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def all_together():
    return [make(kind.name) for kind in tricks.in_order([class_of(name) for name in NODES])]


CHAINS = {
    **{name: [make(name)] for name in NODES},
    "all": all_together(),
    "quantile": [tricks.Clipping(by="quantile", quantile=0.5, warmup=2)],  # one with a history
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_training_resumes_bit_identically(chain):
    straight = training(*copy.deepcopy(chain), micro_batch_size=5)
    for seed in range(4):
        straight.step(batch(seed))
        if seed == 1:
            file = io.BytesIO()
            torch.save(straight.state_dict(), file)
            file.seek(0)
    stopped = training(*copy.deepcopy(chain), micro_batch_size=5)
    stopped.load_state_dict(torch.load(file, weights_only=True))
    for seed in (2, 3):
        stopped.step(batch(seed))
    assert same(straight.model.state_dict(), stopped.model.state_dict())
    assert straight.recent.means() == stopped.recent.means()


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_second_training_with_the_same_tricks_equals_one_with_fresh_ones(chain):
    used, fresh = copy.deepcopy(chain), copy.deepcopy(chain)
    earlier = training(*used, classes=3)
    for seed in range(3):
        earlier.step(batch(seed)._replace(targets=torch.full((12, 3), 1 / 3)))
    runs = [training(*tricks, micro_batch_size=5) for tricks in (used, fresh)]
    for run in runs:
        for seed in range(3):
            run.step(batch(seed))
    assert same(*(run.model.state_dict() for run in runs))
    assert runs[0].recent.means() == runs[1].recent.means()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_copy_in_mid_training_trains_bit_identically(chain, again):
    chain = Chain(*copy.deepcopy(chain))
    model = chain.model(network()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    runs = [(model, chain.optimizer(optimizer), chain)]
    update(*runs[0], 0)
    runs.append(again(runs[0]))
    for run in runs:
        update(*run, 1)
    assert same(*(model.state_dict() for model, _, _ in runs))


def update(model, optimizer, chain, seed):
    optimizer.zero_grad()
    micro = chain.batch(batch(seed), torch.Generator().manual_seed(seed))
    losses = F.cross_entropy(model(micro.inputs), micro.targets, reduction="none")
    loss = chain.loss(losses).mean()
    loss.backward()
    chain.gradients(model, optimizer, loss.detach())
    optimizer.step()


@pytest.mark.parametrize("one", NODES)
@pytest.mark.parametrize("other", NODES)
def test_every_pair_trains_in_its_order_and_is_refused_in_the_wrong_one(one, other):
    if one == other:
        pytest.skip("not a pair")
    ordered = tricks.in_order([class_of(one), class_of(other)])
    after = weights_after(1, *(make(kind.name) for kind in ordered))
    assert all(value.isfinite().all() for value in after.values())
    if {k.__name__ for k in ordered} & {name for k in ordered for name in k.after}:
        with pytest.raises(ValueError, match="must come after"):
            Chain(*(make(kind.name) for kind in reversed(ordered)))


def test_all_tricks_together_are_right_under_micro_batches_and_scaling():
    chosen = all_together()
    scaled = training(*copy.deepcopy(chosen))
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    plain = training(*chosen)
    for seed in range(2):
        scaled.step(batch(seed))
        plain.step(batch(seed))
    assert same(plain.model.state_dict(), scaled.model.state_dict())
