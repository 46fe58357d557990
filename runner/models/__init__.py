"""Networks by name, and the weights that they begin with."""

from runner.models.airbench import airbench as airbench
from runner.models.networks import cifar_resnet as cifar_resnet
from runner.models.networks import resnet18_cifar as resnet18_cifar
from runner.models.networks import timm_model as timm_model
from runner.models.networks import torchvision_model as torchvision_model
