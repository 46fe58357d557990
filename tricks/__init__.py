"""The tricks, usable in anybody's loop: torch alone underneath."""

from tricks.centralization import Centralization, centralize_
from tricks.clipping import Clipping, clip_gradients_
from tricks.flooding import Flooding, flood
from tricks.label_smoothing import LabelSmoothing, smooth_labels
from tricks.trick import Batch, Chain, Trick, derive_seed, in_order
from tricks.warm_restarts import WarmRestarts, warm_restarts

__all__ = [
    "Batch",
    "Centralization",
    "Chain",
    "Clipping",
    "Flooding",
    "LabelSmoothing",
    "Trick",
    "WarmRestarts",
    "centralize_",
    "clip_gradients_",
    "derive_seed",
    "flood",
    "in_order",
    "smooth_labels",
    "warm_restarts",
]
