"""Images for the tests of data, in folders and in files, whole and damaged."""

import os
import re
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from runner.errors import UserError
from tests.conftest import ROOT, biscuits

DATA_FILES, CACHES = "damaged or wrong data files", "damaged caches"

TENTHS = range(10)

EACH = [7, pytest.param(1, marks=pytest.mark.slow)]  # bytes


def refusal(read, *arguments):
    """Return the error of refused data: one printable line, with what to do at its end."""
    with pytest.raises(UserError) as caught:
        read(*arguments)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 2000
    assert re.search(r"\S\. [A-Z].*[.?]$", text), text
    return text


def picture(seed, height=6, width=5, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(root, name, pixels):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / name)


NAMES = (
    "train/cat/a.png",
    "train/cat/b.png",
    "train/dog/a.png",
    "test/cat/z.png",
    "test/dog/y.png",
)


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def make_folder(root):
    for seed, name in enumerate(NAMES):
        write(root, name, picture(seed))
    return root


def pixels_of(split):
    """Return all the images of a split, in one tensor."""
    return torch.cat([*split.chunks()])


def assert_right(source):
    images = torch.cat([pixels_of(source.train), pixels_of(source.test)])
    wanted = [torch.from_numpy(picture(n)).permute(2, 0, 1) for n in range(len(NAMES))]
    assert torch.equal(images, torch.stack(wanted))
    assert source.train.labels.tolist() == [0, 0, 1]


@contextmanager
def released(pipe):
    """Give back, after a while, who waits for a pipe: so that a test fails, and does not hang."""
    timer = threading.Timer(5, lambda: os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK)))
    timer.start()
    yield
    assert timer.is_alive(), "the pipe was waited for"
    timer.cancel()


@contextmanager
def without_rights():
    """Let the rights of files count, also for root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def put(path, content):
    path.write_bytes(content)


def flipped(content, place, bit=0):
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def cache_file(cache):
    (file,) = cache.iterdir()
    return file


def refused_by_command(folder, *arguments, **environment):
    """Give back what the command tells of a run that it must refuse."""
    path = f"{ROOT}:{folder}"
    code, _, complaint = biscuits(folder, *arguments, PYTHONPATH=path, **environment)
    assert code == 1
    assert not list(folder.rglob("metrics.jsonl"))
    return complaint.splitlines()
