"""Every network of this package, and what else it offers: `resjax.models` loads it when it is first asked for."""

# ruff: noqa: F401 (names of `resjax.models`)

import importlib
import pkgutil

import resjax.models
from resjax.models.cost import multiply_adds, parameter_count, weighted_layers
from resjax.models.densenet import DenseNet
from resjax.models.highway import Highway
from resjax.models.network import Network
from resjax.models.parts import Part, outline
from resjax.models.preact_resnet import PreActResNet
from resjax.models.published import Paper, PublishedFacts, PublishedResult
from resjax.models.registry import ModelInfo, create_model, list_models, model_info, register_model
from resjax.models.resnet import ResNet
from resjax.models.resnext import ResNeXt, convert_form
from resjax.models.segmentation import SegmentationNetwork, create_segmentation_model, load_trunk, upsample
from resjax.models.speed_resnet import SpeedResNet
from resjax.models.stacking import restack, stacked_stages, unrolled
from resjax.models.vgg import VGG
from resjax.models.wide_resnet import WideResNet
from resjax.models.wider_resnet import WiderResNet

# Families register themselves: a new file here needs no line elsewhere.
for _file in pkgutil.iter_modules(resjax.models.__path__, "resjax.models."):
    importlib.import_module(_file.name)
