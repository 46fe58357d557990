"""The tricks, usable in anybody's loop: torch alone underneath."""

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
from tricks.squeeze_excite import SqueezeExcite, squeeze_excite
from tricks.stochastic_depth import StochasticDepth, stochastic_depth
from tricks.trick import Batch, Time, Trick, derive_seed
from tricks.warm_restarts import WarmRestarts, scale_learning_rates_, warm_restarts
from tricks.zero_init import ZeroInit, zero_init_

__all__ = [
    "AntiAliasing",
    "Batch",
    "BlurPool2d",
    "Centralization",
    "Chain",
    "Clipping",
    "Flooding",
    "LabelSmoothing",
    "Place",
    "SqueezeExcite",
    "StochasticDepth",
    "Time",
    "Trick",
    "WarmRestarts",
    "ZeroInit",
    "anti_alias",
    "centralize_",
    "check_gradients_",
    "clip_gradients_",
    "derive_seed",
    "find_classifier",
    "find_places",
    "flood",
    "in_order",
    "overrides",
    "scale_learning_rates_",
    "smooth_labels",
    "squeeze_excite",
    "stochastic_depth",
    "warm_restarts",
    "zero_init_",
]
