"""Encoded images that are decoded during training: sources, views, and `ImageStream`."""

from resjax.data.images.catalog import image_dataset_info, list_image_datasets, open_evaluation, open_images
from resjax.data.images.encoded import BrokenImage, EncodedImage, require_decoders
from resjax.data.images.folder import FolderImages, evaluation_folder, open_folder
from resjax.data.images.orientation import ExifOrientation, noted_orientation, upright
from resjax.data.images.records import RecordImages
from resjax.data.images.source import EvaluationImages, ImageDataset, ImageSource
from resjax.data.images.stream import HostBatch, ImageStream, StreamConfig, StreamError, default_workers
from resjax.data.images.views import (
    CentralPart,
    CentreCrop,
    FiveCrops,
    RandomResizedCrop,
    RandomScaleCrop,
    ThreeSquares,
    View,
)

__all__ = [
    "BrokenImage",
    "CentralPart",
    "CentreCrop",
    "EncodedImage",
    "EvaluationImages",
    "ExifOrientation",
    "FiveCrops",
    "FolderImages",
    "HostBatch",
    "ImageDataset",
    "ImageSource",
    "ImageStream",
    "RandomResizedCrop",
    "RandomScaleCrop",
    "RecordImages",
    "StreamConfig",
    "StreamError",
    "ThreeSquares",
    "View",
    "default_workers",
    "evaluation_folder",
    "image_dataset_info",
    "list_image_datasets",
    "noted_orientation",
    "open_evaluation",
    "open_folder",
    "open_images",
    "require_decoders",
    "upright",
]
