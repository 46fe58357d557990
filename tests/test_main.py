"""The command line as a person types it: real processes, in a folder of their own."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from runner.__main__ import main
from runner.versions import _installed, made_by, version_of
from tests.conftest import ROOT, biscuits, few_of

OWN = ROOT / "examples" / "own"
OWN_PARTS = (
    *("UnitGradients", "stripes", "shallow", "SignSGD"),
    *("focal", "cohen_kappa", "Speckle"),
)


COMPOSED = {
    ("tricks.cliping.enabled=true",): "is not a setting. Did you mean tricks.clipping.enabled?",
    ("model=resnet21",): "model=resnet21 is not an option. Did you mean resnet",
    ("tricks=[cliping]",): "tricks=cliping is not an option. Did you mean clipping?",
    ("tricks=[clipping", "seed=1"): "lacks a closing bracket. Write 'tricks=[clipping]'.",
    ("-cp", "nowhere", "-cn", "config"): "--config-path must be a folder, got nowhere.",
    ("--experimental-rerun", "config.pickle"): "would unpickle a file",
    ("~model",): "No model is chosen. Write model=OPTION.",
    ("model=null",): "A group must be given one of its options",
}
CHECKED = {
    ("tricks=[clipping]", "tricks.clipping.max_norm=-1"): "Clipping.max_norm must be",
    ("tricks.flooding.level=0.1",): "flooding is off. Switch it on with 'tricks=[flooding]'",
    ("data=image_folder", "data.root=nowhere"): "data.root: nowhere does not exist.",
    ("device=cuda:7",): "device=cuda:7: torch sees no CUDA card here",
    ("optimizer.lr=-1",): "optimizer:",
    ("precision=bfloat16", "device=cpu"): "precision must be float32 on this processor",
    ("memory_format=channels_last", "model.width=4"): "memory_format must be contiguous",
}


QUICK = (("model=resnet21",), ("--experimental-rerun", "config.pickle"))  # a process each


@pytest.mark.parametrize(("arguments", "message"), few_of(COMPOSED, QUICK), ids=str)
def test_a_mistake_in_the_command_is_one_line_and_leaves_nothing_behind(
    tmp_path, arguments, message
):
    code, out, complaint = biscuits(tmp_path, *arguments)
    assert code != 0
    assert message in complaint
    assert len(complaint.strip().splitlines()) == 1, complaint
    assert out == ""
    assert not list(tmp_path.glob("outputs/*"))


@pytest.mark.parametrize(("arguments", "message"), CHECKED.items(), ids=str)
def test_a_mistake_in_a_value_is_one_line_and_leaves_nothing_behind(
    tmp_path, monkeypatch, capsys, arguments, message
):
    if "precision" in arguments[0] and "AVX512" in torch.backends.cpu.get_cpu_capability():
        pytest.skip("this processor has bfloat16 of its own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["biscuits", *arguments])
    with pytest.raises(SystemExit) as ended:  # the command itself, without waiting for torch
        main()
    assert message in str(ended.value)
    assert "\n" not in str(ended.value)
    assert not any(capsys.readouterr())
    assert not list(tmp_path.glob("outputs/*"))


def test_the_version_is_that_of_biscuits(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["biscuits", "--version"])
    main()
    assert capsys.readouterr().out.startswith("Biscuits 0.")


def test_a_checkout_that_is_not_installed_has_no_version(monkeypatch):
    def lacks(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr("runner.versions.version", lacks)
    _installed.cache_clear()
    assert made_by() == "Biscuits from a checkout"
    assert version_of("torch") == torch.__version__
    monkeypatch.undo()
    _installed.cache_clear()
    assert made_by() == f"Biscuits {version('biscuits-bench')}"


@pytest.mark.parametrize("arguments", [("--help",), ("--cfg", "job")], ids=str)
def test_a_reader_that_stops_early_is_no_error(tmp_path, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""


@pytest.mark.slow
def test_a_data_set_that_cannot_be_downloaded_is_one_line(tmp_path):
    proxy = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    code, _, complaint = biscuits(tmp_path, "data=cifar10", **proxy)
    assert code != 0
    assert len(complaint.strip().splitlines()) == 1, complaint
    assert "cifar10" in complaint


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Do the command in this process, without waiting for torch; give back what it printed."""

    def here(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["biscuits", *arguments])
        main()
        return capsys.readouterr().out

    return here


def test_one_run_twice_and_again_from_its_saved_config(tmp_path, here):
    short = (
        "epochs=2",
        "batch_size=256",
        "model.width=4",
        "tricks=[clipping,flooding]",
        "tricks.flooding.level=0.05",
    )
    code, out, complaint = biscuits(tmp_path, *short)
    assert code == 0, complaint
    (place,) = tmp_path.glob("outputs/digits-resnet8/*/seed=0")
    result = (place / "result.json").read_bytes()
    assert "test accuracy" in out

    out = here(*short)
    assert "test accuracy" in out
    assert "epoch 1/2" not in out, "a finished run must not be done twice"

    config = (place / "config.yaml").read_bytes()
    out = here("-cp", str(place.relative_to(tmp_path)), "-cn", "config", "again=true")
    assert "epoch 1/2" in out
    assert (place / "result.json").read_bytes() == result
    assert (place / "config.yaml").read_bytes() == config


@pytest.mark.slow
def test_a_sweep_names_its_runs_and_the_report_tells_mean_and_spread(tmp_path):
    code, out, complaint = biscuits(
        tmp_path,
        "-m",
        "tricks=[clipping]",
        "tricks.clipping.max_norm=0.1,1",
        "seed=range(2)",
        "epochs=1",
        "batch_size=256",
        "name=sweep",
    )
    assert code == 0, complaint
    places = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("result.json")}
    assert places == {
        f"outputs/sweep/{variant}+epochs=1+batch_size=256/seed={seed}"
        for variant in ("clipping", "clipping-max_norm=0.1")
        for seed in (0, 1)
    }
    code, out, complaint = biscuits(tmp_path, "outputs/sweep", module="runner.report")
    assert code == 0, complaint
    accuracies = [json.loads(p.read_text())["test/accuracy"] for p in tmp_path.rglob("result.json")]
    assert len(accuracies) == 4
    assert "±" in out
    page = (tmp_path / "outputs/sweep/report.html").read_text()
    assert page.count("<svg") == 2
    assert "This is a plain sweep: it is listed, not judged." in page
    code, _, complaint = biscuits(tmp_path, "outputs/nothing", module="runner.report")
    assert code != 0
    assert "outputs/nothing: no such folder" in complaint


@pytest.mark.slow
def test_runs_side_by_side_give_the_bits_of_runs_one_by_one(tmp_path):
    sweep = ("-m", "tricks=[],[label_smoothing]", "epochs=1", "batch_size=256", "threads=1")
    for name, launcher in (("one", "basic"), ("side", "joblib")):
        code, _, complaint = biscuits(
            tmp_path, *sweep, f"hydra/launcher={launcher}", f"name={name}"
        )
        assert code == 0, complaint
    results = [
        sorted(p.read_text() for p in (tmp_path / "outputs" / n).rglob("result.json"))
        for n in ("one", "side")
    ]
    assert len(results[0]) == 2
    assert results[0] == results[1]


@pytest.mark.slow
def test_in_a_sweep_one_bad_run_is_told_and_the_others_are_done(tmp_path):
    code, out, complaint = biscuits(
        tmp_path, "-m", "optimizer.lr=1e30,0.1", "scheduler=constant", "epochs=1", "batch_size=256"
    )
    assert code != 0
    assert "diverged" in out
    assert "diverged" in complaint
    assert "Traceback" not in complaint
    assert len(list(tmp_path.rglob("result.json"))) == 1


def test_a_config_from_elsewhere_cannot_have_hydra_run_what_it_names(tmp_path):
    mark = tmp_path / "executed"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text(
        "hydra: {callbacks: {x: {_target_: pathlib.Path.touch, self: "
        f"{{_target_: pathlib.Path, _args_: [{mark}]}}}}}}}}\nname: x\n"
    )
    code, _, complaint = biscuits(tmp_path, "-cp", "./foreign/", "-cn", "config")
    assert code != 0
    assert "must be the config of one run, got one with hydra" in complaint
    assert not mark.exists()


def test_a_users_preset_with_parameters_is_no_trick_of_its_own(tmp_path):
    (tmp_path / "conf" / "tricks").mkdir(parents=True)
    (tmp_path / "conf" / "tricks" / "gentle.yaml").write_text(
        "defaults: [clipping, _self_]\nclipping: {max_norm: 0.5}\n"
    )
    code, out, _ = biscuits(
        tmp_path, "-cd", "conf", "tricks=gentle", "--cfg", "job", "-p", "tricks.clipping"
    )
    assert code == 0
    assert "max_norm: 0.5" in out
    assert "_target_: tricks.Clipping" in out
    assert "enabled: true" in out


@pytest.mark.slow
def test_a_users_own_trick_model_data_and_optimizer_need_no_change_of_ours(tmp_path):
    own = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{OWN}",
        "BISCUITS_ALLOW": ", ".join(f"own_parts.{name}" for name in OWN_PARTS),
    }
    given = ("--config-dir", str(OWN / "conf"), "data=stripes", "model=shallow", "epochs=3")
    code, _, complaint = biscuits(tmp_path, *given, "tricks=[unit_gradients,clipping]", **own)
    assert code == 0, complaint
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["test/accuracy"] > 0.9
    assert "unit_gradients" in (result.parent / "config.yaml").read_text()
    code, _, complaint = biscuits(
        tmp_path, *given, "optimizer=sign_sgd", "experiment=stripes", **own
    )
    assert code == 0, complaint
    (result,) = (tmp_path / "outputs/stripes").rglob("result.json")
    assert json.loads(result.read_text())["test/cohen_kappa"] > 0.5
    code, _, complaint = biscuits(tmp_path, *given, **{**own, "BISCUITS_ALLOW": ""})
    assert code != 0
    assert "set BISCUITS_ALLOW=own_parts" in complaint
    assert len(complaint.strip().splitlines()) == 1


def test_a_plain_sweep_ends_with_its_table_the_best_and_what_to_type(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep = ["-m", "optimizer.lr=0.05,0.1,-1", "epochs=1", "threads=1", "model.width=4"]
    monkeypatch.setattr(sys, "argv", ["biscuits", *sweep, "name=lr"])
    with pytest.raises(SystemExit, match="Invalid learning rate"):  # one of them is refused
        main()
    out = capsys.readouterr().out
    rows = [line.split()[:2] for line in out.splitlines() if line.startswith("0.")]
    assert sorted(rows) == [["0.05", "1"], ["0.1", "1"]]
    assert "Best by validation accuracy: lr=0." in out
    assert "The same again: python -m runner.report outputs/lr" in out
    assert (tmp_path / "outputs/lr/report.html").exists()
    assert len(list(tmp_path.glob("outputs/lr/means/*/hparams"))) == 2
