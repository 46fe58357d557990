"""Weights are loaded completely or not at all, and nothing of a file is executed."""

import os
import sys
import zipfile

import pytest
import safetensors.torch as safetensors
import torch

from runner.build import build
from runner.errors import UserError
from runner.models import cifar_resnet
from runner.models.weights import Origin, load_weights
from runner.run import checkpoint
from runner.run.resume import environment
from tests.conftest import settings

MACHINE = {
    **{"device": "cpu", "processor": "", "capability": "", "variables": None, "flags": None},
    **{"code": {"digest": "", "own": ""}, "made of": {}, "libraries": {"torch": ""}},
}


def small(**changes):
    return cifar_resnet(**{"depth": 8, "width": 2, "channels": 1, "classes": 3, **changes})


def assert_loaded(model, state):
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def prefixed(prefix):
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "pack",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": prefixed("model.")(state), "loops": {"fit": {}}},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
        lambda state: {"model": prefixed("module.")(state), "model_ema": state},
        lambda state: {"state_dict": prefixed("net._orig_mod.module.")(state)},
        prefixed("module."),
        prefixed("_orig_mod."),
        lambda state: {k.replace("1.0.", "1._orig_mod.0."): v for k, v in state.items()},
        lambda state: {"n_averaged": torch.tensor(3), **prefixed("module.")(state)},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        lambda state: {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
    ],
)
def test_weights_are_loaded_bit_for_bit_also_from_others_checkpoints(pack, tmp_path):
    saved, model = small(), small()
    torch.save(pack(saved.state_dict()), tmp_path / "weights.pt")
    assert load_weights(model, str(tmp_path / "weights.pt"), classes=3) == Origin()
    assert_loaded(model, saved.state_dict())


def test_wrapped_models_are_saved_under_names_that_are_read(tmp_path):
    saved, model = small(), small()
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(saved))
    for wrapped in (averaged, torch.nn.DataParallel(saved)):  # torch.compile takes seconds
        torch.save(wrapped.state_dict(), tmp_path / "weights.pt")
        assert "conv.weight" not in wrapped.state_dict()
        load_weights(model, str(tmp_path / "weights.pt"), classes=3)
        assert_loaded(model, saved.state_dict())


def test_the_checkpoint_of_a_run_is_where_another_may_begin(do, tmp_path):
    small_run = ("epochs=1", "batch_size=256", "model.width=3", "tricks=[anti_aliasing]")
    do(*small_run, "memory_format=channels_last", "seed=3")
    file = tmp_path / "run" / "checkpoint.pt"
    trained = checkpoint.load(tmp_path / "run")["training"]["model"]
    for tricks in ("[anti_aliasing]", "[]"):
        given = settings("model.width=3", f"model.weights='{file}'", f"tricks={tricks}")
        assert_loaded(build(given).training.model, trained)
    with pytest.raises(UserError, match=r"does not fit the CifarResNet; of wrong shape: conv\.w"):
        build(settings("model.width=5", f"model.weights='{file}'"))


def write_model(folder, model, mean, std, **facts):
    """Write the model.pt of a run, as far as it matters here."""
    node = {"_target_": "runner.models.cifar_resnet", "depth": 8, "width": 2}
    facts = {"architecture": {"model": node, "channels": 1}, "mean": mean, "std": std, **facts}
    folder.mkdir(exist_ok=True)
    torch.save({"format": 1, "model": model.state_dict(), **facts}, folder / "model.pt")


def test_of_the_folder_of_a_run_its_model_is_loaded_with_how_it_was_normalised(tmp_path):
    saved, model = small(), small()
    torch.save({"training": {"model": small().state_dict()}}, tmp_path / "checkpoint.pt")
    assert load_weights(small(), str(tmp_path), classes=3) == Origin()
    write_model(tmp_path, saved, [0.25], [0.5])
    found = load_weights(model, str(tmp_path), classes=3)
    assert [each.tolist() for each in found.statistics] == [[0.25], [0.5]]
    assert_loaded(model, saved.state_dict())
    for mean, std in (([0.25], [0.0]), ([0.25], [0.5, 0.5]), ("x", [1.0]), ([float("nan")], [1.0])):
        write_model(tmp_path, saved, mean, std)
        with pytest.raises(UserError, match=r"model\.pt has no mean and std of each channel"):
            load_weights(small(), str(tmp_path), classes=3)


def test_a_run_begins_with_the_weights_and_the_normalisation_of_another(tmp_path):
    saved = small(classes=10)
    write_model(tmp_path / "it", saved, [0.25], [0.5])
    given = ("model.width=2", "batch_size=200")
    bench = build(settings(*given, f"model.weights='{tmp_path}/it'"))
    assert_loaded(bench.training.model, saved.state_dict())
    assert (bench.data.mean.tolist(), bench.data.std.tolist()) == ([0.25], [0.5])
    pixels = bench.data.test.images_of(torch.tensor([0])) / 255
    torch.testing.assert_close(next(bench.test.epoch(0)).inputs[:1], (pixels - 0.25) / 0.5)
    assert "normalised as theirs were, mean 0.25, std 0.5" in bench.notes[-1]
    read, plain = environment(bench, MACHINE), environment(build(settings(*given)), MACHINE)
    assert "the first weights" not in plain
    write_model(tmp_path / "it", small(classes=10), [0.25], [0.5])
    again = environment(build(settings(*given, f"model.weights='{tmp_path}/it'")), MACHINE)
    assert {key for key in read if read[key] != again[key]} == {"the first weights"}


def test_weights_of_another_model_say_which(tmp_path):
    node = {"_target_": "runner.models.cifar_resnet", "depth": 20, "width": 16}
    architecture = {"model": node, "channels": 3}
    write_model(tmp_path, small(width=3), [0.5], [0.5], architecture=architecture)
    message = (
        r"These are weights of model=resnet20 for images of 3 channels\. "
        r"Choose that model, and such images\."
    )
    with pytest.raises(UserError, match=message):
        load_weights(small(), str(tmp_path), classes=3)
    node |= {"_target_": "runner.models.timm_model", "name": "vit", "kwargs": {"img_size": 8}}
    write_model(tmp_path, small(width=3), [0.5], [0.5], architecture={"model": node})
    message = r"These are weights of model=timm .*model\.name=vit model\.kwargs={img_size:8}"
    with pytest.raises(UserError, match=message):
        load_weights(small(), str(tmp_path), classes=3)
    (tmp_path / "model.pt").rename(tmp_path / "it.pt")
    with pytest.raises(UserError, match=r"it\.pt does not fit .* These are weights of model=timm"):
        load_weights(small(), str(tmp_path / "it.pt"), classes=3)


def test_a_folder_of_runs_names_one(tmp_path):
    (tmp_path / "baseline/seed=0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"ends in seed=N\. Did you mean .*/baseline/seed=0\?"):
        load_weights(small(), str(tmp_path), classes=3)


def test_a_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(small().state_dict(), tmp_path / "weights.pt")
    load_weights(small(), "~/weights.pt", classes=3)


def test_safetensors_are_read(tmp_path):
    saved, model = small(), small()
    safetensors.save_file(saved.state_dict(), tmp_path / "weights.safetensors")
    load_weights(model, str(tmp_path / "weights.safetensors"), classes=3)
    assert_loaded(model, saved.state_dict())
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"half\.safetensors is damaged, or not a file of torch"):
        load_weights(small(), str(tmp_path / "half.safetensors"), classes=3)


def test_without_safetensors_a_line_names_the_package(tmp_path, monkeypatch):
    safetensors.save_file(small().state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"not installed\. Run pip install safetensors\."):
        load_weights(small(), str(tmp_path / "weights.safetensors"), classes=3)


def test_a_classifier_for_other_classes_stays_as_it_is_and_that_is_told(tmp_path):
    saved, model = small(classes=1000), small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save({"state_dict": prefixed("module.")(saved.state_dict())}, tmp_path / "weights.pt")
    told = load_weights(model, str(tmp_path / "weights.pt"), classes=3)
    assert told.notes == (
        f"{tmp_path}/weights.pt is for 1000 classes, not 3: classifier.weight, classifier.bias "
        "were not loaded, and keep their random values",
    )
    head = {key: before[key] for key in ("classifier.weight", "classifier.bias")}
    assert_loaded(model, {**saved.state_dict(), **head})


@pytest.mark.parametrize("change", [{"width": 3}, {"channels": 3}, {"depth": 14}])
def test_another_network_is_no_other_classifier(tmp_path, change):
    torch.save(small(classes=5, **change).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"does not fit the CifarResNet; .*Choose the model"):
        load_weights(small(), str(tmp_path / "weights.pt"), classes=3)


def test_of_two_that_fit_none_is_chosen(tmp_path):
    one, other = small().state_dict(), small().state_dict()
    torch.save({"model": one, "state_dict": other}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"under model, state_dict\. Save those that you want"):
        load_weights(small(), str(tmp_path / "weights.pt"), classes=3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda w: w.to_sparse(),
            r"conv\.weight \[2, 1, 3, 3\] not dense instead of \[2, 1",
        ),
        (lambda w: w.to("meta"), r"conv\.weight \[2, 1, 3, 3\] not dense instead of"),
        (lambda w: (9 * w).int(), r"conv\.weight \[2, 1, 3, 3\] of integers instead of"),
        (lambda w: w.to(torch.complex64), r"conv\.weight \[2, 1, 3, 3\] complex instead of"),
        (lambda w: w[None], r"conv\.weight \[1, 2, 1, 3, 3\] instead of"),
    ],
)
def test_tensors_that_cannot_be_copied_are_named(tmp_path, change, told):
    state = small().state_dict()
    torch.save({**state, "conv.weight": change(state["conv.weight"])}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=told):
        load_weights(small(), str(tmp_path / "weights.pt"), classes=3)


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(5 * 10**6)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(UserError, match=r"packed\.pt would unpack to 20,\d+,\d+ bytes, which "):
        load_weights(small(), str(tmp_path / "packed.pt"), classes=3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_scripts_and_whole_models_are_refused(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(UserError, match=r"script\.pt is a TorchScript archive, which holds code"):
        load_weights(small(), str(tmp_path / "script.pt"), classes=3)
    torch.save(small(), tmp_path / "module.pt")
    with pytest.raises(UserError, match=r"module\.pt holds more than tensors; .*torch\.save\(mod"):
        load_weights(small(), str(tmp_path / "module.pt"), classes=3)


def test_all_that_does_not_fit_is_named_and_nothing_is_loaded(tmp_path):
    state = small(classes=4).state_dict()
    state["head.weight"] = state.pop("conv.weight")
    torch.save(state, tmp_path / "weights.pt")
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as refusal:
        load_weights(model, str(tmp_path / "weights.pt"), classes=3)
    for part in (
        "does not fit the CifarResNet; ",
        "missing: conv.weight;",
        "unexpected: head.weight;",
        "of wrong shape: classifier.weight [4, 8] instead of [3, 8], classifier.bias [4]",
    ):
        assert part in str(refusal.value)
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)


def test_an_unexpected_key_alone_is_refused(tmp_path):
    torch.save({**small().state_dict(), "ema.decay": torch.ones(())}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"; unexpected: ema\.decay\. Choose"):
        load_weights(small(), str(tmp_path / "weights.pt"), classes=3)


def test_a_long_list_of_keys_is_cut(tmp_path):
    torch.save({}, tmp_path / "weights.pt")
    keys = [key for key in small().state_dict() if not key.endswith("num_batches_tracked")]
    message = rf"missing: {', '.join(keys[:5])} and {len(keys) - 5} more\. "
    with pytest.raises(UserError, match=message):
        load_weights(small(), str(tmp_path / "weights.pt"), classes=3)


def test_a_value_that_is_not_a_tensor_is_of_wrong_shape(tmp_path):
    torch.save({**small().state_dict(), "conv.weight": 1.0}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"conv\.weight float instead of \[2, 1, 3, 3\]"):
        load_weights(small(), str(tmp_path / "weights.pt"), classes=3)


class Payload:
    """The content of a malicious checkpoint: unpickled, it creates a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_and_runs_none(zipped, tmp_path):
    content = {**small().state_dict(), "payload": Payload(tmp_path / "harm")}
    torch.save(content, tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=r"weights\.pt holds more than tensors; .* any code\. Expected"
    ):
        load_weights(small(), str(tmp_path / "weights.pt"), classes=3)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda _: b"", lambda _: b"hello"])
def test_a_damaged_file_is_refused(damage, tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(small().state_dict(), file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        UserError, match=r"weights\.pt is damaged, or not a file of torch\.save\. Expected"
    ):
        load_weights(small(), str(file), classes=3)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([torch.ones(3)], tmp_path / "weights.pt")
    with pytest.raises(
        UserError, match=r"weights\.pt holds a list, not a dictionary of tensors\. "
    ):
        load_weights(small(), str(tmp_path / "weights.pt"), classes=3)


@pytest.mark.parametrize("name", ["nowhere.pt", "."])
def test_a_missing_file_is_refused(name, tmp_path):
    with pytest.raises(
        UserError, match=r"(pt does not exist\. Expected a run's folder|a folder without model)"
    ):
        load_weights(small(), str(tmp_path / name), classes=3)
