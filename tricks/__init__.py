"""The tricks, usable in anybody's loop: torch alone underneath."""

from tricks.alternating_flip import AlternatingFlip, flip_alternately
from tricks.anti_aliasing import AntiAliasing, anti_alias
from tricks.blur_pool import BlurPool2d
from tricks.centralization import Centralization, centralize_
from tricks.chain import Chain, in_order, overrides
from tricks.clip_gradients import clip_gradients_
from tricks.clipping import Clipping
from tricks.downsampling import Place, find_places
from tricks.flooding import Flooding, flood
from tricks.gradients import check_gradients_
from tricks.label_smoothing import LabelSmoothing, smooth_labels
from tricks.layers import find_classifier
from tricks.progressive_resizing import ProgressiveResizing, resize_progressively
from tricks.rand_augment import RandAugment, rand_augment
from tricks.random_erasing import RandomErasing, random_erase
from tricks.repeated_augmentation import RepeatedAugmentation, repeat_samples
from tricks.trick import Batch, Time, Trick, derive_seed
from tricks.trivial_augment import TrivialAugment, trivial_augment
from tricks.warm_restarts import WarmRestarts, scale_learning_rates_, warm_restarts

__all__ = [
    "AlternatingFlip",
    "AntiAliasing",
    "Batch",
    "BlurPool2d",
    "Centralization",
    "Chain",
    "Clipping",
    "Flooding",
    "LabelSmoothing",
    "Place",
    "ProgressiveResizing",
    "RandAugment",
    "RandomErasing",
    "RepeatedAugmentation",
    "Time",
    "Trick",
    "TrivialAugment",
    "WarmRestarts",
    "anti_alias",
    "centralize_",
    "check_gradients_",
    "clip_gradients_",
    "derive_seed",
    "find_classifier",
    "find_places",
    "flip_alternately",
    "flood",
    "in_order",
    "overrides",
    "rand_augment",
    "random_erase",
    "repeat_samples",
    "resize_progressively",
    "scale_learning_rates_",
    "smooth_labels",
    "trivial_augment",
    "warm_restarts",
]
