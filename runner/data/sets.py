"""Public data sets: scikit-learn's digits, and those that torchvision downloads."""

import gzip
import hashlib
import io
import os
import socket
import zlib
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from runner.data import cache as cached
from runner.data.decode import Reading
from runner.data.source import Source, Split
from runner.data.split import choose_stratified
from runner.errors import UserError
from runner.store.files import read_json, write_json
from runner.texts import reason, short

DIGITS_TEST_SHARE, DIGITS_TEST_SEED = 0.2, 0  # constants: the test set is the same in every run
DIGITS_SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"  # unpacked
NETWORK_TIMEOUT = 20.0  # seconds without a byte; urllib itself would wait for ever

TORCHVISION = dict(
    cifar10="CIFAR10", cifar100="CIFAR100", mnist="MNIST", fashion_mnist="FashionMNIST", svhn="SVHN"
)
"""The classes in torchvision.datasets, by the names of the sets here."""

PLACES = dict(
    cifar10="cifar-10-batches-py/*",
    cifar100="cifar-100-python/*",
    mnist="MNIST/raw/*-ubyte",
    fashion_mnist="FashionMNIST/raw/*-ubyte",
    svhn="*_32x32.mat",
)
"""The files that torchvision reads of each, below its folder."""


def digits(test: Annotated[float, Field(gt=0, lt=1)] | None = None) -> Source:
    """Return scikit-learn's handwritten digits: 1797 grey images of 8 x 8.

    https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html;
    its grey levels 0 to 16 are scaled to 0 to 255.

    Args:
        test: Share of the images that is held out for testing, nearly the same of each class, the
            same images in every run; None for a fifth.

    Raises:
        UserError: If the share takes no image, or cannot leave one of each class.

    >>> source = digits()
    >>> tuple(source.train.images.shape), len(source.test.labels)
    ((1438, 1, 8, 8), 359)
    """
    pixels, labels = _read_digits()
    images = torch.from_numpy(pixels * 255 / 16).round().to(torch.uint8)[:, None]
    everything = Split(images, torch.from_numpy(labels).long())
    classes = tuple(map(str, range(10)))
    share = DIGITS_TEST_SHARE if test is None else test
    count = round(share * len(images))
    if not 1 <= count <= len(images) - len(classes):
        raise UserError(
            f"data.test={test} takes {count} of {len(images):,} images. It must take at least one, "
            f"and leave one of each of the {len(classes)} classes."
        )
    chosen = choose_stratified(everything.labels, count, DIGITS_TEST_SEED)
    return Source(everything.take(~chosen), everything.take(chosen), classes)


def _read_digits() -> tuple[Any, Any]:
    """Read grey levels [N, 8, 8] and labels [N] from scikit-learn's file, or by scikit-learn.

    To import scikit-learn takes as long as to import torch, so its own file is read here. Another
    content than the known one is left to scikit-learn.
    """
    package = find_spec("sklearn")
    if package and package.origin:
        with suppress(OSError, EOFError, zlib.error):
            file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
            text = gzip.decompress(file.read_bytes())
            if hashlib.sha256(text).hexdigest() == DIGITS_SHA256:
                table = _table(text)
                return table[:, :-1].reshape(-1, 8, 8).astype(float), table[:, -1]
    from sklearn.datasets import load_digits

    content = load_digits()
    return content.images, content.target


@lru_cache(1)  # a worker does many runs
def _table(text: bytes) -> NDArray[np.uint8]:
    return np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)


def torchvision_set(
    name: Literal["cifar10", "cifar100", "mnist", "fashion_mnist", "svhn"],
    root: str,
    download: bool = True,
) -> Source:
    """Return one of torchvision's data sets, from its files in a folder.

    They are read once, into the cache of decoded images, and again when one of them has changed;
    from there they are mapped into memory, which the runs of a sweep share.

    Args:
        name: Name of the set.
        root: Folder of torchvision's files.
        download: Whether to download missing files.

    Raises:
        UserError: If the files are missing and cannot be downloaded, or are damaged.
    """
    folder = Path(os.path.expanduser(root))
    if known := _known(name, folder, state := _state(name, folder)):
        return known
    from torchvision import datasets  # slow to import, so only here

    dataset, svhn = getattr(datasets, TORCHVISION[name]), name == "svhn"
    splits = [{"split": s} if svhn else {"train": s == "train"} for s in ("train", "test")]
    try:
        train, test = _open(dataset, folder, splits, download)
        classes = getattr(train, "classes", map(str, range(10)))  # SVHN names none: the digits
        source = Source(_split(train), _split(test), tuple(classes))
        return _kept(name, folder, state, source)
    except Exception as error:  # damaged files raise errors of many types
        raise UserError(_explain(error, name, dataset, folder, download)) from error


def _state(name: str, folder: Path) -> str | None:
    """Return a digest of the state of a set's files; None if there are none."""
    with suppress(OSError, ValueError):  # of a path that none can have
        about = [(file, file.stat()) for file in sorted(folder.resolve().glob(PLACES[name]))]
        listed = [(file, a.st_size, a.st_mtime_ns, a.st_ino) for file, a in about]
        return cached.fingerprint(listed) if listed else None
    return None


def _known(name: str, folder: Path, state: str | None) -> Source | None:
    """Return a set as it was read before, if its files are in the same state."""
    with suppress(OSError, UserError, LookupError, TypeError, ValueError):  # then it is read anew
        file = cached.path(None, folder.resolve() / name, Reading())
        about = read_json(file.with_suffix(".json"))[0] or {}
        if state and about["files"] == state:
            train, test = (torch.tensor(about[split]) for split in ("train", "test"))
            origin = cached.Origin.of(file)
            images = cached.load(file, state, len(train) + len(test), Reading())
            if images is not None:
                origin = origin if origin == cached.Origin.of(file) else None
                classes = tuple(about["classes"])
                return _mapped(cached.as_tensor(images), train, test, classes, origin)
    return None


def _kept(name: str, folder: Path, state: str | None, source: Source) -> Source:
    """Keep a set in the cache, and return it from there; as it is, if that cannot be.

    Args:
        name: Name of the set.
        folder: Folder of its files.
        state: Their state before they were read: a set that has changed since is not kept.
        source: The set.
    """
    train, test = source.train, source.test
    fits = train.shape == test.shape and all(len(s.images) == len(s.labels) for s in (train, test))
    if not fits or state is None or state != _state(name, folder):
        return source  # which may be refused
    with suppress(OSError, UserError):
        file = cached.path(None, folder.resolve() / name, Reading())
        cached.remove_leftovers(file.parent)
        shape = (len(train.labels) + len(test.labels), *train.shape)
        images = chain(train.images.numpy(), test.images.numpy())
        mapped = cached.as_tensor(cached.save(file, state, shape, np.uint8, images))
        labels = {"train": train.labels.tolist(), "test": test.labels.tolist()}
        about = {"files": state, "classes": [*source.classes], **labels}
        write_json(file.with_suffix(".json"), about, lasts=False)
        return _mapped(mapped, train.labels, test.labels, source.classes)
    return source


def _mapped(
    images: Tensor,
    train: Tensor,
    test: Tensor,
    classes: tuple[str, ...],
    origin: cached.Origin | None = None,
) -> Source:
    """Return the splits of images [M, C, H, W], those for training first, by their labels."""
    rows = torch.arange(len(images)).split([len(train), len(test)])
    return Source(
        Split(images, train, rows[0], origin), Split(images, test, rows[1], origin), classes
    )


def _open(dataset: Any, folder: Path, splits: list[dict[str, Any]], download: bool) -> list[Any]:  # noqa: ANN401
    """Open the files, or download them: of several runs that start together, one does it."""
    try:
        return [dataset(folder, **split) for split in splits]
    except Exception:
        if not download:
            raise
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f".{dataset.__name__}.lock"
    with FileLock(lock):
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(NETWORK_TIMEOUT)  # torchvision sets none: a connection may hang
        try:
            return [dataset(folder, **split, download=True) for split in splits]
        except Exception:
            lock.unlink(missing_ok=True)
            _remove_empty(_archives(dataset, folder)[0], folder, is_new)
            raise
        finally:
            socket.setdefaulttimeout(before)


def _remove_empty(below: Path, folder: Path, is_new: bool) -> None:
    """Remove the empty folders of a download that failed, and the uppermost one if it is new."""
    inner = [path for path in (below, *below.parents) if folder in path.parents]
    for path in (*inner, *([folder] if is_new else [])):
        with suppress(OSError):
            path.rmdir()


def _split(dataset: Any) -> Split:  # noqa: ANN401
    """Take the arrays of a torchvision data set, not its slow access sample by sample."""
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return Split(_channels_second(dataset.data), torch.as_tensor(labels, dtype=torch.int64))


def _channels_second(data: Any) -> Tensor:  # noqa: ANN401
    """Bring MNIST's [N, H, W], CIFAR's [N, H, W, 3] and SVHN's [N, 3, H, W] to [N, C, H, W]."""
    images = torch.from_numpy(np.asarray(data))
    if images.ndim == 3:
        return images[:, None]
    return images.permute(0, 3, 1, 2).contiguous() if images.shape[3] == 3 else images.contiguous()


def _explain(error: Exception, name: str, dataset: Any, root: Path, download: bool) -> str:  # noqa: ANN401
    """Return why a data set cannot be read, and which files belong where."""
    folder, address, files = _archives(dataset, root)
    unpacked = all(os.path.isfile(folder / Path(file).stem) for file in files)
    if hasattr(dataset, "resources") and unpacked:
        return (  # torchvision does not check these, which it has unpacked
            f"data={name}: the files in {short(folder)} are damaged: {reason(error)}. "
            "Delete those without .gz; they are then unpacked, or downloaded, again."
        )
    # MNIST's error names every mirror on lines of its own; the last line is the reason
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    tried = f"the download failed: {short(last)}" if download else "data.download is false"
    return (
        f"data={name}: no complete copy in {short(folder)}, and {tried}. "
        f"Put {', '.join(files)} from {address} there, set data.root to the folder that has them, "
        "or use data=digits, or your own images with data=image_folder."
    )


def _archives(dataset: Any, root: Path) -> tuple[Path, str, list[str]]:  # noqa: ANN401
    """Return the folder in which torchvision looks for a set's archives, their URL, and names."""
    if hasattr(dataset, "resources"):
        files = [file for file, _ in dataset.resources]
        return root / dataset.__name__ / "raw", dataset.mirrors[0], files
    splits = getattr(dataset, "split_list", None)  # SVHN's
    urls = [splits[split][0] for split in ("train", "test")] if splits else [dataset.url]
    return root, urls[0].rpartition("/")[0] + "/", [url.rpartition("/")[2] for url in urls]
