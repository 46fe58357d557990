"""Fractions of a factorial, of resolution V: which levels of each factor go together."""

from itertools import product
from math import prod

GENERATORS: dict[int, tuple[str, ...]] = {
    5: ("ABCD",),
    6: ("ABCDE",),
    7: ("ABCDEF",),
    8: ("ABCD", "ABEF"),
    9: ("ABCDG", "ACEFG"),
    10: ("ABCG", "BCDE", "ACDF"),
    11: ("ABCG", "BCDE", "ACDF", "ABCDEFG"),
}
"""For each number of factors the products of basic columns that the further columns are."""


def fraction(count: int) -> list[tuple[int, ...]]:
    """Give the rows of a fraction: for each factor -1 or 1.

    Box, Hunter and Hunter, Statistics for Experimenters, chapter 6; a test multiplies out the
    generators' words.

    Args:
        count: Of the factors; a key of `GENERATORS`.
    """
    words = GENERATORS[count]
    return [
        (*signs, *(prod(signs[ord(letter) - ord("A")] for letter in word) for word in words))
        for signs in product((-1, 1), repeat=count - len(words))
    ]
