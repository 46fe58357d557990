"""What a run answered on its test set: correct.npy and predictions.npz, read without pickle."""

import hashlib
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runner.store.arrays import read_array
from runner.store.files import Damaged, read_bytes

MOST_BYTES = 2**36  # of predictions: a billion logits take four

Answers = NDArray[np.bool_]
Predictions = tuple[NDArray[np.float32], NDArray[np.int64]]


def read_answers(path: Path) -> Answers:
    """Read correct.npy, [N] bool.

    Raises:
        Exception: Of many kinds, if it is not there or damaged.
    """
    with warnings.catch_warnings(action="ignore"):
        found = np.load(BytesIO(read_bytes(path, 2**28)), allow_pickle=False)
    if not (isinstance(found, np.ndarray) and found.ndim == 1 and found.dtype == np.bool_):
        raise Damaged("is not which samples were answered right")
    return found


def read_predictions(path: Path) -> Predictions:
    """Read predictions.npz: logits float32 [N, K] and labels int64 [N].

    Raises:
        Exception: Of many kinds, if it is not there or damaged.
    """
    content = BytesIO(read_bytes(path, MOST_BYTES))
    with zipfile.ZipFile(content) as archive, warnings.catch_warnings(action="ignore"):
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise Damaged("is compressed, as no run writes it")  # zeros would fill the memory
        logits, labels = (read_array(archive, name) for name in ("logits", "labels"))
    count, classes = logits.shape
    kinds = logits.dtype == np.float32 and labels.dtype == np.int64
    if not kinds or labels.shape != (count,) or not 0 <= labels.min() <= labels.max() < classes:
        raise Damaged("is not logits and labels")
    return logits, labels


def digest_answers(correct: Answers) -> str:
    """Give back a hash of which test samples were answered right."""
    return hashlib.sha256(np.packbits(correct).tobytes()).hexdigest()[:16]


def digest_predictions(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> str:
    """Give back a hash of the shape and the bits of predictions."""
    total = hashlib.sha256(f"{logits.shape}".encode())
    for array in (logits, labels):
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return total.hexdigest()[:16]
