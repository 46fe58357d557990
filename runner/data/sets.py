"""Data sets that others keep: scikit-learn's digits, and torchvision's downloads."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from runner.data.source import Source, Split
from runner.data.split import choose_stratified
from runner.errors import UserError
from runner.texts import reason, tell

DIGITS_TEST_SHARE, DIGITS_TEST_SEED = 0.2, 0  # constants: the test set is the same in every run
NETWORK_TIMEOUT = 20.0  # seconds of silence; urllib itself would wait for ever

CLASS_NAMES = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "svhn": "SVHN",
}
"""The classes of torchvision.datasets, by our names of the sets."""


def digits() -> Source:
    """Give back scikit-learn's handwritten digits: 1797 grey images of 8 x 8, a fifth for the test.

    https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html;
    its grey levels 0 to 16 are scaled to 0 to 255.
    """
    from sklearn.datasets import load_digits

    content = load_digits()
    images = torch.from_numpy(content.images * 255 / 16).round().to(torch.uint8)[:, None]
    everything = Split(images, torch.from_numpy(content.target).long())
    count = round(DIGITS_TEST_SHARE * len(images))
    test = choose_stratified(everything.labels, count, DIGITS_TEST_SEED)
    classes = tuple(str(name) for name in content.target_names)
    return Source(everything.take(~test), everything.take(test), classes)


def torchvision_set(
    name: Literal["cifar10", "cifar100", "mnist", "fashion_mnist", "svhn"],
    root: str,
    download: bool = True,
) -> Source:
    """Give back one of torchvision's data sets, from its files below a folder.

    Args:
        name: Which.
        root: The folder of torchvision's files.
        download: Whether to fetch what is not there.

    Raises:
        UserError: If the files are not there and cannot be fetched, or are damaged.
    """
    from torchvision import datasets  # slow to import, so only here

    dataset, folder = getattr(datasets, CLASS_NAMES[name]), Path(os.path.expanduser(root))
    which: list[dict[str, Any]] = [{"split": "train"}, {"split": "test"}]
    if name != "svhn":
        which = [{"train": True}, {"train": False}]
    try:
        train, test = _open(dataset, folder, which, download)
        return Source(_split(train), _split(test), _class_names(train))
    except Exception as error:  # damage brings errors of any kind
        raise UserError(_remedy(name, dataset, folder, download, error)) from error


def _open(dataset: Any, folder: Path, which: list[dict[str, Any]], download: bool) -> list[Any]:  # noqa: ANN401
    """Open what is there, else fetch it: one of several runs that start together, for all."""
    try:
        return [dataset(folder, **one) for one in which]
    except Exception:
        if not download:
            raise
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{dataset.__name__}.lock"), _impatient():
        return [dataset(folder, **one, download=True) for one in which]


def _split(dataset: Any) -> Split:  # noqa: ANN401
    """Read a torchvision data set's arrays, past its slow sample-by-sample access."""
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return Split(_channels_second(dataset.data), torch.as_tensor(labels, dtype=torch.int64))


def _channels_second(data: Any) -> Tensor:  # noqa: ANN401
    """Bring MNIST's [N, H, W], CIFAR's [N, H, W, 3] and SVHN's [N, 3, H, W] into one layout."""
    images = torch.from_numpy(np.asarray(data))
    if images.ndim == 3:
        return images[:, None]
    return images.permute(0, 3, 1, 2).contiguous() if images.shape[3] == 3 else images.contiguous()


def _class_names(dataset: Any) -> tuple[str, ...]:  # noqa: ANN401
    """SVHN alone has no names: its classes are the digits."""
    return tuple(getattr(dataset, "classes", map(str, range(10))))


@contextmanager
def _impatient() -> Iterator[None]:
    """Let no connection hang; torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _remedy(name: str, dataset: Any, root: Path, download: bool, error: Exception) -> str:  # noqa: ANN401
    folder, address, files = _archives(dataset, root)
    if hasattr(dataset, "resources") and all(
        os.path.isfile(folder / Path(file).stem) for file in files
    ):
        return (  # torchvision has no checksums of these, which it unpacked
            f"data={name} must be undamaged, got files that cannot be read in {tell(folder)}: "
            f"{reason(error)}. Remove those without .gz: they are unpacked, or downloaded, again."
        )
    tried = f"downloading failed: {_last_line(error)}" if download else "data.download is false"
    return (
        f"data={name} must be in {tell(folder)} or be downloaded, got neither: no whole copy is "
        f"there, and {tried}. Put {', '.join(files)} from {address} there, set data.root to where "
        "they are, or take data=digits, or images of your own with data=image_folder."
    )


def _last_line(error: Exception) -> str:
    """MNIST's error lists each mirror on lines of its own; the last says why."""
    return tell((str(error).strip().splitlines() or [type(error).__name__])[-1])


def _archives(dataset: Any, root: Path) -> tuple[Path, str, list[str]]:  # noqa: ANN401
    """Give back where torchvision looks for a set's archives, whence it takes them, their names."""
    if hasattr(dataset, "resources"):
        files = [file for file, _ in dataset.resources]
        return root / dataset.__name__ / "raw", dataset.mirrors[0], files
    splits = getattr(dataset, "split_list", None)  # SVHN's
    urls = [splits[split][0] for split in ("train", "test")] if splits else [dataset.url]
    return root, urls[0].rpartition("/")[0] + "/", [url.rpartition("/")[2] for url in urls]
