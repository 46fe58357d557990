"""A data set in the user's own .npz file."""

import os
import zipfile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.data.source import Source, Split
from runner.errors import UserError
from runner.store.arrays import memory_here, read_array
from runner.texts import listed, reason, short

KEYS = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL = ("x_val", "y_val", "classes")
CHANNELS = (1, 3, 4)


def npz(file: str) -> Source:
    """Return the data set in an .npz file, as `numpy.savez` writes it.

    It holds `x_train` and `x_test`, uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C one of
    1, 3, 4; `y_train` and `y_test`, integers [N]; and optionally `x_val` and `y_val`, the
    validation split, and `classes`, K names. Other arrays are ignored. Nothing is unpickled.

    Args:
        file: Path of the file.

    Raises:
        UserError: If the file is missing, damaged, not an .npz file, larger than the memory, or
            lacks an array; if images are not uint8, their channel axis is ambiguous, or labels do
            not number the classes.
    """
    arrays = _read(os.path.expanduser(file))
    train, test, *validation = (
        Split(_images(arrays, f"x_{split}"), _labels(arrays, f"y_{split}"))
        for split in ("train", "test", *(["val"] if "x_val" in arrays else []))
    )
    own = validation[0] if validation else None
    return Source(train, test, _classes(arrays), own)


def _read(file: str) -> dict[str, NDArray[Any]]:
    if problem := _problem(file):
        raise UserError(
            f"data.file: {short(file)} {problem}. Expected an .npz file written by numpy.savez."
        )
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {i.filename.removesuffix(".npy"): i.file_size for i in archive.infolist()}
            present, wanted = list(sizes), [n for n in (*KEYS, *OPTIONAL) if n in sizes]
            _refuse_larger_than_memory(file, sum(sizes[name] for name in wanted))
            arrays = {name: read_array(archive, name) for name in wanted}
    except UserError:
        raise
    except Exception as error:  # zipfile and numpy raise many types for damaged files
        raise UserError(
            f"data.file: cannot read {short(file)}: {reason(error)}. "
            "Save it again with numpy.savez, with arrays of numbers and text only."
        ) from error
    needed = (*KEYS, *(("x_val", "y_val") if {"x_val", "y_val"} & {*arrays} else ()))
    if missing := [key for key in needed if key not in arrays]:
        raise UserError(
            f"data.file: {short(file)} has no {', '.join(missing)}, only "
            f"{listed(present) or 'nothing'}. Save the arrays as {', '.join(needed)}."
        )
    return arrays


def _refuse_larger_than_memory(file: str, size: int) -> None:
    """Refuse more bytes than there is memory for; packed, zeros take a thousandth on the disk."""
    memory = memory_here()
    if size > memory:
        raise UserError(
            f"data.file: the arrays of {short(file)} take {size / 1e9:,.1f} GB, more than the "
            f"{memory / 1e9:,.1f} GB of memory here. Save fewer or smaller images."
        )


def _problem(file: str) -> str | None:
    """Return why this cannot be an .npz file, if it cannot."""
    if not os.path.isfile(file):  # reading a pipe would block
        return "is not a file" if os.path.exists(file) else "does not exist"
    try:
        with open(file, "rb") as handle:
            return None if zipfile.is_zipfile(handle) else "is not an .npz file, or is truncated"
    except OSError as error:
        return f"cannot be read ({reason(error)})"


def _images(arrays: dict[str, NDArray[Any]], key: str) -> Tensor:
    """Bring an array of images into [N, C, H, W]."""
    array = arrays[key]
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise UserError(
            f"data.file: {key} must be uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], "
            f"got {_describe(array)}. Scale the pixels to integers from 0 to 255."
        )
    if array.size == 0:
        raise UserError(f"data.file: {key} is empty: {_describe(array)}. Save at least one image.")
    if array.ndim == 3:
        return torch.from_numpy(array)[:, None]
    second, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
    if second == last:
        raise UserError(
            f"data.file: {key} must have 1, 3 or 4 channels in its second or its last axis, got "
            f"{list(array.shape)}, where {'both' if second else 'neither'} could be the channels. "
            f"{'Pad the images by a row and a column' if second else 'Move the channels there'}."
        )
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if last else array)


def _labels(arrays: dict[str, NDArray[Any]], key: str) -> Tensor:
    array = arrays[key]
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise UserError(
            f"data.file: {key} must be integers [N], got {_describe(array)}. "
            "Number the classes from 0."
        )
    return torch.from_numpy(array.astype(np.int64))


def _classes(arrays: dict[str, NDArray[Any]]) -> tuple[str, ...]:
    """Return the names of the classes: `classes`, or else their numbers."""
    names, labels = arrays.get("classes"), arrays["y_train"]
    if names is None:
        low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
        if low < 0 or high >= max(1, len(labels)):  # each class has an image: no more than images
            raise UserError(
                "data.file: y_train must number the classes from 0, without gaps, got "
                f"{low if low < 0 else high} in {len(labels)} labels. Renumber the classes."
            )
        names = np.arange(high + 1)
    if names.dtype.kind not in "Uiu" or names.ndim != 1:
        raise UserError(
            f"data.file: classes must be text or integers [K], got {_describe(names)}. "
            "Save one name per class, or leave classes out."
        )
    return tuple(map(str, names.tolist()))


def _describe(array: NDArray[Any]) -> str:
    """Return type and shape, and whether NaN or infinity is in it: no scaling removes them."""
    text = short(f"{array.dtype} {list(array.shape)}")
    finite = array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
    return text if finite else f"{text} with NaN or infinity in it"
