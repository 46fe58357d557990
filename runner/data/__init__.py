"""Data sets, held in memory as uint8 tensors, and batches of them."""

from runner.data.arrays import npz as npz
from runner.data.augmentation import Augmentation as Augmentation
from runner.data.batches import Batches as Batches
from runner.data.batches import Inputs as Inputs
from runner.data.batches import normalization as normalization
from runner.data.batches import updates_per_epoch as updates_per_epoch
from runner.data.class_folders import image_folder as image_folder
from runner.data.image_table import image_table as image_table
from runner.data.sets import digits as digits
from runner.data.sets import torchvision_set as torchvision_set
from runner.data.source import Source as Source
from runner.data.source import Split as Split
from runner.data.source import check_source as check_source
from runner.data.split import DataSet as DataSet
from runner.data.split import split_source as split_source
