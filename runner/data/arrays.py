"""A data set in an .npz file of the user's own."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.data.source import Source, Split
from runner.errors import UserError

KEYS = ("x_train", "y_train", "x_test", "y_test")
CHANNELS = (1, 3, 4)


def npz(file: str) -> Source:
    """Give back the data set of an .npz file, as `numpy.savez` writes it.

    It holds `x_train` and `x_test`, uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C one of
    1, 3, 4; `y_train` and `y_test`, integers [N]; and, if wanted, `classes`, K names.

    Args:
        file: Path of the file.

    Raises:
        UserError: If it is not there, not such a file, or lacks an array; if images are not uint8,
            their channels cannot be told, or labels are not integers.
    """
    arrays = _read(Path(file).expanduser())
    if missing := [key for key in KEYS if key not in arrays]:
        raise UserError(
            f"data.file must hold {', '.join(KEYS)}, got {file} without {', '.join(missing)}; "
            f"it holds {', '.join(arrays) or 'nothing'}. Save the arrays under these names."
        )
    train, test = (
        Split(_images(arrays, f"x_{split}"), _labels(arrays, f"y_{split}"))
        for split in ("train", "test")
    )
    names = arrays.get("classes", range(1 + max(train.labels.tolist(), default=0)))
    return Source(train, test, tuple(map(str, names)))


def _read(file: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(file):
        problem = "is none" if file.exists() else "does not exist"
        raise UserError(
            f"data.file must be an .npz file, got {file}, which {problem}. "
            "Give the path of one, written by numpy.savez."
        )
    try:
        with np.load(file, allow_pickle=False) as content:
            return dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"data.file must be an .npz file of plain arrays, got {file}: {error}. "
            "Write it again with numpy.savez, from arrays of numbers and text alone."
        ) from error


def _images(arrays: dict[str, NDArray[Any]], key: str) -> Tensor:
    """Bring an array of images into [N, C, H, W]."""
    array = arrays[key]
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise UserError(
            f"{key} must be uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], got {array.dtype} "
            f"{list(array.shape)}. Scale the pixels to whole numbers from 0 to 255."
        )
    if array.ndim == 3:
        return torch.from_numpy(array)[:, None]
    first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
    if first == last:
        raise UserError(
            f"{key} must have 1, 3 or 4 channels either second or last, got {list(array.shape)}, "
            f"where {'both' if first else 'neither'} could be. "
            f"{'Pad the images with a row and column' if first else 'Bring the channels there'}."
        )
    if last:
        array = np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    return torch.from_numpy(array)


def _labels(arrays: dict[str, NDArray[Any]], key: str) -> Tensor:
    array = arrays[key]
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise UserError(
            f"{key} must be integers [N], got {array.dtype} {list(array.shape)}. "
            "Number the classes from 0."
        )
    return torch.from_numpy(array.astype(np.int64))
