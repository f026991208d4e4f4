"""Datasets in memory: `load_dataset` and what is known about each one."""

from resjax.data.catalog import DatasetInfo, dataset_info, list_datasets
from resjax.data.loading import load_dataset
from resjax.data.mask_catalog import MaskDatasetInfo, list_mask_datasets, mask_dataset_info
from resjax.data.masks import MaskDataset, load_masks
from resjax.data.source import Dataset

__all__ = [
    "Dataset",
    "DatasetInfo",
    "MaskDataset",
    "MaskDatasetInfo",
    "dataset_info",
    "list_datasets",
    "list_mask_datasets",
    "load_dataset",
    "load_masks",
    "mask_dataset_info",
]
