"""Accuracies that were written with too few digits: the shares of test samples that they were."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from runner.ablation.sampling import find_step
from runner.ablation.statistics import Array
from runner.errors import UserError

NEAR = 1e-7
"""What 32 bits may have changed in a share."""

DIGITS = (3, 4, 5, 6)
"""Of shares that may have been rounded; with fewer the rounding is what counts."""

CHANCE = 1e-6
"""N is believed if scores that are no multiples of 1/N would look like it so rarely."""

MOST = 10_000
"""Test samples that are looked for; from there on rounding hardly matters."""

FAR = 0.1
"""How far from whole a number of right answers may be."""


def as_counted(
    scores: Sequence[float], samples: int | None = None
) -> tuple[list[float], float | None]:
    """Give accuracies as the exact shares that they stand for, and what they are counted on.

    Args:
        scores: Shares from 0 to 1, or percent.
        samples: How many test samples they are counted on; looked for if that is not known.

    Returns:
        The scores, as they are where that is not known; and how many test samples make a score of
        1, as `find_step` takes them: a hundredth of all for percent.

    Raises:
        UserError: If they are no multiples of 1 / samples.
    """
    if not scores:
        return [], None
    unit = 100 if max(scores) > 1 else 1
    counts = np.array(scores) / unit
    if samples is None:
        if (samples := _find_samples(counts, find_step(scores) / unit)) is None:
            return list(scores), None
    elif samples < 1 or np.abs(counts * samples - np.round(counts * samples)).max() > FAR:
        raise UserError(
            f"--samples: the scores are no multiples of 1/{samples}. Give the number of test "
            "samples that they are counted on, or leave it out."
        )
    exact = (Fraction(unit * round(count * samples), samples) for count in counts.tolist())
    return [*map(float, exact)], samples / unit


def _find_samples(shares: Array, step: float) -> int | None:
    """Find the fewest N that all shares are multiples of 1/N of, but for rounding."""
    rounded = next((10.0**-digits for digits in DIGITS if abs(step * 10**digits - 1) < 1e-6), 0.0)
    if (step and not rounded) or shares.min() < 0 or shares.max() > 1:
        return None
    near = 0.51 * rounded or NEAR
    different = np.unique(shares)[:50, None]
    numbers = np.arange(1, MOST + 1)
    rare = len(different) * np.log(2 * near * numbers) + np.log(numbers) < np.log(CHANCE)
    counts = different * numbers[rare]
    fits = (np.abs(counts - np.round(counts)) <= near * numbers[rare]).all(0)
    return int(numbers[rare][fits.argmax()]) if fits.any() else None
