"""Designs: from factors to the variants to run, and to the contrasts that answer the question.

Everything an ablation asks is a contrast: a weighted sum of the variants' scores under one seed,
with weights that sum to zero. `clipping - baseline` is one; a main effect of a factorial and an
interaction are others. The statistics see nothing but one such number a seed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import prod
from typing import Literal

from runner.ablation.fractions import GENERATORS, fraction
from runner.errors import UserError
from runner.names import shorten

BASELINE, ALL, OFF = "baseline", "all", "off"
TOGETHER = "all together"

Kind = Literal["effect", "interaction", "share"]

Change = tuple[int, str]
"""The place of a factor, and a level of it that is not the baseline's."""


@dataclass(frozen=True)
class Factor:
    """Something that is varied: a trick, off or on, or a setting and its values.

    Args:
        name: The trick's name, or the setting's key.
        levels: The labels of its levels, the baseline's first: the label of a trick that is on
            is its name, that of a value `key=value`.
    """

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class Contrast:
    """A question: the weighted sum of the variants' scores, under each seed."""

    name: str
    """What it asks about, as the report shows it."""
    kind: Kind
    """`effect` gets a verdict; `interaction` and `share` (Shapley's) are listed below it."""
    factors: tuple[str, ...]
    """The factors that it is about."""
    weights: Mapping[str, float]
    """For each variant that counts its weight; they sum to zero."""
    setting: str = ""
    """Where it is asked, with `ablation.across`: such as `model=resnet8`, which ends its name."""

    @property
    def effect(self) -> str:
        """Its name without the setting: what is asked in several of them."""
        return self.name.removesuffix(f", {self.setting}")


@dataclass(frozen=True)
class Design:
    """The variants of an ablation, and its questions."""

    variants: Mapping[str, tuple[str, ...]]
    """For each variant the level of each factor, in the order of the factors."""
    contrasts: tuple[Contrast, ...]


def design(kind: str, factors: Sequence[Factor]) -> Design:
    """Lay out a design.

    Args:
        kind: One of `DESIGNS`.
        factors: What is varied.

    Raises:
        UserError: If the design is none of ours, has nothing to vary, or cannot take the factors.
    """
    if kind == "calibration":
        return Design({BASELINE: _row(factors)}, ())
    if not factors:
        raise UserError(
            "An ablation must vary something, got no factor. Switch on the tricks to judge, as in "
            "tricks=core or 'tricks=[clipping,flooding]', or give values: "
            "'ablation.factors={optimizer:[sgd,adam]}'."
        )
    if kind in NEED_TWO and len(factors) < 2:
        raise UserError(
            f"ablation={kind} must vary two factors or more, got {factors[0].name} alone. "
            "Take ablation=one_at_a_time."
        )
    if kind in TWO_LEVELS and (many := [f.name for f in factors if len(f.levels) > 2]):
        raise UserError(
            f"ablation={kind} must have two levels a factor, got more of {', '.join(many)}. "
            "Take ablation=one_at_a_time, pairs or factorial, or two of its values."
        )
    laid_out = DESIGNS[kind](factors)
    names = [name for factor in factors for name in factor.levels[1:]]
    reserved = [n for n in names if n in (BASELINE, ALL, OFF) or n.startswith("without-")]
    if reserved or len(set(names)) < len(names):
        raise UserError(
            f"A level must have a name of its own, got {', '.join(reserved or names)}. "
            f"{BASELINE}, {ALL}, {OFF} and without-... are taken; the baseline's level comes first."
        )
    return laid_out


def one_at_a_time(factors: Sequence[Factor]) -> Design:
    """The baseline, and each level of each factor alone: k effects from k + 1 variants."""
    variants, effects = {BASELINE: _row(factors)}, []
    for change in _changes(factors):
        name = _name(factors, _row(factors, change))
        variants[name] = _row(factors, change)
        effects.append(_contrast(factors, {name: 1.0, BASELINE: -1.0}, change))
    return Design(variants, tuple(effects))


def leave_one_out(factors: Sequence[Factor]) -> Design:
    """Everything together, and everything but each one: what each adds to the others."""
    changes = _changes(factors)
    variants, effects = {ALL: _row(factors, *changes)}, []
    for change in changes:
        name = shorten(f"without-{change[1]}")
        variants[name] = _row(factors, *(other for other in changes if other != change))
        effects.append(_contrast(factors, {ALL: 1.0, name: -1.0}, change))
    return Design(variants, tuple(effects))


def both(factors: Sequence[Factor]) -> Design:
    """One at a time and leave one out: each trick alone and in company, and what lies between.

    `in company - alone` is the sum of a factor's interactions with all the others, and the mean
    of the two its Shapley value, exact where no three factors interact (so the shares sum to
    what everything together gains). With two factors, `all` without one is the other alone.
    """
    alone, company = one_at_a_time(factors), leave_one_out(factors)
    same = {levels: name for name, levels in alone.variants.items()}
    rename = {name: same.get(levels, name) for name, levels in company.variants.items()}
    everything = tuple(f.name for f in factors)
    contrasts: list[Contrast] = []
    for one, last in zip(alone.contrasts, company.contrasts, strict=True):
        weights = {rename[name]: weight for name, weight in last.weights.items()}
        lies_between = _add(1.0, weights, -1.0, one.weights)
        shapley = _add(0.5, one.weights, 0.5, weights)
        contrasts += [
            Contrast(f"{one.name}, alone", "effect", one.factors, one.weights),
            Contrast(f"{one.name}, with the others", "effect", one.factors, weights),
            Contrast(f"{one.name} x the others", "interaction", everything, lies_between),
            Contrast(one.name, "share", one.factors, shapley),
        ]
    variants = {**alone.variants, **{rename[name]: v for name, v in company.variants.items()}}
    return Design(variants, tuple(contrasts))


def pairs(factors: Sequence[Factor]) -> Design:
    """The baseline, each level alone, and each two of different factors together."""
    alone = one_at_a_time(factors)
    variants, contrasts = dict(alone.variants), list(alone.contrasts)
    for one, other in _pairs(factors):
        rows = (_row(factors, *each) for each in ((one, other), (one,), (other,)))
        names = [_name(factors, row) for row in rows]
        variants[names[0]] = _row(factors, one, other)
        weights = dict(zip((*names, BASELINE), (1.0, -1.0, -1.0, 1.0), strict=True))
        contrasts.append(_contrast(factors, weights, one, other))
    return Design(variants, tuple(contrasts))


def cumulative(factors: Sequence[Factor]) -> Design:
    """Added one after the other, as given: each step against the last, all against the baseline.

    k + 1 effects from k + 1 variants; what a step adds depends on those that came before it.
    """
    changes = _changes(factors)
    rows = [_row(factors, *changes[:count]) for count in range(len(changes) + 1)]
    names = [_name(factors, row) for row in rows]
    steps = zip(changes, names, names[1:], strict=False)
    effects = [_contrast(factors, {new: 1.0, last: -1.0}, step) for step, last, new in steps]
    everything = tuple(f.name for f in factors)
    whole = Contrast(TOGETHER, "effect", everything, {names[-1]: 1.0, BASELINE: -1.0})
    return Design(dict(zip(names, rows, strict=True)), (*effects, whole))


MOST_VARIANTS = 100_000


def factorial(factors: Sequence[Factor]) -> Design:
    """Every combination: each effect averaged over all that the others do; every pair's interplay.

    With k factors of two levels it takes 2^k variants, and each run counts in every effect.

    Raises:
        UserError: If there are more than anybody could do.
    """
    if (count := prod(len(factor.levels) for factor in factors)) > MOST_VARIANTS:
        raise UserError(
            f"ablation=factorial must have at most {MOST_VARIANTS:,} variants, got {count:,}. "
            "Take fractional, or fewer factors."
        )
    return _averaged(factors, list(product(*(f.levels for f in factors))))


def fractional(factors: Sequence[Factor]) -> Design:
    """Half of a factorial or less, of resolution V: effects and pairs are clear of each other.

    An effect is mixed up with interactions of four factors or more, a pair's with those of three
    or more, which are taken for nothing. For four factors or fewer there is no such fraction.
    """
    count = len(factors)
    if count not in GENERATORS:
        raise UserError(
            f"ablation=fractional must have 5 to {max(GENERATORS)} factors, got {count}. "
            + ("Take ablation=factorial." if count < 5 else "Take ablation=both or pairs.")
        )
    rows = [
        tuple(f.levels[sign > 0] for f, sign in zip(factors, signs, strict=True))
        for signs in fraction(count)
    ]
    return _averaged(factors, rows)


def _averaged(factors: Sequence[Factor], rows: Sequence[tuple[str, ...]]) -> Design:
    """Effects and interactions as differences of means over the rows."""
    names = [_name(factors, row) for row in rows]
    signs = {
        (i, level): [(row[i] == level) - (row[i] == factors[i].levels[0]) for row in rows]
        for i, level in _changes(factors)
    }  # 0 where a row has another level of the factor
    contrasts = [_contrast(factors, _weigh(names, signs[one]), one) for one in signs]
    for one, other in _pairs(factors):
        products = [a * b for a, b in zip(signs[one], signs[other], strict=True)]
        contrasts.append(_contrast(factors, _weigh(names, products, 2.0), one, other))
    return Design(dict(zip(names, rows, strict=True)), tuple(contrasts))


def _weigh(names: Sequence[str], signs: Sequence[int], scale: float = 1.0) -> dict[str, float]:
    """Mean of the rows with 1 less that with -1; twice that is the difference of two effects."""
    counts = {sign: signs.count(sign) for sign in (1, -1)}
    named = zip(names, signs, strict=True)
    return {name: scale * sign / counts[sign] for name, sign in named if sign}


def _changes(factors: Sequence[Factor]) -> list[Change]:
    """Each level but the baseline's."""
    return [(index, level) for index, f in enumerate(factors) for level in f.levels[1:]]


def _pairs(factors: Sequence[Factor]) -> list[tuple[Change, Change]]:
    """Each two of them, of different factors."""
    return [(a, b) for a, b in combinations(_changes(factors), 2) if a[0] != b[0]]


def _row(factors: Sequence[Factor], *changes: Change) -> tuple[str, ...]:
    """The level of each factor: the baseline's, but for the changes."""
    changed = dict(changes)
    return tuple(changed.get(index, f.levels[0]) for index, f in enumerate(factors))


def _name(factors: Sequence[Factor], row: Sequence[str]) -> str:
    """Name a variant by the levels in which it differs from the baseline."""
    changed = [v for f, v in zip(factors, row, strict=True) if v != f.levels[0]]
    return shorten("+".join(changed)) or BASELINE


def _contrast(
    factors: Sequence[Factor], weights: Mapping[str, float], *changes: Change
) -> Contrast:
    """The effect of a change, or the interaction of two."""
    kind: Kind = "effect" if len(changes) == 1 else "interaction"
    about = tuple(factors[index].name for index, _ in changes)
    return Contrast(" x ".join(level for _, level in changes), kind, about, weights)


def _add(
    a: float, one: Mapping[str, float], b: float, other: Mapping[str, float]
) -> dict[str, float]:
    """Add up two weighted contrasts."""
    names = {**one, **other}
    total = {name: a * one.get(name, 0.0) + b * other.get(name, 0.0) for name in names}
    return {name: weight for name, weight in total.items() if weight}


DESIGNS: dict[str, Callable[[Sequence[Factor]], Design]] = {
    "one_at_a_time": one_at_a_time,
    "leave_one_out": leave_one_out,
    "both": both,
    "pairs": pairs,
    "cumulative": cumulative,
    "factorial": factorial,
    "fractional": fractional,
}
"""The designs by their names; `calibration`, the baseline against itself, varies nothing."""

NEED_TWO = ("leave_one_out", "both", "pairs", "cumulative")
TWO_LEVELS = ("leave_one_out", "both", "cumulative", "fractional")
