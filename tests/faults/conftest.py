"""What the tests of faults share: folders to run the command in, damaged runs, images, signals."""

import json
import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path

import joblib
import pytest
import torch
import yaml

from runner import verify
from runner.__main__ import main
from runner.data import image_folder
from runner.run import attempt as run_module
from runner.train import Training
from tests.builders import tricks, write_ablation
from tests.conftest import run_in, settings
from tests.faults.images import make_folder
from tests.faults.payloads import EVIL, OnLoad
from tests.faults.run_folders import RunFolders, seal

RESULT = {"test/accuracy": 0.5, "test/loss": 1.0, "test/shift_consistency": 0.5, "inactive": []}


class Command:
    """The command in this process, in a folder of its own; everything is real but the training."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch, self.runs = folder, monkeypatch, []
        monkeypatch.chdir(folder)
        monkeypatch.setattr(run_module, "attempt", self.attempt)

    def attempt(self, folder, given, *_, **__):
        self.runs.append((folder, given))
        return RESULT

    def run(self, *arguments):
        """Run it; give back its last line, None if it succeeded."""
        self.runs.clear()
        self.monkeypatch.setattr(sys, "argv", ["biscuits", *arguments])
        try:
            main()
        except SystemExit as error:  # every other exception fails the test
            return error.code
        return None


class Sandbox(Command):
    """A folder with what payloads need, and the mark that none of them may leave."""

    def __init__(self, folder, monkeypatch):
        super().__init__(folder, monkeypatch)
        self.mark, self.bad = folder / "mark", folder / "bad.pickle"
        bite = OnLoad(Path.touch, self.mark)
        self.bad.write_bytes(pickle.dumps(bite))
        torch.save(bite, folder / "bad.pt")
        joblib.dump(bite, folder / "bad.joblib")
        for name in ("hub/hubconf.py", "evil/__init__.py", "evil/sub.py"):
            self.write(name, EVIL)
        monkeypatch.setenv("EVIL_MARK", str(self.mark))
        monkeypatch.syspath_prepend(str(folder))

    def path(self):
        return {"_target_": "pathlib.Path", "_args_": [str(self.mark)]}

    def write(self, name, content):
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(file.parent)

    def experiment(self, content, *arguments):
        """Carry a config in an experiment of a --config-dir."""
        self.write("cd/experiment/x.yaml", "# @package _global_\n" + yaml.safe_dump(content))
        return ("-cd", "cd", "experiment=x", *arguments)

    def option(self, group, content, *arguments):
        """Carry a config as an option of a group."""
        self.write(f"cd/{group}/x.yaml", content)
        return ("-cd", "cd", f"{group}=x", *arguments)

    def saved(self, **changes):
        """Carry a config as the saved one of a run."""
        plain = json.loads(json.dumps(settings().to_dict()))
        self.write("run/config.yaml", {**plain, "name": "x", **changes})
        return "-cp", "run", "-cn", "config"

    def refuses(self, *arguments):
        line = self.run(*arguments)
        assert isinstance(line, str), (arguments, line)
        assert line.strip(), arguments
        assert line.isprintable(), (arguments, line)
        assert not self.mark.exists(), (arguments, line)
        assert not list(self.folder.glob("outputs/*")), (arguments, line)
        forget()
        return line


def forget():
    """Have the next import of what is evil execute it again."""
    for name in ("evil", "evil.sub"):
        sys.modules.pop(name, None)


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    yield Sandbox(tmp_path, monkeypatch)
    forget()


@pytest.fixture
def command(tmp_path, monkeypatch):
    folder = tmp_path / "cwd"
    folder.mkdir()
    return Command(folder, monkeypatch)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """An ablation whose files are all there, and a real run."""
    place = tmp_path_factory.mktemp("whole")
    write_ablation(place / "mine", tricks(clipping=0.03), seeds=2, samples=50)
    run = place / "one/baseline/seed=0"
    run.parent.mkdir(parents=True)
    run_in(run, "epochs=2", "batch_size=256", "model.width=4", "tricks=[clipping]")
    for folder in (place / "mine").glob("*/seed=*"):
        for name in ("config.yaml", "checkpoint.pt", ".lock"):
            shutil.copy(run / name, folder / name)
        seal(folder)
    (place / "outside").mkdir()
    (place / "outside/secret").write_text("the user's own")
    return place


@pytest.fixture
def folders(whole, tmp_path, capsys, monkeypatch):
    """A copy; done again is by copying too, and pictures are not drawn, for the time they take."""

    def copied(_, place, *__):
        shutil.copytree(whole / "one/baseline/seed=0", place, dirs_exist_ok=True)

    monkeypatch.setattr(verify, "_do_again", copied)
    folders = RunFolders(shutil.copytree(whole, tmp_path / "folders"), capsys)
    yield folders
    assert not folders.mark.exists()
    assert {path.name: path.read_bytes() for path in folders.outside.iterdir()} == {
        "secret": b"the user's own"
    }


@pytest.fixture
def folder(tmp_path):
    """A folder of images."""
    return make_folder(tmp_path / "images")


@pytest.fixture
def cache(tmp_path):
    """Its folder, not made yet."""
    return tmp_path / "cache"


@pytest.fixture
def read(folder, cache):
    def read(**arguments):
        return image_folder(root=str(folder), cache=str(cache), **arguments)

    return read


@pytest.fixture
def public():
    """A folder that anybody may enter: pytest's own belong to their user."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def signal_after(monkeypatch):
    """Have real signals sent to this process in the middle of chosen updates, each once."""

    def signal_after(sent):
        step = Training.step

        def stepped(training, *given):
            step(training, *given)
            for number in sent.pop(training.updates, ()):
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Training, "step", stepped)

    return signal_after
