"""Encoded images, decoded while training goes on: sources, views, and `ImageStream`."""

from resjax.data.images.catalog import image_dataset_info, list_image_datasets, open_images
from resjax.data.images.encoded import BrokenImage, EncodedImage, require_decoders
from resjax.data.images.folder import FolderImages, index_folder, open_folder
from resjax.data.images.records import RecordImages
from resjax.data.images.source import ImageDataset, ImageSource
from resjax.data.images.stream import HostBatch, ImageStream, StreamConfig, StreamError, default_workers
from resjax.data.images.views import (
    CentreCrop,
    FiveCrops,
    RandomResizedCrop,
    RandomScaleCrop,
    ThreeSquares,
    View,
)

__all__ = [
    "BrokenImage",
    "CentreCrop",
    "EncodedImage",
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
    "image_dataset_info",
    "index_folder",
    "list_image_datasets",
    "open_folder",
    "open_images",
    "require_decoders",
]
