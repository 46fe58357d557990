"""A data set in an .npz file of the user's own."""

import zipfile
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

    It holds `x_train` and `x_test`, uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C in 1, 3
    and 4; `y_train` and `y_test`, integers [N]; and, if wanted, `classes`, the names [K].

    Args:
        file: Path of the file.

    Raises:
        UserError: If it is not there, no such file, or lacks an array; if images are not uint8,
            their channels cannot be told, or labels are not integers.
    """
    arrays = _read(Path(file).expanduser())
    if missing := [key for key in KEYS if key not in arrays]:
        raise UserError(
            f"{file} must hold {', '.join(KEYS)}, got {', '.join(arrays) or 'nothing'}: without "
            f"{', '.join(missing)}. Save them under these names."
        )
    train, test = (
        Split(_images(arrays[f"x_{name}"], f"x_{name}"), _labels(arrays[f"y_{name}"], f"y_{name}"))
        for name in ("train", "test")
    )
    names = arrays.get("classes", range(int(train.labels.max(initial=-1)) + 1))
    return Source(train, test, tuple(map(str, names)))
