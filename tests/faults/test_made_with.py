"""What the bits of a run depend on: the user's own code whole, libraries, variables, flags."""

import os
import random
import warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import nn

from runner.build import build
from runner.errors import UserError
from runner.models import resnet18_cifar
from runner.run import checkpoint, own_code
from runner.run.attempt import resume_or_run
from runner.run.fingerprint import bits_depend_on, fingerprint
from runner.run.own_code import digest_own
from runner.run.process import isolated, read_flags
from runner.store.files import read_json
from runner.train import Training
from tests.conftest import few_of, run_in, settings

SHORT = ("epochs=1", "batch_size=500", "model.width=2")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package, which re-exports, and a module beside it that it imports within a function."""
    folder = tmp_path / "own"
    for name, code in {
        "mypkg/__init__.py": "from mypkg.net import small",
        "mypkg/net.py": "def small():\n    from myhelper.scale import SCALE\n    import json",
        "mypkg/sub/deep.py": "DEEP = 1",
        "myhelper/scale.py": "import myother\nSCALE = 1.0",  # a package without __init__.py
        "myother.py": "try:\n    import not_there\nexcept ImportError: ...",
        "mystranger.py": "UNUSED = 1",
    }.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def digest(*modules):
    own_code._digest.cache_clear()
    return digest_own(modules or ("mypkg",))


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("mypkg/__init__.py", True),
        ("mypkg/net.py", True),
        ("mypkg/sub/deep.py", True),
        ("mypkg/sub/new.py", True),
        ("mypkg/fast.so", True),
        ("myhelper/scale.py", True),
        ("myother.py", True),
        ("mystranger.py", False),
        ("mypkg/notes.md", False),
        ("mypkg/__pycache__/net.cpython-311.pyc", False),
        ("mypkg/.hidden/x.py", False),
    ],
)
def test_an_edit_anywhere_in_own_code_is_seen(own, file, counts):
    before = digest()
    place = own / file
    place.parent.mkdir(exist_ok=True)
    with open(place, "a") as opened:
        opened.write("# edited")
    assert (digest() != before) == counts
    after = digest()
    place.unlink()
    assert (digest() != after) == counts


@pytest.mark.usefixtures("own")
def test_own_code_is_the_same_whatever_else_is_loaded_and_in_whatever_order():
    alone = digest("mypkg")
    import mystranger  # noqa: F401

    assert digest("mypkg") == alone
    both = digest("mypkg", "mystranger")
    assert alone != both == digest("mystranger", "mypkg")
    assert digest("mypkg.net", "mypkg", "runner.data", "torch.optim") == alone
    assert digest("runner.data", "torch.optim", "tricks") is None


def test_code_without_its_source_counts_too(own):
    import py_compile

    py_compile.compile(str(own / "mystranger.py"), str(own / "mybytes.pyc"))
    before = digest("mybytes")
    (own / "mybytes.pyc").write_bytes((own / "mybytes.pyc").read_bytes() + b"x")
    assert None not in (before, digest("mybytes"))
    assert before != digest("mybytes")


@pytest.mark.parametrize("library", ["torchvision", "timm", None])
def test_the_library_that_the_layers_of_a_model_are_from_counts(library):
    model: nn.Module = nn.Sequential(nn.Linear(2, 2))
    if library == "torchvision":
        model = resnet18_cifar(channels=1, classes=2)  # ours, of its layers
    elif library == "timm":
        model.append(pytest.importorskip("timm").layers.DropPath())
    found = bits_depend_on(fingerprint(settings(), torch.device("cpu"), model))
    assert found["torch"] == version("torch")
    assert {name for name in ("torchvision", "timm") if name in found} == {library} - {None}


VARIABLES = {
    "ONEDNN_MAX_CPU_ISA": True,
    "DNNL_MAX_CPU_ISA": True,
    "ONEDNN_DEFAULT_FPMATH_MODE": True,
    "MKL_CBWR": True,
    "MKL_DEBUG_CPU_TYPE": True,
    "OMP_DYNAMIC": True,
    "KMP_DETERMINISTIC_REDUCTION": True,
    "ATEN_CPU_CAPABILITY": True,
    "NVIDIA_TF32_OVERRIDE": True,
    "CUBLAS_WORKSPACE_CONFIG": True,
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": True,
    "OMP_NUM_THREADS": False,
    "KMP_INIT_AT_FORK": False,
    "ONEDNN_VERBOSE": False,
    "TORCH_HOME": False,
    "TORCH_LOGS": False,
    "HOME": False,
}
QUICK = ("ONEDNN_MAX_CPU_ISA", "NVIDIA_TF32_OVERRIDE", "ONEDNN_VERBOSE", "HOME")


@pytest.mark.parametrize(("name", "counts"), few_of(VARIABLES, QUICK))
def test_a_variable_that_changes_how_torch_computes_counts(monkeypatch, name, counts):
    before = bits_depend_on(fingerprint(settings(), torch.device("cpu")))
    monkeypatch.setenv(name, "AVX2")
    after = bits_depend_on(fingerprint(settings(), torch.device("cpu")))
    assert (after != before) == counts


def test_a_run_resumes_only_with_the_variables_and_flags_that_it_was_begun_with(
    tmp_path, monkeypatch
):
    result = run_in(tmp_path / "run", *SHORT)
    (tmp_path / "run/result.json").unlink()
    with monkeypatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        with pytest.raises(
            UserError, match=r"variables changed \(None -> ONEDNN_MAX_CPU_ISA=AVX2\)"
        ):
            run_in(tmp_path / "run", *SHORT)
    with isolated():
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(UserError, match=r"flags changed \(None -> .*=medium"):
            run_in(tmp_path / "run", *SHORT)
    assert run_in(tmp_path / "run", *SHORT) == result


def test_an_older_checkpoint_which_tells_of_less_resumes(tmp_path):
    result = run_in(tmp_path / "run", *SHORT)
    (tmp_path / "run/result.json").unlink()
    state = checkpoint.load(tmp_path / "run")
    for key in ("variables", "flags"):
        del state["made_with"][key]
    checkpoint.save(tmp_path / "run", state)
    assert run_in(tmp_path / "run", *SHORT) == result


def disturb(*_):
    """Change what one may change of a process."""
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    torch.backends.cudnn.benchmark = True
    torch.backends.mkldnn.deterministic = True
    torch.use_deterministic_algorithms(mode=True)
    torch.set_flush_denormal(True)
    torch.set_grad_enabled(False)
    torch.set_default_device("meta")
    nn.modules.module.register_module_forward_hook(lambda *_: None)
    warnings.simplefilter("ignore")
    random.seed(1)
    np.random.seed(1)
    os.environ |= {"OMP_DYNAMIC": "true"}
    raise ValueError("disturbed")


def everything():
    hooks = dict(nn.modules.module._global_forward_hooks)
    state = random.getstate(), np.random.get_state()[1].tolist(), dict(os.environ)
    grad = torch.is_grad_enabled(), torch.get_default_device().type
    return read_flags(), hooks, state, grad, list(warnings.filters)


def test_a_run_leaves_the_process_to_the_next_one_as_it_was(tmp_path, monkeypatch):
    given = settings(*SHORT)
    before = everything()
    (tmp_path / "run").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", disturb)
        with pytest.raises(UserError, match="disturbed"):
            resume_or_run(tmp_path / "run", given, quiet=True)
    assert everything() == before
    assert read_json(tmp_path / "run/run.json")[0]["flags"] is None


def test_what_goes_beyond_the_compilers_limit_ends_the_run():
    import torch._dynamo.config as limits

    bench = build(settings("compile=true", *SHORT))
    assert limits.recompile_limit > 100
    model = bench.training.model
    model.compile(backend="eager", dynamic=False)
    with limits.patch(recompile_limit=1):
        model(torch.zeros(2, 1, 8, 8))
        with pytest.raises(Exception, match="recompile_limit"):
            model(torch.zeros(3, 1, 8, 8))
