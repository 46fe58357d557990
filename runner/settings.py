"""The settings of a run, with their types and ranges, and which of them do not go together."""

import dataclasses
import math
from typing import Annotated, Any, Literal

from pydantic import Field, with_config

from runner.errors import UserError
from runner.schedulers import total_updates
from runner.store.identity import NOT_IN_CONFIG_HASH
from runner.validation import STRICT

Natural = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Node = dict[str, Any]

CROSS_ENTROPY = {"_target_": "runner.losses.cross_entropy"}


@with_config(STRICT)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A whole run, checked: the keys of conf/config.yaml, which documents them."""

    name: str
    variant: str
    seed: Natural
    epochs: Annotated[float, Field(gt=0, le=100_000)]  # a whole number is an int
    batch_size: Positive
    micro_batch_size: Positive | None
    precision: Literal["float32", "bfloat16", "float16"]
    allow_emulated: bool
    memory_format: Literal["auto", "contiguous", "channels_last"]
    compile: bool | Literal["cuda_graphs"]
    device: str
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]  # OpenMP aborts at too many
    not_finite: Literal["error", "skip"]
    evaluate_every: Positive
    data: Node
    model: Node
    optimizer: Node
    scheduler: Node
    tricks: Node
    again: bool = False
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 300.0
    resume: Literal["exact", "anywhere"] = "exact"
    last_evaluations: Annotated[int, Field(ge=2)] | None = None
    loss: Node = dataclasses.field(default_factory=lambda: dict(CROSS_ENTROPY))
    drop_last: bool = False
    tf32: Literal["none", "convolutions", "all"] = "convolutions"
    sync_batch_norm: bool = False
    metrics: list[str] = dataclasses.field(default_factory=list)
    result: Literal["last", "best"] = "last"
    patience: Positive | None = None
    keep: Literal["last", "best", "none"] = "last"

    def updates(self, updates_per_epoch: int) -> int:
        """Count the updates of the whole training."""
        return total_updates(self.epochs, updates_per_epoch)

    def to_dict(self) -> Node:
        """Give back the plain config, as config.yaml holds it, with `again` reset to false."""
        whole = {**dataclasses.asdict(self), "again": False}
        return {key: value for key, value in whole.items() if key not in NOT_IN_CONFIG_HASH}

    @property
    def chooses(self) -> str | None:
        """The setting that needs a validation split to choose by; None if there is none."""
        if self.result == "best":
            return "result=best"
        if self.patience is not None:
            return f"patience={self.patience}"
        return "keep=best" if self.keep == "best" else None


def refuse_contradictions(settings: Settings) -> None:
    """Refuse settings that do not go together.

    Raises:
        UserError: If there are such.
    """
    if (settings.last_evaluations or 0) > math.ceil(settings.epochs):
        raise UserError(
            f"last_evaluations must be at most the epochs, {settings.epochs:g}, got "
            f"{settings.last_evaluations}. Lower it, or train longer."
        )
    if settings.last_evaluations and (settings.result == "best" or settings.patience):
        raise UserError(
            f"last_evaluations={settings.last_evaluations} evaluates the test set after the last "
            f"epochs; {settings.chooses} chooses another by the validation split, and the test set "
            "is used once. Drop one of them."
        )
    if settings.compile == "cuda_graphs" and settings.micro_batch_size is not None:
        raise UserError(
            "compile=cuda_graphs cannot add up gradients: each pass overwrites those of the last "
            f"one. Drop micro_batch_size={settings.micro_batch_size}, or set compile=true."
        )
    if settings.compile and settings.sync_batch_norm:
        raise UserError(
            "sync_batch_norm=true and compile do not go together: the statistics of other ranks "
            "are no part of a compiled network. Set compile=false."
        )
    on = [n for n in settings.tricks.values() if isinstance(n, dict) and n.get("enabled")]
    if settings.sync_batch_norm and any(n.get("_target_") == "tricks.GhostBatchNorm" for n in on):
        raise UserError(
            "sync_batch_norm=true and ghost batch norm do not go together: one normalises "
            "an update by its whole, the other by parts of it. Drop one of them."
        )
    if settings.tf32 != "convolutions" and settings.precision != "float32":
        raise UserError(
            f"tf32={settings.tf32} is about float32 on a card, and precision={settings.precision}. "
            "Drop one of them."
        )
    if settings.loss.get("class_weights") == settings.data.get("sampling") == "balanced":
        raise UserError(
            "loss.class_weights=balanced and data.sampling=balanced both make up for unequal "
            "classes. Set one of them."
        )
    if settings.chooses and settings.data.get("validation") == 0:
        raise UserError(
            f"{settings.chooses} chooses by the validation split, but data.validation=0. Set "
            "data.validation=0.1: to choose by the test set would spoil what it says."
        )
