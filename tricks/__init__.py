"""The tricks, usable in anybody's loop: torch alone underneath."""

from tricks.alternating_flip import AlternatingFlip, flip_alternately
from tricks.anti_aliasing import AntiAliasing, anti_alias
from tricks.averaging import average_, recompute_batch_norm_, swap_state
from tricks.bias_rate import BiasRate, scale_bias_rates_
from tricks.binary_cross_entropy import BinaryCrossEntropy, binary_cross_entropy
from tricks.blur_pool import BlurPool2d
from tricks.centralization import Centralization, centralize_
from tricks.chain import Chain, in_order, overrides
from tricks.clip_gradients import clip_gradients_
from tricks.clipping import Clipping
from tricks.cutmix import Cutmix, cutmix
from tricks.dirac_init import DiracInit, dirac_init_
from tricks.downsampling import Place, find_places
from tricks.ema import Ema, exponential_average_
from tricks.flooding import Flooding, flood
from tricks.ghost_batch_norm import GhostBatchNorm, ghost_batch_norm
from tricks.gradients import check_gradients_
from tricks.label_smoothing import LabelSmoothing, smooth_labels
from tricks.layers import find_classifier
from tricks.look_ahead import LookAhead, look_ahead_
from tricks.mixup import Mixup, mixup
from tricks.muon import Muon, with_muon
from tricks.muon_step import orthogonalize
from tricks.no_decay import NoDecay, exempt_from_decay_, norms_and_biases
from tricks.progressive_resizing import ProgressiveResizing, resize_progressively
from tricks.rand_augment import RandAugment, rand_augment
from tricks.random_erasing import RandomErasing, random_erase
from tricks.repeated_augmentation import RepeatedAugmentation, repeat_samples
from tricks.sam import Sam, sharpness_aware
from tricks.schedule_free import ScheduleFree, at_averages, schedule_free
from tricks.selective_backward import SelectiveBackward, select_hardest
from tricks.squeeze_excite import SqueezeExcite, squeeze_excite
from tricks.stochastic_depth import StochasticDepth, stochastic_depth
from tricks.swa import Swa, equal_average_
from tricks.test_time_views import TestTimeViews, Views
from tricks.trapezoid import Trapezoid, trapezoid
from tricks.trick import Batch, Time, Trick, derive_seed
from tricks.trivial_augment import TrivialAugment, trivial_augment
from tricks.warm_restarts import WarmRestarts, scale_learning_rates_, warm_restarts
from tricks.warm_up import WarmUp, warm_up
from tricks.weight_standardization import WeightStandardization, standardize, standardize_weights
from tricks.whitening import Whitening, whiten_
from tricks.zero_init import ZeroInit, zero_init_

__all__ = [
    "AlternatingFlip",
    "AntiAliasing",
    "Batch",
    "BiasRate",
    "BinaryCrossEntropy",
    "BlurPool2d",
    "Centralization",
    "Chain",
    "Clipping",
    "Cutmix",
    "DiracInit",
    "Ema",
    "Flooding",
    "GhostBatchNorm",
    "LabelSmoothing",
    "LookAhead",
    "Mixup",
    "Muon",
    "NoDecay",
    "Place",
    "ProgressiveResizing",
    "RandAugment",
    "RandomErasing",
    "RepeatedAugmentation",
    "Sam",
    "ScheduleFree",
    "SelectiveBackward",
    "SqueezeExcite",
    "StochasticDepth",
    "Swa",
    "TestTimeViews",
    "Time",
    "Trapezoid",
    "Trick",
    "TrivialAugment",
    "Views",
    "WarmRestarts",
    "WarmUp",
    "WeightStandardization",
    "Whitening",
    "ZeroInit",
    "anti_alias",
    "at_averages",
    "average_",
    "binary_cross_entropy",
    "centralize_",
    "check_gradients_",
    "clip_gradients_",
    "cutmix",
    "derive_seed",
    "dirac_init_",
    "equal_average_",
    "exempt_from_decay_",
    "exponential_average_",
    "find_classifier",
    "find_places",
    "flip_alternately",
    "flood",
    "ghost_batch_norm",
    "in_order",
    "look_ahead_",
    "mixup",
    "norms_and_biases",
    "orthogonalize",
    "overrides",
    "rand_augment",
    "random_erase",
    "recompute_batch_norm_",
    "repeat_samples",
    "resize_progressively",
    "scale_bias_rates_",
    "scale_learning_rates_",
    "schedule_free",
    "select_hardest",
    "sharpness_aware",
    "smooth_labels",
    "squeeze_excite",
    "standardize",
    "standardize_weights",
    "stochastic_depth",
    "swap_state",
    "trapezoid",
    "trivial_augment",
    "warm_restarts",
    "warm_up",
    "whiten_",
    "with_muon",
    "zero_init_",
]
