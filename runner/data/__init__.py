"""Data sets, held in memory as uint8 tensors, and batches of them."""

from runner.data.arrays import npz
from runner.data.augmentation import Augmentation
from runner.data.batches import Batches
from runner.data.class_folders import image_folder
from runner.data.sets import digits, torchvision_set
from runner.data.source import Source, Split, check_source
from runner.data.split import DataSet, split_source

__all__ = [
    "Augmentation",
    "Batches",
    "DataSet",
    "Source",
    "Split",
    "check_source",
    "digits",
    "image_folder",
    "npz",
    "split_source",
    "torchvision_set",
]
