"""Datasets held in memory as arrays."""
