"""Spreads that are shared: what all effects of an ablation say about the spread of each.

Few seeds know little about a spread, and that is what most of them are spent on. The differences of
an ablation are made of the same kind of runs, so the spread of one tells about the others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import sparse

from runner.ablation.statistics import FEWEST_SEEDS, Array, Moments

FEWEST_EFFECTS = 3
"""With fewer, each has its own spread."""

OWN = 0.4
"""The part of its own spread that an effect keeps; the rest is that of all."""

WIDE = 0.05
"""An effect keeps its own spread if it would be as wide among equal ones so rarely."""


class Sharing(NamedTuple):
    """How K differences are made of scores."""

    size: Array
    """[K], the standard deviation of a difference, in that of a score: |w|, w its weights."""
    groups: tuple[NDArray[np.int_], ...] = ()
    """The places of those that share, if not all do: the effects of each setting."""
    fewest: int = FEWEST_SEEDS
    """With fewer seeds, each has its own spread."""


WITH_A_COMMON_RUN, MIXED = 4, 7
"""Seeds from which on differences share their spread, if every two weigh a run alike, as those
against one baseline, and if only some do, as steps or the levels of several factors. A variant that
spreads ten times as far as the others makes several wide differences, which hide behind each other:
with fewer seeds more than 5 % of families would err."""

MOST_EFFECTS = 1000
"""With more, each has its own spread: its degrees of freedom would take too much memory."""


def find_sharing(weights: sparse.csr_array, settings: Sequence[str] = ()) -> Sharing | None:
    """Give how differences are made of scores; None if they share nothing.

    Args:
        weights: [K, V], of each variant in each difference.
        settings: [K], where each is asked; the spread of one setting tells nothing of another's.
    """
    if not FEWEST_EFFECTS <= weights.shape[0] <= MOST_EFFECTS:
        return None
    of = np.array(settings)
    several = dict.fromkeys(settings) if len({*settings}) > 1 else ()
    groups = tuple(np.flatnonzero(of == setting) for setting in several)
    size = np.sqrt(weights.power(2).sum(1))
    products, little = (weights @ weights.T).toarray(), 1e-9 * size.max() ** 2
    pairs = ~np.eye(len(size), dtype=bool)
    if groups:
        pairs &= of[:, None] == of
    if (np.abs(products[pairs]) <= little).all():
        return Sharing(size, groups)
    alike = (products[pairs] > little).all()
    return Sharing(size, groups, WITH_A_COMMON_RUN if alike else MIXED)


def share(found: Moments, sharing: Sharing) -> Moments:
    """Give moments whose spread is partly an effect's own, and partly that of all.

    s^2 = 0.4 own + 0.6 pooled, pooled = |w|^2 sum_j v_j (own_j / |w_j|^2) / sum_j v_j, v = n - 1.
    Its degrees of freedom are Satterthwaite's, 2 sigma^4 / var(s^2), with the covariances
    2 r^2 / max(v_j, v_k) of variances over the same seeds; r = 1/2, the correlation of two
    differences against one baseline, the largest of any two that our designs ask about. With
    equally many seeds they are 100 K / (37 K + 63) v, and 2 v at most: 1.7 v of three effects, 2 v
    of five. (Satterthwaite, Biometrics Bulletin, 1946.)

    An effect keeps its own spread where it is wider than that of the others: if the F-test of
    own / pooled(others) says so at `WIDE`. So does one without any, such as a trick that changed
    nothing: the others would pass for surer than they are. All do where fewer than three have three
    seeds, or four of differences with a run in common, or seven if only some of them have one.

    Args:
        found: [..., K].
        sharing: How the differences are made of scores.
    """
    if sharing.groups:
        sd, df = np.array(found.sd), np.array(found.df)
        for some in sharing.groups:
            inner = Sharing(sharing.size[some], fewest=sharing.fewest)
            within = share(Moments(*(each[..., some] for each in found)), inner)
            sd[..., some], df[..., some] = within.sd, within.df
        return found._replace(sd=sd, df=df)
    counts = (found.n >= sharing.fewest) & (found.sd > 0)
    degrees = np.where(counts, found.n - 1, 0.0)
    total = degrees.sum(-1, keepdims=True)
    if not (enough := counts.sum(-1, keepdims=True) >= FEWEST_EFFECTS).any():
        return found
    own = np.where(counts, np.square(found.sd / sharing.size), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = degrees / total
        pooled = (parts * own).sum(-1, keepdims=True)
        others = (total * pooled - degrees * own) / (total - degrees)
        bound = _quantile(degrees, total - degrees)
        chosen = counts & enough & (own <= bound * others)
        df = np.minimum(_degrees(degrees, parts), 2 * degrees)
    sd = sharing.size * np.sqrt(OWN * own + (1 - OWN) * pooled)
    return found._replace(sd=np.where(chosen, sd, found.sd), df=np.where(chosen, df, found.df))


def _degrees(degrees: Array, parts: Array) -> Array:
    """Satterthwaite's degrees of freedom of the shared s^2, 2 over its variance in sigma^4."""
    larger = np.maximum(degrees[..., :, None], degrees[..., None, :])
    squared = 0.25 + 0.75 * np.eye(degrees.shape[-1])
    covariance = np.where(larger > 0, squared / larger, 0.0)
    with_pool = (covariance * parts[..., None, :]).sum(-1)
    of_pool = (with_pool * parts).sum(-1, keepdims=True)
    mixed = 2 * OWN * (1 - OWN) * with_pool + (1 - OWN) ** 2 * of_pool
    return np.asarray(1 / (OWN**2 / degrees + mixed))


def _quantile(above: Array, below: Array) -> Array:
    """The bound that F rarely exceeds; of each pair of degrees of freedom once."""
    pairs = np.stack(np.broadcast_arrays(above, below), -1).reshape(-1, 2)
    known, places = np.unique(pairs, axis=0, return_inverse=True)
    bounds = scipy.stats.f.isf(WIDE, *np.where(known > 0, known, np.nan).T)
    return np.asarray(bounds[places.ravel()].reshape(np.shape(above)))


def gain_of(sharing: Sharing, seeds: int) -> float:
    """Give the degrees of freedom over n - 1, if all have so many seeds: in the largest group."""
    count = max(map(len, sharing.groups), default=len(sharing.size))
    if seeds < sharing.fewest or count < FEWEST_EFFECTS:
        return 1.0
    return min(100 * count / (37 * count + 63), 2.0)
