"""Which images are the test split, where no folder or column says so: a share, or a fold."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from runner.data.cache import Origin
from runner.data.decode import Reading
from runner.data.listing import Listing
from runner.data.source import Source, Split
from runner.data.split import choose_groups, choose_stratified
from runner.errors import UserError
from runner.texts import listed
from tricks import derive_seed

Share = Annotated[float, Field(gt=0, lt=1)]
Folds = Annotated[int, Field(ge=2)]
Fold = Annotated[int, Field(ge=0)]
SplitSeed = Annotated[int, Field(ge=0, lt=2**63)]

USUAL_FOLDS = 5


@dataclass(frozen=True)
class HoldOut:
    """What is held out for testing: a share of the images, one of several folds, or nothing.

    Raises:
        UserError: If the settings contradict each other.
    """

    test: float | None = None
    folds: int | None = None
    """None: five, where a fold is given."""
    fold: int | None = None
    """Which of the folds is the test split, from 0."""
    seed: int = 0
    """Of the choice."""

    def __post_init__(self) -> None:
        if self.test is not None and not self.fold is self.folds is None:
            key = "fold" if self.folds is None else "folds"
            raise UserError(
                f"data.test={self.test} and data.{key}={getattr(self, key)} both choose the test "
                "images. Give one of them."
            )
        if self.folds is not None and self.fold is None:
            raise UserError(
                f"data.folds={self.folds} needs data.fold, which of them is the test split, from 0 "
                f"to {self.folds - 1}. One run for each: -m data.folds={self.folds} "
                f"'data.fold=range({self.folds})'."
            )
        if self.fold is not None and self.fold >= self.count:
            raise UserError(
                f"data.fold must be from 0 to {self.count - 1}, as there are {self.count} folds, "
                f"got {self.fold}. Lower it, or set data.folds={self.fold + 1}."
            )

    @property
    def count(self) -> int:
        """The number of folds."""
        return USUAL_FOLDS if self.folds is None else self.folds

    @property
    def setting(self) -> str:
        """What was set, as it is typed; "" if nothing is held out."""
        given = {"test": self.test, "folds": self.folds, "fold": self.fold}
        return " ".join(f"data.{key}={value}" for key, value in given.items() if value is not None)

    def choose(
        self, labels: Tensor, classes: tuple[str, ...], groups: Tensor | None = None
    ) -> Tensor:
        """Choose the test images of those that have these labels.

        A share is nearly the same of each class. The folds differ by at most one image, in all and
        in each class. Groups are taken whole, so that both are then as near as that allows.

        Args:
            labels: [N] class ids.
            classes: Their names.
            groups: [N] ids from 0 of what must not be divided; None: every image by itself.

        Returns:
            A mask [N].

        Raises:
            UserError: If the share takes no image, or cannot leave one of each class; or a class
                has fewer images, or groups, than there are folds.
        """
        seed = derive_seed(self.seed, "test")
        if self.fold is not None:
            self._refuse_small(labels, classes, groups)
            which = (
                deal_out(labels, self.count, seed)
                if groups is None
                else _deal_out_groups(labels, groups, self.count, seed)
            )
            chosen = which == self.fold
            self._refuse_whole(labels, chosen, classes)
            return chosen
        assert self.test is not None
        count = round(self.test * len(labels))
        if not 1 <= count <= len(labels) - len(classes):
            raise UserError(
                f"data.test={self.test} takes {count} of {len(labels):,} images. It must take at "
                f"least one, and leave one of each of the {len(classes)} classes."
            )
        if groups is None:
            return choose_stratified(labels, count, seed)
        return choose_groups(labels, groups, count, seed, f"data.test={self.test}")

    def _refuse_small(
        self, labels: Tensor, classes: tuple[str, ...], groups: Tensor | None
    ) -> None:
        """Refuse classes that cannot be in every fold."""
        kind = "images" if groups is None else "groups"
        parts = labels if groups is None else torch.stack([labels, groups]).unique(dim=1)[0]
        sizes = parts.bincount(minlength=len(classes)).tolist()
        small = [f"{c} ({n})" for c, n in zip(classes, sizes, strict=True) if n < self.count]
        if small:
            most = min(sizes)
            fewer = f"Set data.folds={most}, add" if most > 1 else "Add"
            raise UserError(
                f"data.folds: folds of unequal classes: fewer {kind} than the {self.count} folds "
                f"in {listed(small, 5)}. {fewer} {kind}, or remove the class."
            )

    def _refuse_whole(self, labels: Tensor, chosen: Tensor, classes: tuple[str, ...]) -> None:
        """Refuse a fold of groups that leaves a class without training images, or is empty."""
        left = labels[~chosen].bincount(minlength=len(classes)).tolist()
        gone = [name for name, n in zip(classes, left, strict=True) if n == 0]
        if gone or not chosen.any():
            what = f"all images of {listed(gone, 5)}" if gone else "no image"
            raise UserError(
                f"data.fold={self.fold} has {what}, as its groups are so unequal. "
                "Set another data.split_seed, or fewer data.folds."
            )


def settle(listing: Listing, hold_out: HoldOut) -> Listing:
    """Return a listing with what is held out of its training images as the test split."""
    if not hold_out.setting:
        return listing
    labels = torch.tensor([listing.files[n].label for n in listing.train])
    groups = None if listing.groups is None else torch.tensor(listing.groups)[[*listing.train]]
    chosen = hold_out.choose(labels, listing.classes, groups).tolist()
    train = [n for n, out in zip(listing.train, chosen, strict=True) if not out]
    test = [n for n, out in zip(listing.train, chosen, strict=True) if out]
    return listing._replace(train=train, test=test)


def make_source(
    listing: Listing, images: Tensor, reading: Reading, origin: Origin | None
) -> Source:
    """Return the splits of a settled listing.

    Args:
        listing: The files.
        images: [M, C, H, W], theirs.
        reading: How they were read.
        origin: The file that they are mapped from, as a split has it.
    """
    labels = torch.tensor([file.label for file in listing.files])
    train, test, validation = (
        torch.tensor(rows, dtype=torch.int64)
        for rows in (listing.train, listing.test, listing.validation)
    )
    return Source(
        Split(images, labels[train], train, origin),
        Split(images, labels[test], test, origin),
        listing.classes,
        Split(images, labels[validation], validation, origin) if len(validation) else None,
        reading,
        groups=None if listing.groups is None else torch.tensor(listing.groups)[train],
        files=tuple(file.path for file in listing.files),
        notes=listing.notes,
    )


def deal_out(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Give each sample a fold: the samples of the classes, one after the other, dealt out in turn.

    Returns:
        [N] from 0. The folds' sizes differ by at most one, in all and in each class.

    >>> deal_out(torch.tensor([0, 0, 0, 1, 1, 1]), 3, seed=0).bincount()
    tensor([2, 2, 2])
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    found = torch.empty_like(labels)
    found[by_class] = torch.arange(len(labels)) % folds
    return found


def _deal_out_groups(labels: Tensor, groups: Tensor, folds: int, seed: int) -> Tensor:
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second to import

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    found = torch.empty_like(labels)
    y, of = labels.numpy(), groups.numpy()
    for fold, (_, test) in enumerate(splitter.split(y, y, of)):
        found[torch.from_numpy(test)] = fold
    return found
