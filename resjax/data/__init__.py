"""Datasets in memory: `load_dataset` reads one, `dataset_info` describes it."""

from resjax.data.arrays.identity import identity
from resjax.data.arrays.loading import dataset_info, list_datasets, load_dataset
from resjax.data.catalog import DatasetInfo
from resjax.data.masks import MaskDataset, load_masks
from resjax.data.masks.catalog import MaskDatasetInfo, list_mask_datasets, mask_dataset_info
from resjax.data.source import Dataset

__all__ = [
    "Dataset",
    "DatasetInfo",
    "MaskDataset",
    "MaskDatasetInfo",
    "dataset_info",
    "identity",
    "list_datasets",
    "list_mask_datasets",
    "load_dataset",
    "load_masks",
    "mask_dataset_info",
]
