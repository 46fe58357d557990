"""The tricks, usable in anybody's loop: torch alone underneath."""

from tricks.anti_aliasing import AntiAliasing, anti_alias
from tricks.binary_cross_entropy import BinaryCrossEntropy, binary_cross_entropy
from tricks.blur_pool import BlurPool2d
from tricks.centralization import Centralization, centralize_
from tricks.chain import Chain, in_order, overrides
from tricks.clip_gradients import clip_gradients_
from tricks.clipping import Clipping
from tricks.cutmix import Cutmix, cutmix
from tricks.downsampling import Place, find_places
from tricks.flooding import Flooding, flood
from tricks.gradients import check_gradients_
from tricks.label_smoothing import LabelSmoothing, smooth_labels
from tricks.layers import find_classifier
from tricks.mixup import Mixup, mixup
from tricks.sam import Sam, sharpness_aware
from tricks.selective_backward import SelectiveBackward, select_hardest
from tricks.trick import Batch, Time, Trick, derive_seed
from tricks.warm_restarts import WarmRestarts, scale_learning_rates_, warm_restarts

__all__ = [
    "AntiAliasing",
    "Batch",
    "BinaryCrossEntropy",
    "BlurPool2d",
    "Centralization",
    "Chain",
    "Clipping",
    "Cutmix",
    "Flooding",
    "LabelSmoothing",
    "Mixup",
    "Place",
    "Sam",
    "SelectiveBackward",
    "Time",
    "Trick",
    "WarmRestarts",
    "anti_alias",
    "binary_cross_entropy",
    "centralize_",
    "check_gradients_",
    "clip_gradients_",
    "cutmix",
    "derive_seed",
    "find_classifier",
    "find_places",
    "flood",
    "in_order",
    "mixup",
    "overrides",
    "scale_learning_rates_",
    "select_hardest",
    "sharpness_aware",
    "smooth_labels",
    "warm_restarts",
]
