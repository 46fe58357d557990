"""What is typed: options of Hydra's that would unpickle or lead astray, and completion of words."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, few_of

OPTIONS = {
    ("--experimental-rerun", "bad.pickle"): "would unpickle",
    ("--experimental-rerun=bad.pickle",): "would unpickle",
    ("--experimental-re", "bad.pickle"): "would unpickle",
    ("--exp=bad.pickle",): "would unpickle",
    ("--config-pa", "nowhere"): "--config-path must be a folder",
    ("-cpnowhere",): "invalid choice",
    ("-cp", "pkg://evil"): "--config-path must be a folder",
    ("-cn", "../run/config"): "must lie in the folder",
    ("-cn", "{folder}/run/config"): "must lie in the folder",
    ("-cd", "run", "-cn", "../run/config"): "must lie in the folder",
    ("data=../../run/config",): "must lie in the folder",
    ("-cd", "nowhere"): "--config-dir: no folder nowhere",
    ("model=\x1b[31mx",): "",
    ("model='\u202ex'",): "",
    ("+x\u202e=1",): "",
    ("--bogus",): "unrecognized arguments: --bogus",
    ("-m", "--cfg", "job"): "multirun and cfg at once",
    ("--resolve",): "--resolve without --cfg",
    ("--cfg", "bogus"): "invalid choice",
    ("hydra.searchpath=[structured://]",): "hydra.searchpath must be left",
    ("hydra.job.env_copy=[PATH]",): "hydra.job.env_copy must be left as it is",
    ("+hydra.job.env_set.X=1",): "hydra.job.env_set.X must be left as it is, got 1. Set it",
    ("hydra.job.chdir=true",): "hydra.job.chdir must be left as it is, got True. Name the runs",
    ("hydra.job.name=../../x", "hydra/job_logging=default"): "hydra.job.name must be left",
    ("hydra.overrides.hydra=[a]",): "hydra.overrides.hydra must be left",
    ("~hydra/job_logging",): "must be left",
    ("hydra=null",): "must be",
    ("hydra.launcher=null",): "must be left",
}
QUICK = (
    *(("--exp=bad.pickle",), ("-cp", "pkg://evil"), ("-cn", "../run/config")),
    *(("data=../../run/config",), ("-cd", "nowhere"), ("model='\u202ex'",), ("--bogus",)),
    *(("-m", "--cfg", "job"), ("hydra.searchpath=[structured://]",), ("hydra=null",)),
    *(("+hydra.job.env_set.X=1",), ("~hydra/job_logging",)),
)


@pytest.mark.parametrize(("arguments", "told"), few_of(OPTIONS, QUICK), ids=str)
def test_what_is_typed_cannot_lead_hydra_astray_either(sandbox, arguments, told, faults):
    sandbox.saved(hydra={"callbacks": {"x": {"_target_": "evil.touch"}}})
    line = sandbox.refuses(*(argument.format(folder=sandbox.folder) for argument in arguments))
    assert told in line
    faults("hostile configs")


def test_completion_prints_only_plain_words(sandbox, capsys):
    name = f"$(touch {sandbox.mark.name})"
    for file in (name, "`touch mark`", "plain_é-1.npz", "a b;c"):
        sandbox.write(f"stranger/{file}", "")
    line = "biscuits data=npz data.root=./stranger/"
    sandbox.monkeypatch.setenv("COMP_LINE", line)
    for shell in ("bash", "fish"):
        assert sandbox.run("-sc", f"query={shell}") is None
        assert "./stranger/plain_é-1.npz" in (words := capsys.readouterr().out)
        assert not set(words) & set("$`();")
    if not (bash := shutil.which("bash")):
        return
    sandbox.run("-sc", "install=bash")
    script = capsys.readouterr().out
    biscuits_here = f'#!/bin/sh\nexec {sys.executable} -m runner "$@"\n'
    sandbox.write("bin/biscuits", biscuits_here)
    (sandbox.folder / "bin/biscuits").chmod(0o755)
    press = f"""COMP_LINE={line!r} COMP_POINT={len(line)} COMP_CWORD=2
hydra_bash_completion; echo "${{COMPREPLY[@]}}" """
    paths = {"PATH": f"{sandbox.folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [bash, "-c", f"{script}\n{press}"],
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "data.root=./stranger/plain_é-1.npz" in done.stdout, done.stderr
    assert not sandbox.mark.exists()
