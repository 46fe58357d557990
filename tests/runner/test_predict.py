"""Predicting with what a run left: its own answers, from image files, by the command."""

import csv
import os
import signal
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from runner import data
from runner.build import build
from runner.data.listing import scan
from runner.errors import UserError
from runner.predict import main
from runner.run import model_file
from runner.store.runs import read_run
from runner.trained import load_run
from tests.conftest import HEARS_CTRL_C, run_in, settings, start

TINY = ("epochs=1", "batch_size=8", "model.width=2", "name=x")
PLACES = ("a", "a/x", "a b", "a b/y/z", "c")
"""Folders of images, below each split, of the classes `a`, `a b` and `c`."""


def noise(seed, height=9, width=12):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A run on JPEG files, and its folder of images."""
    place = tmp_path_factory.mktemp("photos")
    root, cache = place / "root", place / "cache"
    for number in range(58):
        name = ("train", "train", "test")[number % 3]
        folder = root / name / PLACES[number % 5]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(folder / f"{97 * number % 60}.jpg")
    (root / "test/c/.hidden.jpg").write_bytes(b"no image")
    (root / "test/c/notes.txt").write_text("no image")
    given = ("data=image_folder", f"data.root={root}", f"data.cache={cache}")
    run_in(place / "seed=0", *given, *TINY)
    return SimpleNamespace(run=place / "seed=0", root=root)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    place = tmp_path_factory.mktemp("digits") / "seed=0"
    run_in(place, "epochs=1", "batch_size=512", "model.width=2", "name=x")
    return place


def probabilities(run, size):
    """The probabilities of a run's own test answers, in the batches of its evaluation."""
    logits = torch.from_numpy(read_run(run, "x").predictions()[0])
    return torch.cat([block.softmax(1) for block in logits.split(size)]).numpy()


def code(*arguments):
    """Run the command; give back its exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code
    return 0


def rows(file):
    with file.open(newline="") as opened:
        return list(csv.reader(opened))


def test_a_folder_of_the_test_images_gets_the_answers_of_the_run_to_the_bit(photos, tmp_path):
    file = tmp_path / "answers.csv"
    assert code(photos.run, photos.root / "test", "--csv", file) == 0
    head, *found = rows(file)
    assert head == ["file", "class", "probability", "a", "a b", "c"]
    listing = scan(photos.root)
    own = [str(photos.root / listing.files[number].path) for number in listing.test]
    assert [row[0] for row in found] == own
    expected = probabilities(photos.run, 8)
    assert np.array_equal(np.array([row[3:] for row in found], np.float32), expected)
    assert [row[1] for row in found] == [head[3 + n] for n in expected.argmax(1)]
    assert [np.float32(row[2]) for row in found] == [*expected.max(1)]


@pytest.mark.parametrize(
    "given",
    [
        ("tricks=[anti_aliasing]", "model.width=8", "memory_format=channels_last"),
        ("precision=bfloat16", "allow_emulated=true", "tricks=[clipping,label_smoothing]"),
        pytest.param(
            ("model=torchvision", "model.name=mobilenet_v3_small", "model.width=null"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda given: given[0],
)
def test_a_rebuilt_network_computes_as_the_runs_own_did(tmp_path, given):
    given = [each for each in given if each != "model.width=null"]
    width = [] if given[0].startswith("model=") else ["model.width=2"]
    run_in(tmp_path / "run", "epochs=1", "batch_size=512", "name=x", *width, *given)
    before = torch.get_rng_state()
    model = load_run(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert not model.network.training
    images = data.digits().test.images
    logits = torch.cat([model.answer(block) for block in images.split(512)]).numpy()
    expected, _ = read_run(tmp_path / "run", "x").predictions()
    assert np.array_equal(logits, expected)
    assert np.array_equal(model.predict(images).numpy(), probabilities(tmp_path / "run", 512))


def test_the_same_run_leaves_the_same_bytes_and_no_path(photos, tmp_path):
    given = ("data=image_folder", f"data.root={photos.root}", f"data.cache={tmp_path}")
    run_in(tmp_path / "again", *given, *TINY)
    content = (photos.run / "model.pt").read_bytes()
    assert (tmp_path / "again/model.pt").read_bytes() == content
    assert os.fsencode(photos.root.parent) not in content
    assert torch.load(photos.run / "model.pt", weights_only=True)["classes"] == ["a", "a b", "c"]


def test_images_of_other_sizes_and_colours_are_read_and_resized(digits, tmp_path, capsys):
    for seed, size in enumerate(((8, 8), (30, 20))):
        Image.fromarray(noise(seed, *size)).save(tmp_path / f"{seed}.png")
    model = load_run(digits)
    small, large = (model.read(tmp_path / f"{n}.png") for n in (0, 1))
    grey = Image.open(tmp_path / "0.png").convert("L")
    assert np.abs(small[0].numpy().astype(int) - np.asarray(grey)).max() <= 1
    grey.save(tmp_path / "2.png")
    assert np.array_equal(model.read(tmp_path / "2.png")[0], np.asarray(grey))
    assert small.shape == large.shape == (1, 8, 8)
    assert code(digits, tmp_path, "--top", 2) == 0
    out, complaint = capsys.readouterr()
    assert "0.png" in out
    assert "class 2" in out
    assert "1 of 3 images were resized to 8 x 8 pixels" in complaint


def test_what_cannot_be_read_is_named_and_left_out_as_if_it_were_not_there(
    photos, tmp_path, capsys
):
    answers = []
    for bad in (False, True):
        folder = tmp_path / f"{bad}"
        folder.mkdir()
        for number in range(20):
            Image.fromarray(noise(number)).save(folder / f"{number}.jpg")
        for name in ("05.jpg", "1\x1b[31m.png") if bad else ():
            (folder / name).write_bytes(b"no image")
        assert code(photos.run, folder, "--csv", tmp_path / f"{bad}.csv") == 0
        answers.append([row[1:] for row in rows(tmp_path / f"{bad}.csv")])
    assert answers[0] == answers[1]
    complaint = capsys.readouterr().err
    assert "True/05.jpg (not a readable image)" in complaint
    assert "2 of 22 images could not be read" in complaint
    assert "\x1b" not in complaint
    assert code(photos.run, tmp_path / "True/05.jpg", "--csv", tmp_path / "none.csv") == 1
    assert not [*tmp_path.glob("*none*")]


def test_a_file_that_is_no_table_of_answers_is_not_written_over(digits, tmp_path, capsys):
    Image.fromarray(noise(0)).save(tmp_path / "0.png")
    file = tmp_path / "mine.csv"
    file.write_text("a,b\n1,2\n")
    assert code(digits, tmp_path, "--csv", file) == 1
    assert "is there already, and is no table of answers" in capsys.readouterr().err
    assert file.read_text() == "a,b\n1,2\n"
    file.unlink()
    assert code(digits, tmp_path, "--csv", file) == 0
    first = file.read_text()
    assert code(digits, tmp_path, "--csv", file, "--top", 1) == 0
    assert [len(row) for row in rows(file)] == [3, 3]
    assert first.splitlines()[1].startswith(",".join(rows(file)[1]))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("RUN", "nowhere"), "nowhere does not exist. Give image files, or folders"),
        (("RUN", "empty"), "empty has no images, at any depth. Expected files that end in .jpg"),
        (("RUN", "empty/0.png", "--top", "11"), "--top must be from 1 to the 10 classes, got 11."),
        (("RUN", "0.png", "--device", "gpu"), "device must be auto, cpu, cuda or cuda:N, got gpu"),
        (("RUN", "0.png", "--csv", "no/x.csv"), "--csv: the folder no does not exist. Create it."),
        (("nowhere", "0.png"), "nowhere does not exist. Give the folder of a run"),
        (("empty", "0.png"), "empty is not the folder of a run. Give one"),
        (("x", "0.png"), "x is not the folder of a run. Give one, such as x/y/seed=0."),
        (("stopped", "0.png"), "stopped is not done (stopped), so it has no model.pt. Finish it"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_is_wrong_is_one_line(digits, tmp_path, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise(0)).save("0.png")
    for folder in ("empty", "stopped", "x/y/seed=0"):
        os.makedirs(folder)
    os.link(digits / "model.pt", "x/y/seed=0/model.pt")
    os.link(digits / "config.yaml", "stopped/config.yaml")
    (tmp_path / "stopped/status.json").write_text('{"format": 1, "status": "stopped"}')
    if arguments[1] == "empty/0.png":
        os.link("0.png", "empty/0.png")
    assert code(*(digits if each == "RUN" else each for each in arguments)) == 1
    out, complaint = capsys.readouterr()
    assert out == ""
    assert complaint.startswith(line)
    assert complaint.count("\n") == 1


def test_a_mistyped_option_is_answered_with_the_nearest(capsys):
    assert code("run", "0.png", "--cvs", "x") == 2
    assert "unrecognized arguments: --cvs x. Did you mean --csv?" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_half_written_and_memory_stays_bounded(photos, tmp_path):
    many, file = tmp_path / "many", tmp_path / "out.csv"
    many.mkdir()
    Image.fromarray(noise(0)).save(tmp_path / "0.jpg")
    for number in range(20_000):
        os.link(tmp_path / "0.jpg", many / f"{number}.jpg")
    options = {**HEARS_CTRL_C, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    arguments = (photos.run, many, "--csv", file)
    with start(tmp_path, *map(str, arguments), module="runner.predict", options=options) as process:
        while not [*tmp_path.glob(".out.csv.*")]:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert not [*tmp_path.glob("*out.csv*")]


def test_another_name_gets_the_weights_of_the_moment(tmp_path):
    given = settings("model.width=2", "epochs=1")
    bench = build(given)
    model_file.write(tmp_path, given, bench, "best.pt")
    found = load_run(tmp_path / "best.pt").network.state_dict()
    expected = bench.training.model.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    with pytest.raises(UserError, match=r"is not the folder of a run"):
        load_run(tmp_path)
