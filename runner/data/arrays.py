"""A data set in an .npz file of the user's own."""

import os
import zipfile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.data.source import Source, Split
from runner.errors import UserError
from runner.store.arrays import read_array
from runner.texts import listed, reason, tell

KEYS = ("x_train", "y_train", "x_test", "y_test")
CHANNELS = (1, 3, 4)


def npz(file: str) -> Source:
    """Give back the data set of an .npz file, as `numpy.savez` writes it.

    It holds `x_train` and `x_test`, uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C one of
    1, 3, 4; `y_train` and `y_test`, integers [N]; and, if wanted, `classes`, K names. Other arrays
    are left alone.

    Args:
        file: Path of the file.

    Raises:
        UserError: If it is not there, not such a file, damaged, or lacks an array; if images are
            not uint8, their channels cannot be told, or labels do not number classes.
    """
    arrays = _read(os.path.expanduser(file))
    train, test = (
        Split(_images(arrays, f"x_{split}"), _labels(arrays, f"y_{split}"))
        for split in ("train", "test")
    )
    return Source(train, test, _classes(arrays))


def _read(file: str) -> dict[str, NDArray[Any]]:
    if problem := _problem(file):
        raise UserError(
            f"data.file must be an .npz file, got {tell(file)}, which {problem}. "
            "Give the path of one, written by numpy.savez."
        )
    try:
        with zipfile.ZipFile(file) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist()]
            arrays = {n: read_array(archive, n) for n in (*KEYS, "classes") if n in held}
    except Exception as error:  # zip and numpy meet damage with errors of any kind
        raise UserError(
            f"data.file must be an .npz file of plain arrays, got {tell(file)}: {reason(error)}. "
            "Write it again with numpy.savez, from arrays of numbers and text alone."
        ) from error
    if missing := [key for key in KEYS if key not in arrays]:
        raise UserError(
            f"data.file must hold {', '.join(KEYS)}, got {tell(file)} without "
            f"{', '.join(missing)}; it holds {listed(held) or 'nothing'}. "
            "Save the arrays under these names."
        )
    return arrays


def _problem(file: str) -> str | None:
    """Say what keeps this from being such a file."""
    if not os.path.isfile(file):  # a pipe would be waited for
        return "is not a file" if os.path.exists(file) else "does not exist"
    try:
        with open(file, "rb") as handle:
            return None if zipfile.is_zipfile(handle) else "is none, or is cut short"
    except OSError as error:
        return f"cannot be read ({reason(error)})"


def _images(arrays: dict[str, NDArray[Any]], key: str) -> Tensor:
    """Bring an array of images into [N, C, H, W]."""
    array = arrays[key]
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise UserError(
            f"{key} must be uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], got {_told(array)}. "
            "Scale the pixels to whole numbers from 0 to 255."
        )
    if array.size == 0:
        raise UserError(f"{key} must hold images, got {_told(array)}. Add images.")
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
            f"{key} must be integers [N], got {_told(array)}. Number the classes from 0."
        )
    return torch.from_numpy(array.astype(np.int64))


def _classes(arrays: dict[str, NDArray[Any]]) -> tuple[str, ...]:
    """Give back the names of the classes; where there are none, their numbers."""
    names, labels = arrays.get("classes"), arrays["y_train"]
    if names is None:
        low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
        if low < 0 or high >= max(1, len(labels)):  # a class has an image: no more than images
            raise UserError(
                f"y_train must number the classes from 0, without a gap, got "
                f"{low if low < 0 else high} in {len(labels)} labels. Number them anew."
            )
        names = np.arange(high + 1)
    if names.dtype.kind not in "Uiu" or names.ndim != 1:
        raise UserError(
            f"classes must be text or integers [K], got {_told(names)}. Save K names, or none."
        )
    return tuple(map(str, names.tolist()))


def _told(array: NDArray[Any]) -> str:
    """Write what an array is: its type and shape, and what no scaling mends."""
    told = tell(f"{array.dtype} {list(array.shape)}")
    finite = array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
    return told if finite else f"{told} with NaN or infinity in it"
