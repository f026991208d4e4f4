"""Datasets in memory: `load_dataset` and what is known about each one."""

from resjax.data.catalog import DatasetInfo, dataset_info, list_datasets
from resjax.data.loading import load_dataset
from resjax.data.source import Dataset

__all__ = ["Dataset", "DatasetInfo", "dataset_info", "list_datasets", "load_dataset"]
