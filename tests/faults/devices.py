"""Imported before JAX: one device, so that sums have one order."""

import os

os.environ |= {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
