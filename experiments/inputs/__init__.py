"""The data of a run: splits of datasets, and batches."""
