"""Networks of the residual family and their names."""

from resjax.models.cost import multiply_adds, parameter_count
from resjax.models.densenet import DenseNet
from resjax.models.highway import Highway
from resjax.models.network import Network, first_kernel
from resjax.models.preact_resnet import PreActResNet
from resjax.models.published import Facts, Paper, PublishedResult
from resjax.models.registry import ModelInfo, create_model, list_models, model_info
from resjax.models.resnet import ResNet
from resjax.models.resnext import ResNeXt, convert_form
from resjax.models.segmentation import SegmentationNetwork, create_segmentation_model, load_trunk, upsample
from resjax.models.speed_resnet import SpeedResNet
from resjax.models.stacking import restack, stacked_stages, unrolled
from resjax.models.vgg import VGG
from resjax.models.wide_resnet import WideResNet
from resjax.models.wider_resnet import WiderResNet

__all__ = [
    "VGG",
    "DenseNet",
    "Facts",
    "Highway",
    "ModelInfo",
    "Network",
    "Paper",
    "PreActResNet",
    "PublishedResult",
    "ResNeXt",
    "ResNet",
    "SegmentationNetwork",
    "SpeedResNet",
    "WideResNet",
    "WiderResNet",
    "convert_form",
    "create_model",
    "create_segmentation_model",
    "first_kernel",
    "list_models",
    "load_trunk",
    "model_info",
    "multiply_adds",
    "parameter_count",
    "restack",
    "stacked_stages",
    "unrolled",
    "upsample",
]
