"""Public data sets and the user's own arrays: digits, torchvision's sets, npz."""

import os
import socket
import struct
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from runner.data import check_source, digits, npz, sets, split_source, torchvision_set
from runner.data.sets import TORCHVISION, _channels_second
from runner.errors import UserError


def test_digits_are_those_of_scikit_learn_each_once():
    source = digits()
    check_source(source, "data")
    images = torch.cat([source.train.images, source.test.images])
    labels = torch.cat([source.train.labels, source.test.labels])
    content = load_digits()

    def pairs(images, labels):
        return sorted(
            (tuple(i.flatten().tolist()), int(n)) for i, n in zip(images, labels, strict=True)
        )

    levels = [round(level * 255 / 16) for level in range(17)]
    theirs = [[[levels[int(v)] for v in row] for row in image] for image in content.images]
    assert pairs(images, labels) == pairs(torch.tensor(theirs), content.target)


@pytest.mark.parametrize("change", [("DIGITS_SHA256", ""), ("find_spec", lambda _: None)])
def test_digits_that_are_not_in_the_known_file_are_read_by_scikit_learn_to_the_same_bits(
    change, monkeypatch
):
    usual = digits()
    monkeypatch.setattr("runner.data.sets." + change[0], change[1])
    found = digits()
    for one, other in ((found.train, usual.train), (found.test, usual.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert found.classes == usual.classes


def test_the_test_digits_are_a_fifth_of_each_class_and_always_the_same():
    one, other = digits(), digits()
    assert torch.equal(one.test.images, other.test.images)
    assert len(one.test.labels) == 359
    share = one.test.labels.bincount() / torch.from_numpy(load_digits().target).bincount()
    assert ((share - 0.2).abs() < 0.005).all()


def test_any_share_of_the_digits_can_be_the_test_set_and_a_fifth_is_that_of_none():
    assert torch.equal(digits(test=0.2).test.images, digits().test.images)
    half = digits(test=0.5)
    check_source(half, "data")
    assert (len(half.train.labels), len(half.test.labels)) == (899, 898)
    assert half.test.labels.bincount().min() >= 87
    for share, count in ((0.0001, 0), (0.999, 1795)):
        with pytest.raises(UserError, match=rf"^data.test={share} takes {count} of 1,797 images"):
            digits(test=share)


def write_mnist(root, split, images, labels):
    """MNIST's own format, https://yann.lecun.com/exdb/mnist: big-endian sizes, then bytes."""
    root.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">IIII", 0x803, *images.shape)
    (root / f"{split}-images-idx3-ubyte").write_bytes(head + images.tobytes())
    head = struct.pack(">II", 0x801, len(labels))
    (root / f"{split}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The folder of the cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BISCUITS_CACHE", str(folder))
    return folder


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
@pytest.mark.parametrize("download", [True, False])
def test_existing_files_of_mnist_are_read_without_a_network(tmp_path, name, folder, download):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    write_mnist(tmp_path / folder / "raw", "train", images, labels)
    write_mnist(tmp_path / folder / "raw", "t10k", images[:5], labels[:5])
    source = torchvision_set(name=name, root=str(tmp_path), download=download)
    check_source(source, "data")
    train, test = (torch.cat([*split.chunks()]) for split in (source.train, source.test))
    assert torch.equal(train, torch.from_numpy(images)[:, None])
    assert torch.equal(source.train.labels, torch.from_numpy(labels).long())
    assert torch.equal(test, train[:5])
    assert len(source.classes) == 10


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Write a small MNIST; give back what reads it, and how often its own files were read."""
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    raw, opened, usual = tmp_path / "data" / "MNIST" / "raw", [], sets._open
    for split, some in (("train", slice(20)), ("t10k", slice(20, 30))):
        write_mnist(raw, split, images[some], np.arange(30, dtype=np.uint8)[some] % 10)
    monkeypatch.setattr(sets, "_open", lambda *given: opened.append(0) or usual(*given))

    def read():
        return torchvision_set("mnist", str(tmp_path / "data"), download=False), len(opened)

    return read, raw, images


def test_a_set_is_read_once_and_mapped_from_then_on(mnist):
    read, _, images = mnist
    for number in range(3):
        source, opened = read()
        assert opened == 1, number
        check_source(source, "data")
        assert torch.equal(source.train.images, torch.from_numpy(images)[:, None])
        assert source.test.images.data_ptr() == source.train.images.data_ptr()
        for split, numbers in ((source.train, range(20)), (source.test, range(20, 30))):
            assert split.rows.tolist() == [*numbers]
            assert split.labels.tolist() == [n % 10 for n in numbers]
        assert source.classes[:2] == ("0 - zero", "1 - one")


def replace_file(file, content):
    """Put another file of the same size and time in the place of one."""
    about = file.stat()
    other = file.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.replace(file)


@pytest.mark.parametrize("change", [Path.write_bytes, replace_file])
def test_a_set_whose_files_change_is_read_again(mnist, change):
    read, raw, images = mnist
    assert [read()[1] for _ in range(2)] == [1, 1]
    content = bytearray((raw / "train-images-idx3-ubyte").read_bytes())
    content[-1] ^= 1
    change(raw / "train-images-idx3-ubyte", bytes(content))
    source, opened = read()
    assert opened == 2
    assert source.train.images_of(torch.tensor([19]))[0, 0, -1, -1] == images[19, -1, -1] ^ 1
    assert read()[1] == 2


def test_a_set_that_changes_while_it_is_read_is_not_kept(mnist, cache, monkeypatch):
    read, raw, _ = mnist
    usual = sets._split
    monkeypatch.setattr(
        sets, "_split", lambda given: os.utime(raw / "t10k-labels-idx1-ubyte") or usual(given)
    )
    read()
    assert [*cache.iterdir()] == []


@pytest.mark.parametrize("kind", ["npy", "json"])
def test_a_damaged_or_missing_cache_is_made_again(mnist, cache, kind):
    read, *_ = mnist
    first, _ = read()
    (file,) = cache.glob(f"*.{kind}")
    for number, damage in enumerate(
        (lambda: file.write_bytes(file.read_bytes()[:-9]), file.unlink)
    ):
        damage()
        source, opened = read()
        assert opened == 2 + number
        assert torch.equal(source.train.images, first.train.images)


def test_without_a_folder_for_the_cache_a_set_is_in_memory(mnist, cache, monkeypatch):
    read, _, images = mnist
    (cache / "file").touch()
    monkeypatch.setenv("BISCUITS_CACHE", str(cache / "file"))
    for number in range(1, 3):
        source, opened = read()
        assert (opened, source.train.rows) == (number, None)
        assert torch.equal(source.test.images, torch.from_numpy(images[20:])[:, None])


def test_the_layouts_of_torchvision_become_one():
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(_channels_second(images.permute(0, 2, 3, 1).numpy()), images)  # CIFAR
    assert torch.equal(_channels_second(images.numpy()), images)  # SVHN
    assert torch.equal(_channels_second(images[:, 0]), images[:, :1])  # MNIST
    assert _channels_second(images.permute(0, 2, 3, 1).numpy()).is_contiguous()


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("cifar10", "cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/ "),
        ("cifar100", "cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/ "),
        ("mnist", "t10k-labels-idx1-ubyte.gz from https://"),
        ("fashion_mnist", "t10k-labels-idx1-ubyte.gz from http://"),
        ("svhn", "train_32x32.mat, test_32x32.mat from http://ufldl.stanford.edu/housenumbers/ "),
    ],
)
def test_the_error_of_a_missing_set_says_which_files_go_where(tmp_path, name, archive):
    with pytest.raises(UserError) as caught:
        torchvision_set(name=name, root=str(tmp_path), download=False)
    assert f"data={name}: no complete copy in {tmp_path}" in str(caught.value)
    assert archive in str(caught.value)
    assert "data.download is false" in str(caught.value)
    assert "data=digits" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def gateway(monkeypatch):
    """A port to which every download goes, wherever the tests run; nothing listens there yet."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        for scheme in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(scheme, f"http://127.0.0.1:{port.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        urllib.request.install_opener(None)  # it remembers the proxies
        yield port
    urllib.request.install_opener(None)


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("name", TORCHVISION)
def test_without_a_network_a_download_fails_in_one_line_and_leaves_nothing(tmp_path, name):
    (tmp_path / "there").mkdir()
    for root in ("new", "there"):
        with pytest.raises(UserError, match=r"the download failed: .*refused") as caught:
            torchvision_set(name=name, root=str(tmp_path / root))
        assert "\n" not in str(caught.value)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["there"]


def test_a_download_that_hangs_times_out(tmp_path, gateway, monkeypatch):
    monkeypatch.setattr(sets, "NETWORK_TIMEOUT", 0.2)
    gateway.listen()  # accepts, and never answers
    with pytest.raises(UserError, match=r"the download failed: .*timed out"):
        torchvision_set(name="svhn", root=str(tmp_path))
    assert socket.getdefaulttimeout() is None


LABELS = np.array([0, 1, 2, 0])


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "mine.npz", **arrays)
    return str(tmp_path / "mine.npz")


def arrays_of(images, labels=LABELS):
    return {"x_train": images, "y_train": labels, "x_test": images[:2], "y_test": labels[:2]}


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((4, 8, 6), None),
        ((4, 3, 8, 6), (0, 1, 2, 3)),
        ((4, 1, 8, 6), (0, 1, 2, 3)),
        ((4, 8, 6, 3), (0, 3, 1, 2)),
        ((4, 8, 6, 1), (0, 3, 1, 2)),
        ((4, 8, 6, 4), (0, 3, 1, 2)),
    ],
)
def test_arrays_are_read_wherever_their_channels_are(tmp_path, shape, order):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    source = npz(file=saved(tmp_path, **arrays_of(images)))
    check_source(source, "data")
    wanted = torch.from_numpy(images)
    wanted = wanted[:, None] if order is None else wanted.permute(order)
    assert torch.equal(source.train.images, wanted)
    assert torch.equal(source.test.images, wanted[:2])
    assert source.train.images.is_contiguous()
    assert torch.equal(source.train.labels, torch.from_numpy(LABELS))
    assert source.classes == ("0", "1", "2")


def test_arrays_may_name_their_classes_and_have_labels_of_one_byte(tmp_path):
    images = np.zeros((4, 8, 8), np.uint8)
    names = np.array(["cat", "dog", "owl"])
    arrays = arrays_of(images, LABELS.astype(np.uint8))
    source = npz(file=saved(tmp_path, **arrays, classes=names))
    check_source(source, "data")
    assert source.classes == ("cat", "dog", "owl")


def test_arrays_may_hold_a_validation_split(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    arrays = arrays_of(images) | {"x_val": images[1:], "y_val": LABELS[1:]}
    source = npz(file=saved(tmp_path, **arrays))
    check_source(source, "data")
    data = split_source(source, "auto", seed=0)
    assert torch.equal(data.validation.images, torch.from_numpy(images[1:]).permute(0, 3, 1, 2))
    assert data.validation.labels.tolist() == LABELS[1:].tolist()
    assert len(data.train.labels) == 4
    with pytest.raises(UserError, match=r"data: the training images .*, the validation images "):
        check_source(npz(file=saved(tmp_path, **arrays | {"x_val": images[1:, 1:]})), "data")
    with pytest.raises(UserError, match=r"data: validation\.labels must be from 0 to 2"):
        check_source(npz(file=saved(tmp_path, **arrays | {"y_val": LABELS[1:] + 1})), "data")
    del arrays["y_val"]
    with pytest.raises(
        UserError, match=r"mine\.npz has no y_val, only .*\. Save the arrays as .*y_v"
    ):
        npz(file=saved(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((4, 8, 8))}, r"x_train must be uint8 .*, got float64 \[4, 8, 8\]"),
        ({"x_test": np.zeros((4, 8), np.uint8)}, r"x_test must be uint8 .*, got uint8 \[4, 8\]"),
        (
            {"x_train": np.zeros((4, 3, 8, 3), np.uint8)},
            r"x_train must have .*, got \[4, 3, 8, 3\], where both could be the channels\. Pad ",
        ),
        (
            {"x_train": np.zeros((4, 8, 8, 2), np.uint8)},
            r"x_train must have .*, got \[4, 8, 8, 2\], where neither could be the .*\. Move ",
        ),
        ({"y_test": np.zeros(4)}, r"y_test must be integers \[N\], got float64 \[4\]"),
        ({"y_train": LABELS[:, None]}, r"y_train must be integers \[N\], got int64 \[4, 1\]"),
        (
            {"y_train": np.array([0, "a", None, 1], dtype=object)},
            r"data\.file: cannot read .*mine\.npz: Object arrays cannot be",
        ),
    ],
)
def test_unfit_arrays_are_refused_by_name(tmp_path, change, message):
    arrays = arrays_of(np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(UserError, match=message):
        npz(file=saved(tmp_path, **{**arrays, **change}))


def test_a_missing_array_is_named_with_those_present(tmp_path):
    arrays = arrays_of(np.zeros((4, 8, 8), np.uint8))
    del arrays["y_test"]
    with pytest.raises(
        UserError, match=r"mine\.npz has no y_test, only x_train, y_train, x_test\. "
    ):
        npz(file=saved(tmp_path, **arrays))


def test_a_file_that_is_not_npz_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(UserError, match=r"data\.file: .*text\.npz is not an \.npz file"):
        npz(file=str(tmp_path / "text.npz"))
    with pytest.raises(UserError, match=r"data\.file: .*nowhere\.npz does not exist\. "):
        npz(file=str(tmp_path / "nowhere.npz"))


def test_a_damaged_file_is_refused(tmp_path):
    file = saved(tmp_path, **arrays_of(np.zeros((4, 8, 8), np.uint8)))
    with zipfile.ZipFile(file) as archive:
        start = archive.getinfo("x_train.npy").header_offset + 200
    with open(file, "r+b") as handle:
        handle.seek(start)
        handle.write(b"\x01")
    with pytest.raises(UserError, match=r"data\.file: cannot read .*mine\.npz: .*CRC"):
        npz(file=file)
