"""Datasets for segmentation: images with a mask of classes."""

from resjax.data.masks.catalog import MaskDatasetInfo, list_mask_datasets, mask_dataset_info
from resjax.data.masks.loading import MaskDataset, load_masks, resized
from resjax.data.masks.reading import read_image

__all__ = [
    "MaskDataset",
    "MaskDatasetInfo",
    "list_mask_datasets",
    "load_masks",
    "mask_dataset_info",
    "read_image",
    "resized",
]
