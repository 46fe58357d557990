"""Torchvision's sets, damaged or cut short, and what a function of the user's own gives back."""

import gzip
import hashlib
import http.server
import os
import pickle
import socket
import struct
import threading
import time
import urllib.request

import numpy as np
import pytest
import torch
from filelock import FileLock
from torchvision import datasets

from runner.data import Source, Split, check_source, torchvision_set
from tests.faults.images import DATA_FILES, IMAGES, LABELS, TENTHS, put, refusal, refused_by_command
from tests.faults.payloads import OnLoad

PIXELS, NUMBERS = torch.from_numpy(IMAGES).permute(0, 3, 1, 2), torch.from_numpy(LABELS)

SOUND = Split(PIXELS, NUMBERS)


def source(train=SOUND, test=SOUND, classes=("a", "b", "c")):
    return Source(train, test, classes)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "must return a runner.data.Source, got NoneType. "),
        (source(train=None), "train must be a runner.data.Split, got NoneType. "),
        (source(test=(PIXELS, NUMBERS)), "test must be a runner.data.Split, got tuple. "),
        (source(classes=None), "classes must be a tuple of str, got None. "),
        (source(classes="abc"), "classes must be a tuple of str, got abc. "),
        (source(classes=(0, 1, 2)), "classes must be a tuple of str, got (0, 1, 2). "),
        (source(classes=("a\n", "a\n", "c")), r"different names, got a\n, a\n, c. "),
        (source(classes=("a",)), "two or more different names, got a. Add a second class. "),
        (source(Split(PIXELS / 255, NUMBERS)), "got float32 [6, 3, 5, 5]. "),
        (source(Split(PIXELS / 0.0, NUMBERS)), "got float32 [6, 3, 5, 5] with NaN or infinity"),
        (source(Split((PIXELS / 0.0).half(), NUMBERS)), "got float16 [6, 3, 5, 5] with NaN or"),
        (source(Split(PIXELS > 9, NUMBERS)), "got bool [6, 3, 5, 5]. "),
        (source(Split(PIXELS.to(torch.int16), NUMBERS)), "got int16 [6, 3, 5, 5]. "),
        (source(Split(PIXELS, NUMBERS, NUMBERS - 1)), "train.rows must be from 0 to 5, as there"),
        (source(Split(PIXELS, NUMBERS, NUMBERS + 4)), "as there are 6 images, got 6. Return the"),
        (source(Split(PIXELS, NUMBERS, NUMBERS[:4])), "labels must be int64 [4], one for each"),
        (source(Split(PIXELS, NUMBERS, NUMBERS.int())), "train.rows must be int64 [N] or None"),
        (source(Split(IMAGES, NUMBERS)), "got ndarray. "),
        (source(Split(PIXELS.to("meta"), NUMBERS)), "on the CPU, got torch.strided on meta. "),
        (
            source(Split(PIXELS, NUMBERS.to_sparse())),
            "dense tensor on the CPU, got torch.sparse_coo",
        ),
        (
            source(Split(PIXELS[:0], NUMBERS[:0])),
            "train is empty: uint8 [0, 3, 5, 5]. ",
        ),
        (source(Split(PIXELS[..., :0], NUMBERS)), "train is empty: uint8 [6, 3, 5, 0]. "),
        (source(Split(PIXELS, NUMBERS[:5])), "labels must be int64 [6], one for each image, got"),
        (source(Split(PIXELS, NUMBERS > 0)), "got bool [6]. "),
        (source(Split(PIXELS, NUMBERS - 1)), "labels must be from 0 to 2, as there are 3 classes"),
        (
            source(test=Split(PIXELS, NUMBERS + 2**40)),
            "as there are 3 classes, got 1099511627778. ",
        ),
        (
            source(test=Split(PIXELS[:, :1], NUMBERS)),
            "training images have the shape (3, 5, 5), the test images (1, 5, 5). ",
        ),
        (source(Split(PIXELS, NUMBERS * 0)), "no training images of class b, c. "),
    ],
)
def test_a_function_of_the_users_own_that_gives_back_the_wrong_thing_is_refused(
    given, told, faults
):
    assert told.rstrip() in refusal(check_source, given, "data (mine)")
    faults(DATA_FILES)


def idx(array):
    """MNIST's own format, https://yann.lecun.com/exdb/mnist: big-endian sizes, then bytes."""
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


DIGITS = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)

MNIST = {
    "train-images-idx3-ubyte": DIGITS,
    "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
    "t10k-images-idx3-ubyte": DIGITS,
    "t10k-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
}


@pytest.fixture
def raw(tmp_path):
    """The folder of MNIST's files, which torchvision reads unchecked."""
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for name, array in MNIST.items():
        put(folder / name, idx(array))
    return folder


def read_mnist(raw, download=True):
    source = torchvision_set(name="mnist", root=str(raw.parent.parent), download=download)
    check_source(source, "data")
    return source


@pytest.mark.parametrize("name", MNIST)
def test_a_file_of_mnist_cut_short_at_any_tenth_is_named_damaged(raw, faults, name):
    assert len(read_mnist(raw).train.labels) == 20
    whole = (raw / name).read_bytes()
    for tenth in TENTHS:
        put(raw / name, whole[: len(whole) * tenth // 10])
        assert f"data=mnist: the files in {raw} are damaged: " in refusal(read_mnist, raw)
    faults(DATA_FILES, len(TENTHS))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train-images-idx3-ubyte", idx(DIGITS[0]), "are damaged: "),
        ("train-images-idx3-ubyte", b"\x00\x00\x0d\x03" + bytes(12), "are damaged: "),
        ("train-images-idx3-ubyte", b"\x00\x00\x0a\x03" + bytes(12), "are damaged: "),
        ("train-images-idx3-ubyte", b"\xff" * 999, "are damaged: "),
        ("train-images-idx3-ubyte", idx(DIGITS)[:-1] + b"xx", "are damaged: "),
        ("t10k-images-idx3-ubyte", idx(DIGITS[:, :9]), "the test images (1, 9, 28). "),
        ("train-labels-idx1-ubyte", idx(np.arange(19, dtype=np.uint8) % 10), "one for each image"),
        ("train-labels-idx1-ubyte", idx(np.arange(20, dtype=np.uint8)), "from 0 to 9"),
        (
            "train-labels-idx1-ubyte",
            idx(np.zeros(20, np.uint8)),
            "no training images of class 1 - one, ",
        ),
    ],
)
def test_wrong_files_of_mnist_are_refused(raw, faults, name, content, told):
    put(raw / name, content)
    assert told in refusal(read_mnist, raw, False)
    faults(DATA_FILES)


def test_a_damaged_batch_of_cifar_is_not_unpickled(tmp_path, faults):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", *(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        put(folder / name, pickle.dumps(OnLoad(os.mkdir, str(tmp_path / "sprung"))))
    text = refusal(lambda: torchvision_set(name="cifar10", root=str(tmp_path), download=False))
    assert f"no complete copy in {tmp_path}, and data.download is false. " in text
    assert not (tmp_path / "sprung").exists()
    faults(DATA_FILES, 7)


@pytest.fixture
def mirror(monkeypatch):
    """A server of MNIST's archives, with a list of what was asked for; `cut` sends the half."""
    archives = {f"/{name}.gz": gzip.compress(idx(array)) for name, array in MNIST.items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        asked, cut = [], False

        def do_GET(self):
            content = archives[self.path]
            self.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if Handler.cut else content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        sums = [(name[1:], hashlib.md5(content).hexdigest()) for name, content in archives.items()]
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        monkeypatch.setattr(datasets.MNIST, "resources", sums)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        urllib.request.install_opener(None)  # it remembers the proxies
        yield Handler
        server.shutdown()


def test_a_download_cut_short_is_refused_and_fetched_again(tmp_path, mirror, faults):
    mirror.cut = True
    raw = tmp_path / "MNIST/raw"
    assert "the download failed: " in refusal(read_mnist, raw)
    mirror.cut = False
    assert torch.equal(read_mnist(raw).train.images[:, 0], torch.from_numpy(DIGITS))
    faults(DATA_FILES)


def test_of_runs_that_start_together_one_downloads_for_all(tmp_path, mirror):
    raw, got = tmp_path / "MNIST/raw", []
    runs = [threading.Thread(target=lambda: got.append(read_mnist(raw))) for _ in range(3)]
    with FileLock(tmp_path / ".MNIST.lock"):  # as one that downloads has it
        for run in runs:
            run.start()
        time.sleep(0.1)
        assert mirror.asked == []
    for run in runs:
        run.join()
    assert len(got) == 3
    assert len(set(mirror.asked)) == 4
    assert all(mirror.asked.count(path) <= 2 for path in mirror.asked)  # its head, and itself
    assert socket.getdefaulttimeout() is None


OWN = """
import torch
from runner.data import Source, Split

def load(test=None):
    split = Split(torch.full((4, 1, 8, 8), torch.nan), torch.tensor([0, 1, 0, 1]))
    return Source(split, split, ("a", "b"))
"""


@pytest.mark.slow
def test_the_command_refuses_what_a_function_of_the_users_own_gives_back(tmp_path, faults):
    (tmp_path / "own_images.py").write_text(OWN)
    (told,) = refused_by_command(
        tmp_path, "data._target_=own_images.load", BISCUITS_ALLOW="own_images.load"
    )
    assert told.startswith(
        "data (own_images.load): train.images must be uint8 or uint16 [N, C, H, W], got "
    )
    assert "float32 [4, 1, 8, 8] with NaN or infinity in it. " in told
    faults(DATA_FILES)
