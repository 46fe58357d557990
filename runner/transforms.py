"""Transforms of the training images by name: torchvision's, and the user's own.

Torchvision takes two seconds to import, and is imported only where a transform is named.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.allowed import FUNCTIONS, locate
from runner.data.augmentation import Transform, describe, transform
from runner.errors import UserError, cause_of, did_you_mean
from runner.texts import reason, short

WHERE = "data.augment.transforms"
MODULE, *OFFERED = FUNCTIONS["transform"]
OF_OTHERS = ("RandomApply", "RandomChoice", "RandomOrder")
"""Those that hold a list of transforms."""
ENUMS = {"interpolation": "InterpolationMode", "policy": "AutoAugmentPolicy"}
"""Torchvision's types of words, by the parameters that take them."""
TRIES = 32  # draws of each transform before a run: many do something now and then only


class Named(NamedTuple):
    """A transform as a config names it."""

    where: str
    name: str
    keywords: Mapping[str, Any]

    @property
    def target(self) -> str:
        """Its module and name; a name by itself is torchvision's."""
        return self.name if "." in self.name else f"{MODULE}.{self.name}"


def read(entries: Sequence[object], where: str = WHERE) -> list[Named]:
    """Read a list of names and `{NAME: {KEY: VALUE}}`, and the lists within it.

    Raises:
        UserError: If an entry is neither.
    """
    found = []
    for index, entry in enumerate(entries):
        place, node = f"{where}[{index}]", {entry: None} if isinstance(entry, str) else entry
        name, keywords = next(iter(node.items()), ("", 0)) if isinstance(node, dict) else ("", 0)
        keywords = {} if keywords is None else keywords
        if not name or not isinstance(keywords, dict) or len(node) > 1:  # type: ignore[arg-type]
            raise UserError(
                f"{place} must be a transform, as RandomResizedCrop or "
                f"{{RandomRotation: {{degrees: 10}}}}, got {short(entry)}."
            )
        found.append(Named(place, name, keywords))
    return found


def targets(augment: object) -> dict[str, tuple[object, str]]:
    """Give back what `data.augment` names, for `refuse_foreign`; nothing where it is no mapping."""
    entries = augment.get("transforms") if isinstance(augment, dict) else None
    named = _all(read(entries)) if isinstance(entries, list) else ()
    return {each.where: (each.target, "transform") for each in named}


def _all(named: Sequence[Named]) -> Iterator[Named]:
    for each in named:
        yield each
        yield from _all(_within(each) or ())


def _within(named: Named) -> list[Named] | None:
    """The transforms that one holds; None if it holds none."""
    inner = named.keywords.get("transforms")
    if named.name not in OF_OTHERS or inner is None:
        return None
    if not isinstance(inner, list) or not inner:
        raise UserError(
            f"{named.where}.transforms must be a list of one or more, got {short(inner)}."
        )
    return read(inner, f"{named.where}.transforms")


def check_transforms(augment: Mapping[str, Any]) -> None:
    """Check the names and keywords of `data.augment` by the signatures.

    Raises:
        UserError: If a name or a keyword is unknown, or a keyword is missing.
    """
    for each in _all(read(augment.get("transforms", ()))):
        if "." not in each.name and each.name not in OFFERED:
            raise UserError(
                f"{each.where}: {each.name} is none of torchvision's transforms that keep size "
                f"and type of an image.{did_you_mean(each.name, OFFERED)} There are: "
                f"{', '.join(OFFERED)}. One of your own is written package.Class."
            )
        _check_keywords(each, locate(each.target, each.where, "transform"))


def _check_keywords(named: Named, target: Any) -> None:  # noqa: ANN401
    try:
        known = {**signature(target).parameters}
    except ValueError:  # a builtin without a signature
        return
    if not isinstance(target, type):
        known.pop(next(iter(known), ""), None)  # which is the image
    if named.target.startswith(MODULE):
        known.pop("size", None)
    starred = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    names = [name for name, p in known.items() if p.kind not in starred]
    for key in named.keywords:
        if key not in names and not any(p.kind is starred[1] for p in known.values()):
            advice = did_you_mean(key, names) or " Remove it."
            raise UserError(f"{named.where}.{key} is not a parameter of {named.name}.{advice}")
    for name in names:
        if known[name].default is Parameter.empty and name not in named.keywords:
            raise UserError(
                f"{named.where}: {named.name} needs {name}: {{{named.name}: {{{name}: VALUE}}}}."
            )


def build_transforms(entries: Sequence[object], image: Tensor) -> tuple[Transform, ...]:
    """Build the transforms, and try each on an image.

    Args:
        entries: As the config has them, checked.
        image: [C, H, W], of the training images.

    Raises:
        UserError: If one cannot be built, does not take the image, gives back one of another
            shape or type, or draws from other random numbers than torch's.
    """
    built = []
    for each in read(entries):
        made = _build(each, image)
        _try(each, made, image)
        built.append(made)
    return tuple(built)


def _build(named: Named, image: Tensor) -> Transform:
    target = locate(named.target, named.where, "transform")
    keywords = {k: tuple(v) if isinstance(v, list) else v for k, v in named.keywords.items()}
    try:
        if not isinstance(target, type):
            return partial(target, **keywords)
        if named.target.startswith(MODULE):
            keywords |= _given(named, signature(target).parameters, image)
        made: Transform = target(**keywords)
    except UserError:
        raise
    except Exception as error:  # a constructor may raise anything
        raise UserError(f"{named.where}: {named.name}: {reason(error)}.") from error
    return made


def _given(named: Named, known: Mapping[str, object], image: Tensor) -> dict[str, Any]:
    """The keywords of torchvision's transforms that no YAML can say: sizes, enums, transforms."""
    from torchvision.transforms import v2

    words = {k: v for k, v in named.keywords.items() if k in ENUMS and isinstance(v, str)}
    given = {key: getattr(v2, ENUMS[key])(word) for key, word in words.items()}
    if "size" in known:
        given["size"] = tuple(image.shape[1:])
    if (inner := _within(named)) is not None:
        given["transforms"] = [_build(each, image) for each in inner]
    return given


def _try(named: Named, made: Callable[[Tensor], Tensor], image: Tensor) -> None:
    what = describe(image)
    for seed in range(TRIES):
        try:
            # a copy each time: a transform may change its image in place
            one, same = (transform(image[None].clone(), (made,), [seed]) for _ in range(2))
        except Exception as error:  # a transform may raise anything
            if isinstance(error, UserError):
                raise UserError(f"{named.where}: {error}") from error
            if cause_of(error) == "machine":
                raise
            raise UserError(
                f"{named.where}: {named.name} does not take the images, {what}: "
                f"{reason(error).rstrip('.!')}. Remove it, or choose another."
            ) from error
        if not torch.equal(one, same):
            raise UserError(
                f"{named.where}: {named.name} gives other images for the same seed. "
                "It may draw from torch's own random numbers alone, such as torch.rand(1)."
            )
